"""Modbus sensors: RTU on a serial port (RS-485), or TCP by host.

A device is one of `drivers.modbus_models`, or described by its registers. Registers that follow
each other are read by one request. All devices of a port, or of a host, share a
`drivers.modbus_bus.ModbusBus` and a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from drivers.base import (
    HUMIDITY,
    TEMPERATURE,
    Channel,
    Claim,
    DriverInfo,
    Measurement,
    Options,
    refuse_implausible,
)
from drivers.bus import Board, SerialSettings
from drivers.errors import ImplausibleValue, SensorError, SensorFault
from drivers.modbus_bus import ModbusBus, Request
from drivers.modbus_models import MODELS, Register, register_channel

__all__ = ["MODBUS", "TCP_PORT", "Modbus", "ModbusOptions", "line_of"]

TCP_PORT = 502
_BUDGET_S = 4.0
"""How long one reading may take; a further attempt begins only within it."""
_PLAUSIBLE_HINT = "check model, type, scale and range, and whether the device is healthy"

_Model = Literal[
    "xy-md02",
    "xy-md03",
    "xy-md04",
    "sht20",
    "cwt-th",
    "rs-ws",
    "r4dcb08",
    "pt21a01",
    "pta8c04",
    "pta8d08",
    "cwt-tm-8pt",
]
_ModelName = Annotated[_Model | None, msgspec.Meta(description="a model of the list below")]
_Unit = Annotated[int, msgspec.Meta(ge=1, le=247)]
_Timeout = Annotated[
    float,
    msgspec.Meta(ge=0.02, le=2, description="seconds, 0.02 to 2, for an answer"),
]
_Turnaround = Annotated[
    float,
    msgspec.Meta(ge=0, le=1, description="seconds, 0 to 1, before a request"),
]
_Inputs = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=1)], ...] | None,
    msgspec.Meta(description="a list such as [1, 2]; all by default"),
]


class ModbusOptions(Options, frozen=True, kw_only=True):
    """Where the device is (`port` or `host`), and what it has (`model` or `registers`)."""

    port: Annotated[str | None, msgspec.Meta(description='a serial port, "/dev/ttyUSB0"')] = None
    host: Annotated[str | None, msgspec.Meta(description="the name or address of a gateway")] = None
    unit: _Unit = 1
    model: _ModelName = None
    inputs: _Inputs = None
    registers: dict[str, Register] = msgspec.field(default_factory=dict)
    baud: Annotated[int, msgspec.Meta(ge=300, le=1_000_000)] | None = None
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    tcp_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = TCP_PORT
    framing: Literal["tcp", "rtu"] = "tcp"
    timeout: _Timeout = 0.5
    retries: Annotated[int, msgspec.Meta(ge=0, le=5)] = 2
    turnaround: _Turnaround = 0.0

    def __post_init__(self) -> None:
        if (self.port is None) == (self.host is None):
            raise ValueError('needs either port = "/dev/ttyUSB0" or host = "192.168.1.50"')
        if (self.model is None) == (not self.registers):
            raise ValueError(
                f'needs either model = "xy-md02" (or {", ".join([*MODELS][1:])}) or registers'
            )
        self._check_place()
        self._check_inputs()
        self.channels()

    def _check_place(self) -> None:
        """Check that the keys of the other kind of line are left out."""
        if self.port is not None and not self.port.startswith("/dev/"):
            raise ValueError('port is the path of a serial port, such as "/dev/ttyUSB0"')
        if self.host == "" or (self.host and (":" in self.host[:-1] and "." in self.host)):
            raise ValueError(
                'host is a name or an address, such as "192.168.1.50"; the port is tcp_port'
            )
        if self.port is not None and (self.framing, self.tcp_port) != ("tcp", TCP_PORT):
            raise ValueError("framing and tcp_port go with host, not with port")
        serial_keys = (self.baud, self.parity, self.stop_bits) != (None, "none", 1)
        if self.host is not None and serial_keys:
            raise ValueError("baud, parity and stop_bits go with port; a gateway has its own")

    def _check_inputs(self) -> None:
        if self.inputs is None:
            return
        most = MODELS[self.model].inputs if self.model is not None else 0
        if not most:
            raise ValueError("inputs goes with a model that has several, such as r4dcb08")
        if not self.inputs or max(self.inputs) > most or len({*self.inputs}) < len(self.inputs):
            raise ValueError(f"inputs of {self.model} are different numbers from 1 to {most}")

    def bus(self) -> str:
        return self.port or f"{self.host}:{self.tcp_port}"

    def where(self) -> str:
        place = f"unit {self.unit} {'on' if self.port else 'at'} {self.bus()}"
        if self.inputs is not None:
            place += f" input {', '.join(map(str, self.inputs))}"
        return place

    def accuracy(self) -> str:
        return MODELS[self.model].accuracy if self.model is not None else ""

    def channels(self) -> tuple[Channel, ...]:
        return tuple(register_channel(name, entry) for name, entry in self.entries().items())

    def claims(self) -> tuple[Claim, ...]:
        registers = {
            f"unit {self.unit} register {entry.register + number} "
            f"({'holding' if entry.function == 3 else 'input'}) {self.bus()}"
            for entry in self.entries().values()
            for number in range(entry.count)
        }
        line = Claim(self.bus(), str(self.settings()) if self.port else f"framing {self.framing}")
        return (line, *(Claim(resource) for resource in sorted(registers)))

    def settings(self) -> SerialSettings:
        """Return the settings of the serial line; those that its model is delivered with, if the
        configuration does not say."""
        delivered = MODELS[self.model].baud if self.model is not None else 9600
        return SerialSettings(self.baud or delivered, self.parity, self.stop_bits)

    def entries(self) -> dict[str, Register]:
        """Return each channel's register."""
        if self.model is None:
            return self.registers
        model = MODELS[self.model]
        if not model.inputs:
            return model.registers
        ((name, first),) = model.registers.items()
        return {
            f"{name}_{number}": msgspec.structs.replace(first, register=first.register + number - 1)
            for number in self.inputs or range(1, model.inputs + 1)
        }


