"""The simulated board: one part for each configured sensor, all in one room."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivers.base import Options
from drivers.bus import Clock, DhtSensor, SystemTime
from drivers.chip_options import I2CChipOptions, SPIChipOptions
from drivers.dht_edges import EdgesDht
from drivers.owned_bus import I2CBus, SPIBus
from drivers.sim.chips import simulated_i2c_chip, simulated_spi_chip
from drivers.sim.dht_line import DhtLine, LibraryDht
from drivers.sim.i2c import SimulatedI2C
from drivers.sim.kernel_tree import KernelTree, simulated_device
from drivers.sim.one_wire import OneWireTree
from drivers.sim.room import Air, Room
from drivers.sim.spi import SimulatedSPI
from drivers.sim.thermometers import SimulatedAds1115

__all__ = ["SimulatedBoard"]

_ONE_WIRE = "/sys/bus/w1/devices"


_ADCS = {"mcp3004": (4, 10), "mcp3008": (8, 10), "mcp3204": (4, 12), "mcp3208": (8, 12)}
"""Driver -> inputs and bits of its converter."""


class SimulatedBoard:
    """`drivers.bus.Board` without hardware; the attributes are the parts, for faults in tests."""

    def __init__(self, clock: Clock | None = None, *, seed: int = 1) -> None:
        # Blinka must be imported for its constants; tell it not to look for a board.
        os.environ.setdefault("BLINKA_OS_AGNOSTIC", "1")
        self.clock: Clock = SystemTime() if clock is None else clock
        self.room = Room(self.clock, seed=seed)
        self.dht_lines: dict[int, DhtLine] = {}
        self.i2c_ports: dict[int, SimulatedI2C] = {}
        self.analog_chips: dict[int, Any] = {}
        """GPIO of the select line -> the converter behind it."""
        self.files: dict[str, Callable[[], str]] = {}
        """Kernel path -> what a read of that file gives."""
        self.spi_ports: dict[tuple[int, int], SimulatedSPI] = {}
        self._buses: dict[int, I2CBus] = {}
        self._spi: dict[tuple[int, int], SPIBus] = {}
        self._factory: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="sensor-node-sim-")
        self._root = Path(self._folder.name)
        self.one_wire = OneWireTree(self._inside(_ONE_WIRE), self.clock)
        self.kernel = KernelTree(self._root)

    def _inside(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")

    def attach(self, driver: str, options: Options) -> None:
        """Wire up what the driver `driver` expects to find; nothing, for one unknown here."""

        def air() -> Air:
            return self.room.at(f"{driver} {options.where()}")

        given = {name: getattr(options, name) for name in options.__struct_fields__}
        if driver in ("dht22", "dht11") and given["backend"] == "kernel":
            node = f"dht11@{given['pin']:x}"
            self.kernel.devices.append(simulated_device(node, node, air))
            self.kernel.devices[-1].gpio = given["pin"]
        elif driver in ("dht22", "dht11"):
            self.dht_lines[given["pin"]] = DhtLine(driver.upper(), air)
        elif driver == "ds18b20":
            self.one_wire.attach(given["address"] or "28-0316a2795bff", air)
        elif isinstance(options, I2CChipOptions):
            self._attach_i2c(driver, options, given, air)
        elif isinstance(options, SPIChipOptions):
            port = self._spi_port(options.bus_number, options.select)
            port.chip = simulated_spi_chip(driver, air, given)
        elif driver in _ADCS:
            self._attach_analog(driver, given, air)
        elif driver == "sysfs" and given["path"] is None:
            self.kernel.number = 10  # clear of those that are configured by path
            parent = given["device"] or f"1-{0x40 + len(self.kernel.devices):04x}"
            self.kernel.devices.append(simulated_device(given["name"], parent, air))
        elif driver == "sysfs":
            scale = given["scale"]
            self.files[given["path"]] = lambda: f"{air().temperature / scale:.0f}\n"
        elif driver == "cpu":
            self.files[options.where()] = lambda: f"{(air().temperature + 25) * 1000:.0f}\n"

    def _attach_i2c(
        self, driver: str, options: I2CChipOptions, given: dict[str, Any], air: Callable[[], Air]
    ) -> None:
        chips = self._port(options.bus_number).chips
        chip = chips.get(options.address)
        if not isinstance(chip, SimulatedAds1115):  # its inputs are sensors of their own
            chip = chips[options.address] = simulated_i2c_chip(driver, air, self.clock)
        if isinstance(chip, SimulatedAds1115) and given["sensor"] != "voltage":
            from drivers.sim.adc import analog_volts

            chip.volts[given["input"]] = lambda: analog_volts(given, air().temperature)

    def _attach_analog(self, driver: str, given: dict[str, Any], air: Callable[[], Air]) -> None:
        from drivers.sim.adc import SimulatedMcp, analog_volts

        pins = {name: given[name] for name in ("clock_pin", "mosi_pin", "miso_pin", "select_pin")}
        chip = self.analog_chips.get(given["select_pin"])
        if chip is None:
            inputs, bits = _ADCS[driver]
            chip = SimulatedMcp(inputs=inputs, bits=bits, **pins, pin_factory=self.pin_factory())
            self.analog_chips[given["select_pin"]] = chip
        chip.volts[given["channel_number"]] = lambda: analog_volts(given, air().temperature)

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

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        line = self.dht_lines.get(pin)
        if line is None:
            line = self.dht_lines[pin] = DhtLine(model, lambda: self.room.at("nowhere"))
            line.frame = lambda: None
        return EdgesDht(model, line) if backend == "edges" else LibraryDht(line)

    def pin_factory(self) -> Any:
        if self._factory is None:
            from gpiozero import Device
            from gpiozero.exc import SPISoftwareFallback
            from gpiozero.pins.mock import MockFactory

            # gpiozero's SPISoftwareBus takes the default factory, whichever it was given.
            Device.pin_factory = self._factory = MockFactory()
            warnings.filterwarnings("ignore", category=SPISoftwareFallback)
        return self._factory

    def path(self, absolute: str) -> Path:
        if absolute.startswith(_ONE_WIRE):
            self.one_wire.refresh(absolute)
        elif absolute in self.files:
            file = self._inside(absolute)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.files[absolute](), encoding="utf-8")
        elif self.kernel.owns(absolute):
            self.kernel.refresh(absolute)
        elif absolute == "/dev":
            self._list_devices()
        return self._inside(absolute)

    def _list_devices(self) -> None:
        """Have a device file for each bus; the Pi's own two are there in any case."""
        folder = self._inside("/dev")
        folder.mkdir(exist_ok=True)
        for bus in {1, *self.i2c_ports}:
            (folder / f"i2c-{bus}").touch()
        for bus, select in {(0, 0), (0, 1), *self.spi_ports}:
            (folder / f"spidev{bus}.{select}").touch()
