"""The simulated board: one part for each configured sensor, all in one room."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from drivers.base import Options
from drivers.bus import ByteStream, Clock, DhtSensor, Radio, SerialSettings, SystemTime
from drivers.chip_options import I2CChipOptions, SPIChipOptions
from drivers.dht_edges import EdgesDht
from drivers.errors import SensorError, SensorNotFound
from drivers.owned_bus import I2CBus, SPIBus
from drivers.sim.chips import CHIPS_BESIDE, simulated_i2c_chip, simulated_spi_chip
from drivers.sim.dht_line import DhtLine, LibraryDht
from drivers.sim.i2c import SimulatedChip, SimulatedI2C, SimulatedMux
from drivers.sim.kernel_tree import Content, KernelTree, SimulatedDevice, serve, simulated_device
from drivers.sim.one_wire import OneWireTree
from drivers.sim.room import Air, Climate, Room
from drivers.sim.spi import SimulatedSPI
from drivers.sim.thermometers import SimulatedAds1115

if TYPE_CHECKING:
    from drivers.base import Simulate
    from drivers.sim.faults import Fault, FaultPlan
    from drivers.sim.radio import SimulatedRadio

__all__ = ["SimulatedBoard"]

_Shared = TypeVar("_Shared")

_ONE_WIRE = "/sys/bus/w1/devices"
_BLUETOOTH = "/sys/class/bluetooth"


_ADCS = {"mcp3004": (4, 10), "mcp3008": (8, 10), "mcp3204": (4, 12), "mcp3208": (8, 12)}
"""Driver -> inputs and bits of its converter."""


class _Part(msgspec.Struct, frozen=True):
    """A sensor to wire up; `air` returns the air around it, `plan` has its faults, if any."""

    driver: str
    options: Options
    given: dict[str, Any]
    air: Callable[[], Air]
    plan: FaultPlan | None


def _wire_input(chip: SimulatedChip, part: _Part) -> None:
    """Put the analog sensor of `part` on its input, if the chip is a converter with a sensor."""
    if isinstance(chip, SimulatedAds1115) and part.given["sensor"] != "voltage":
        from drivers.sim.adc import analog_volts

        chip.volts[part.given["input"]] = lambda: analog_volts(part.given, part.air().temperature)


def _remove(folder: Path) -> None:
    """Remove a board's files, even if a bus worker still writes some as the program ends."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.01)


def _with_faults(make: Callable[[], SimulatedChip], part: _Part) -> SimulatedChip:
    if part.plan is None:
        return make()
    from drivers.sim.broken import FaultyChip

    return FaultyChip(make, part.plan)