def line_of(options: ModbusOptions, board: Board) -> ModbusBus:
    """Return the line of a sensor, the same object for all sensors on it."""
    port, host, settings = options.port, options.host, options.settings()

    def make() -> ModbusBus:
        if port is not None:
            return ModbusBus(
                port,
                lambda: board.serial(port, settings),
                board.clock,
                settings=str(settings),
                baud=settings.baud,
            )
        assert host is not None
        return ModbusBus(
            options.bus(),
            lambda: board.tcp(host, options.tcp_port, within_s=options.timeout),
            board.clock,
            tcp=options.framing == "tcp",
        )

    return board.shared(f"modbus {options.bus()}", make)


def _spans(entries: dict[str, Register]) -> Iterator[list[tuple[str, Register]]]:
    """Yield runs of registers that follow each other, each to be read by one request."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].function, item[1].register))
    run: list[tuple[str, Register]] = []
    for name, entry in ordered:
        if run:
            before = run[-1][1]
            next_one = (before.function, before.register + before.count)
            length = entry.register + entry.count - run[0][1].register
            if (entry.function, entry.register) != next_one or length > _MOST_AT_ONCE:
                yield run
                run = []
        run.append((name, entry))
    yield run


_MOST_AT_ONCE = 125  # registers (protocol §6.3)


class Modbus:
    """One device."""

    def __init__(self, options: ModbusOptions, board: Board) -> None:
        self.channels = options.channels()
        self._options = options
        self._where = options.where()
        self._clock = board.clock
        self._line = line_of(options, board)
        self._spans = list(_spans(options.entries()))

    def read(self) -> Measurement:
        """Read every register once, and leave out probes that are missing.

        Raises:
            SensorError: the device does not answer, or reports a fault.
            SensorFault: no probe is connected.
            ImplausibleValue: no value is within its range.
        """
        measurement: Measurement = {}
        until_s = self._clock.monotonic() + _BUDGET_S
        is_zero = True
        for span in self._spans:
            first, last = span[0][1], span[-1][1]
            count = last.register + last.count - first.register
            request = Request(self._options.unit, first.function, first.register, count)
            words = self._line.words(
                request,
                self._where,
                timeout_s=self._options.timeout,
                retries=self._options.retries,
                turnaround_s=self._options.turnaround,
                until_s=until_s,
            )
            is_zero = is_zero and not any(words)
            for name, entry in span:
                begin = entry.register - first.register
                value = entry.value(words[begin : begin + entry.count])
                if value is not None:
                    measurement[name] = value
        return self._believed(measurement, is_zero=is_zero)

    def _believed(self, measurement: Measurement, *, is_zero: bool) -> Measurement:
        """Return the plausible values; a bad probe does not cost the others."""
        if is_zero and {"temperature", "humidity"} <= measurement.keys():
            raise ImplausibleValue(
                f"{self._where}: every register is 0",
                "the device answers, but its sensor does not: switch its power off and on",
            )
        if not measurement:
            raise SensorFault(
                f"{self._where}: the device says that no probe is connected",
                "check the probe and its wires",
            )
        believed: Measurement = {}
        failure: SensorError | None = None
        for channel in self.channels:
            try:
                believed |= refuse_implausible(
                    {name: value for name, value in measurement.items() if name == channel.name},
                    (channel,),
                    where=self._where,
                    hint=_PLAUSIBLE_HINT,
                )
            except ImplausibleValue as error:
                failure = failure or error
        if not believed and failure is not None:
            raise failure
        return believed

    def close(self) -> None:
        """The line stays open for its other devices."""


MODBUS = DriverInfo(
    name="modbus",
    summary="Modbus on RS-485 or TCP: XY-MD02, R4DCB08, Pt100, any register",
    aliases=("modbusrtu", "modbustcp", "rs485"),
    options=ModbusOptions,
    channels=(TEMPERATURE, HUMIDITY),
    open=Modbus,
    example='driver = "modbus"\nport = "/dev/ttyUSB0"\nunit = 1\nmodel = "xy-md02"',
    accuracy="as the device has it; an XY-MD02 ±0.5 °C, ±3 %",
    source="; ".join(dict.fromkeys(model.source for model in MODELS.values())),
    quirks=(
        f"models: {', '.join(MODELS)}; a model with inputs has temperature_1, temperature_2 and so "
        "on; "
        "a device of no model is read by its registers, one table for each channel, such as "
        "[sensor.registers.temperature]; all devices of a port have the same baud, parity and "
        "stop_bits"
    ),
    read_budget_s=_BUDGET_S + 2.0,
    reopen_after_failure=False,  # the line opens a lost port again by itself
    extra="modbus",
)
