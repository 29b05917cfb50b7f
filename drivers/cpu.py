"""The temperature of the Pi's processor, through gpiozero's CPUTemperature."""

from __future__ import annotations

from typing import Any

from drivers.base import Channel, DriverInfo, Measurement, Options
from drivers.bus import Board
from drivers.errors import ImplausibleValue, SensorNotFound, as_sensor_error

__all__ = ["CPU", "Cpu", "CpuOptions"]

_THERMAL_ZONE = "/sys/class/thermal/thermal_zone0/temp"
_CHECK = "what does `vcgencmd measure_temp` say? Else look at dmesg"
_CHANNEL = Channel("temperature", "°C", (-40.0, 125.0), 1)


class CpuOptions(Options, frozen=True, kw_only=True):
    """The processor has one thermal zone, so there are no options."""

    def bus(self) -> str:
        return "cpu"

    def where(self) -> str:
        return _THERMAL_ZONE


class Cpu:
    """A reading reads the thermal zone's file once (kernel thermal/sysfs-api.rst)."""

    channels = (_CHANNEL,)

    def __init__(self, options: CpuOptions, board: Board) -> None:
        from gpiozero import CPUTemperature
        from gpiozero.pins.mock import MockFactory

        self._file = board.path(_THERMAL_ZONE)
        try:
            # The device does not use a pin, but insists on a factory. The mock factory avoids the
            # search for a real one, which fails on a laptop.
            self._device: Any = CPUTemperature(
                sensor_file=str(self._file), pin_factory=MockFactory()
            )
        except FileNotFoundError as error:
            raise SensorNotFound(
                f"{_THERMAL_ZONE} does not exist",
                "this computer has no thermal zone: try the driver sysfs",
            ) from error
        except (OSError, ValueError) as error:
            raise as_sensor_error(error, _THERMAL_ZONE, _CHECK) from error
        self._board = board

    def read(self) -> Measurement:
        """Return the temperature in °C."""
        self._board.path(_THERMAL_ZONE)
        try:
            celsius = float(self._device.temperature)
        except (OSError, ValueError) as error:
            raise as_sensor_error(error, _THERMAL_ZONE, _CHECK) from error
        low, high = _CHANNEL.plausible
        if celsius == 0.0 or not low <= celsius <= high:
            raise ImplausibleValue(f"{_THERMAL_ZONE} reads {celsius:g} °C", _CHECK)
        return {"temperature": celsius}

    def close(self) -> None:
        self._device.close()


def _scan(board: Board) -> list[dict[str, str | int]]:
    return [{}] if board.path(_THERMAL_ZONE).exists() else []


CPU = DriverInfo(
    name="cpu",
    summary="Temperature of the Pi's processor",
    aliases=("processor", "soc"),
    options=CpuOptions,
    channels=(_CHANNEL,),
    open=Cpu,
    example='driver = "cpu"',
    accuracy="not specified",
    quirks="it is that of the chip, well above the air's",
    scan=_scan,
)