class SimulatedBoard:
    """`drivers.bus.Board` without hardware; the attributes are the parts, for faults in tests."""

    def __init__(
        self, clock: Clock | None = None, *, climate: Climate | None = None, seed: int = 1
    ) -> None:
        # Blinka must be imported for its constants; keep it from looking for a board.
        os.environ.setdefault("BLINKA_OS_AGNOSTIC", "1")
        self.clock: Clock = SystemTime() if clock is None else clock
        self.room = Room(self.clock, climate, seed=seed)
        self.dht_lines: dict[int, DhtLine] = {}
        self.i2c_ports: dict[int, SimulatedI2C] = {}
        self.analog_chips: dict[int, Any] = {}
        """GPIO of the select line -> the converter behind it."""
        self.files: dict[str, Content] = {}
        """Kernel path -> content of that file."""
        self.spi_ports: dict[tuple[int, int], SimulatedSPI] = {}
        self.radios: dict[str, SimulatedRadio] = {}
        self.streams: dict[str, ByteStream] = {}
        """Serial port, or "host:port" -> what is at the other end."""
        self._buses: dict[int, I2CBus] = {}
        self._spi: dict[tuple[int, int], SPIBus] = {}
        self._shared: dict[str, Any] = {}
        self._factory: Any = None
        self._root = Path(tempfile.mkdtemp(prefix="sensor-node-sim-"))
        weakref.finalize(self, _remove, self._root)
        self.one_wire = OneWireTree(self._inside(_ONE_WIRE), self.clock)
        self.kernel = KernelTree(self._root)

    def _inside(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")

    def attach(
        self,
        driver: str,
        options: Options,
        faults: Sequence[Fault] = (),
        *,
        simulate: Simulate | None = None,
    ) -> None:
        """Wire up the hardware that the driver `driver` expects.

        `simulate` does it for a driver that this board does not know (`DriverInfo.simulate`).
        `faults` must be among the sensor's `drivers.sim.faults.fault_kinds`.
        """
        spot = f"{driver} {options.where()}"

        def air() -> Air:
            return self.room.at(spot)

        given = {name: getattr(options, name) for name in options.__struct_fields__}
        part = _Part(driver, options, given, air, None)
        if faults:
            from drivers.sim.faults import FaultPlan

            plan = FaultPlan(faults, self.room, self.clock, spot)
            part = msgspec.structs.replace(part, air=plan.air, plan=plan)
        if simulate is not None:
            simulate(options, self, air if part.plan is None else part.plan.air)
        elif driver in ("dht22", "dht11"):
            self._attach_dht(part)
        elif driver == "ds18b20":
            self._attach_one_wire(part)
        elif isinstance(options, I2CChipOptions):
            self._attach_i2c(part, options)
        elif isinstance(options, SPIChipOptions):
            self._attach_spi(part, options)
        elif driver in _ADCS:
            self._attach_analog(part)
        elif driver == "ble":
            self._attach_label(part)
        elif driver == "modbus":
            self._attach_modbus(part)
        elif driver == "sysfs" and given["path"] is None:
            self.kernel.number = 10  # higher than numbers configured by path
            parent = given["device"] or f"1-{0x40 + len(self.kernel.devices):04x}"
            self._attach_device(part, simulated_device(given["name"], parent, part.air))
        elif driver == "sysfs":
            scale = given["scale"] or 0.001
            self._attach_file(
                part, given["path"], lambda: f"{part.air().temperature / scale:.0f}\n"
            )
        elif driver == "cpu":
            self._attach_file(
                part, options.where(), lambda: f"{(part.air().temperature + 25) * 1000:.0f}\n"
            )

    def _attach_dht(self, part: _Part) -> None:
        pin = part.given["pin"]
        if part.given["backend"] == "kernel":
            node = f"dht11@{pin:x}"
            device = simulated_device(node, node, part.air)
            device.gpio = pin
            self._attach_device(part, device)
            return
        line = self.dht_lines[pin] = DhtLine(part.driver.upper(), part.air)
        if part.plan is not None:
            from drivers.sim.broken import break_dht

            break_dht(line, part.plan)

    def _attach_one_wire(self, part: _Part) -> None:
        address = part.given["address"] or "28-0316a2795bff"
        self.one_wire.attach(address, part.air)
        if part.plan is not None:
            from drivers.sim.broken import break_one_wire

            break_one_wire(self.one_wire, address, part.plan)

    def _attach_i2c(self, part: _Part, options: I2CChipOptions) -> None:
        def make() -> SimulatedChip:
            chip = simulated_i2c_chip(part.driver, part.air, self.clock)
            _wire_input(chip, part)
            return chip

        chips = self._port(options.bus_number).chips
        if options.mux is not None:
            mux = chips.setdefault(options.mux.address, SimulatedMux())
            assert isinstance(mux, SimulatedMux)
            chips = mux.channels.setdefault(options.mux.channel, {})
        shared = chips.get(options.address)
        if isinstance(shared, SimulatedAds1115) and part.plan is None:
            _wire_input(shared, part)  # each of its inputs is a separate sensor
            return
        chips[options.address] = _with_faults(make, part)
        for address, make_beside in CHIPS_BESIDE.get(part.driver, {}).items():
            chips[address] = _with_faults(partial(make_beside, part.air), part)

    def _attach_label(self, part: _Part) -> None:
        from drivers.ble.sensor import BleOptions, key_of
        from drivers.sim.radio import SimulatedLabel

        options = part.options
        assert isinstance(options, BleOptions)
        address, key = options.address.upper(), None
        with contextlib.suppress(SensorError):  # a key that cannot be read: the driver says so
            key = key_of(options)
        label = SimulatedLabel(options.format, address, key, part.air, part.plan)
        self._radio(options.adapter).labels[address] = label

    def _attach_spi(self, part: _Part, options: SPIChipOptions) -> None:
        chip = simulated_spi_chip(part.driver, part.air, part.given)
        if part.plan is not None:
            from drivers.sim.broken import FaultySpiChip

            chip = FaultySpiChip(chip, part.plan)
        self._spi_port(options.bus_number, options.select).chip = chip

    def _attach_modbus(self, part: _Part) -> None:
        from drivers.modbus import ModbusOptions
        from drivers.sim import modbus as sim

        options = part.options
        assert isinstance(options, ModbusOptions)
        line = self.streams.get(options.bus())
        if line is None:
            is_tcp = options.host is not None and options.framing == "tcp"
            line = (sim.SimulatedGateway if is_tcp else sim.SimulatedLine)(self.clock)
            self.streams[options.bus()] = line
        assert isinstance(line, sim.SimulatedLine)
        device = line.devices.setdefault(options.unit, sim.SimulatedDevice(options.unit))
        sim.hold_air(device, options.entries(), part.air)
        if options.model is not None:
            sim.hold_id(device, options.model)
        if part.plan is not None:
            sim.break_device(device, part.plan)

    def _attach_device(self, part: _Part, device: SimulatedDevice) -> None:
        if part.plan is not None:
            from drivers.sim.broken import break_device

            break_device(device, part.plan)
        self.kernel.devices.append(device)

    def _attach_file(self, part: _Part, path: str, content: Content) -> None:
        if part.plan is not None:
            from drivers.sim.broken import faulty_file

            content = faulty_file(content, part.plan)
        self.files[path] = content

    def _attach_analog(self, part: _Part) -> None:
        from drivers.sim.adc import SimulatedMcp, analog_volts

        given = part.given
        pins = {name: given[name] for name in ("clock_pin", "mosi_pin", "miso_pin", "select_pin")}
        chip = self.analog_chips.get(given["select_pin"])
        if chip is None:
            inputs, bits = _ADCS[part.driver]
            chip = SimulatedMcp(inputs=inputs, bits=bits, **pins, pin_factory=self.pin_factory())
            self.analog_chips[given["select_pin"]] = chip

        def volts() -> float:
            return analog_volts(given, part.air().temperature)

        if part.plan is not None:
            from drivers.sim.broken import faulty_volts

            # A thermistor's resistor pulls the input up; without another sensor it is at 0 V.
            open_volts = given["reference_volts"] if given["sensor"] == "thermistor" else 0.0
            chip.volts[given["channel_number"]] = faulty_volts(volts, part.plan, open_volts)
        else:
            chip.volts[given["channel_number"]] = volts

    def _port(self, bus: int) -> SimulatedI2C:
        return self.i2c_ports.setdefault(bus, SimulatedI2C())

    def i2c(self, bus: int) -> I2CBus:
        if bus not in self._buses:
            self._buses[bus] = I2CBus(self._port(bus), self.clock)
        return self._buses[bus]

    def _spi_port(self, bus: int, select: int) -> SimulatedSPI:
        return self.spi_ports.setdefault((bus, select), SimulatedSPI())

    def spi(self, bus: int, select: int) -> SPIBus:
        if (bus, select) not in self._spi:
            self._spi[bus, select] = SPIBus(self._spi_port(bus, select), self.clock)
        return self._spi[bus, select]

    def serial(self, port: str, settings: SerialSettings) -> ByteStream:
        return self._stream(port)

    def tcp(self, host: str, port: int, *, within_s: float) -> ByteStream:
        return self._stream(f"{host}:{port}")

    def _stream(self, name: str) -> ByteStream:
        if name not in self.streams:
            raise SensorNotFound(f"{name} does not exist", "nothing is simulated there")
        return self.streams[name]

    def shared(self, key: str, make: Callable[[], _Shared]) -> _Shared:
        if key not in self._shared:
            self._shared[key] = make()
        shared: _Shared = self._shared[key]
        return shared

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        line = self.dht_lines.get(pin)
        if line is None:
            line = self.dht_lines[pin] = DhtLine(model, lambda: self.room.at("nowhere"))
            line.frame = lambda: None
        return EdgesDht(model, line) if backend == "edges" else LibraryDht(line)

    def pin_factory(self) -> Any:
        if self._factory is None:
            from drivers.sim.pins import mock_pins

            self._factory = mock_pins()
        return self._factory

    def pin_user(self, pin: int) -> str | None:
        from gpiozero import GPIODevice
        from gpiozero.exc import GPIOPinInUse

        try:
            GPIODevice(pin, pin_factory=self.pin_factory()).close()
        except GPIOPinInUse as error:
            return str(error)
        return ""

    def _radio(self, adapter: str) -> SimulatedRadio:
        from drivers.sim.radio import SimulatedRadio

        return self.radios.setdefault(adapter, SimulatedRadio(self.clock))

    def radio(self, adapter: str) -> Radio:
        return self._radio(adapter)

    def path(self, absolute: str) -> Path:
        if absolute.startswith(_ONE_WIRE):
            self.one_wire.refresh(absolute)
        elif absolute in self.files:
            file = self._inside(absolute)
            file.parent.mkdir(parents=True, exist_ok=True)
            serve(file, self.files[absolute]())
        elif self.kernel.owns(absolute):
            self.kernel.refresh(absolute)
        elif absolute == "/dev":
            self._list_devices()
        elif absolute == _BLUETOOTH:
            for adapter in self.radios:
                self._inside(f"{_BLUETOOTH}/{adapter}").mkdir(parents=True, exist_ok=True)
        return self._inside(absolute)

    def _list_devices(self) -> None:
        """Make a device file for each bus; the Pi's own two always exist."""
        folder = self._inside("/dev")
        folder.mkdir(exist_ok=True)
        for bus in {1, *self.i2c_ports}:
            (folder / f"i2c-{bus}").touch()
        for bus, select in {(0, 0), (0, 1), *self.spi_ports}:
            (folder / f"spidev{bus}.{select}").touch()
