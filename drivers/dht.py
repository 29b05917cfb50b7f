"""DHT11 and DHT22 (AM2302) on one GPIO, decoded by Adafruit's adafruit_dht.

Trusted with the pulses and the checksum; not trusted with the rest. The library hands out its
cached value when it is asked again within 2 s of a failed read, drops the sign of a DHT11, and
accepts an all-zero frame: so every attempt uses a fresh library object, attempts keep 2.1 s
apart, and the five bytes of the frame are looked at here.

Runs on the worker thread of its pin; the libraries are imported on the main thread before that
(`preload`), because Blinka's PulseIn installs a SIGTERM handler when it is imported, and other
parts of it print to standard output.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from drivers.base import (
    HUMIDITY,
    BcmPin,
    Channel,
    Claim,
    DriverInfo,
    Measurement,
    Options,
    refuse_implausible,
)
from drivers.bus import Board
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorNotFound,
    as_sensor_error,
)

__all__ = ["DHT11", "DHT22", "Dht", "DhtOptions", "check_frame", "recording"]

# The sensor measures every 2 s (AM2302 datasheet, "Sampling period"). After a failure a little more
# is kept; after a success a little less is let pass, so that a sensor that is read every 2 s stays
# on its grid.
SPACING_AFTER_FAILURE_S = 2.1
SPACING_AFTER_SUCCESS_S = 1.9
ATTEMPTS = 3

_WIRING = "check 3V3, the data wire, the 4.7 to 10 kΩ pull-up and the pin number"


class DhtOptions(Options, frozen=True, kw_only=True):
    """`pin` is the data line; `backend` is how its pulses are captured."""

    pin: BcmPin
    backend: Literal["auto", "pulseio", "bitbang"] = "auto"

    def bus(self) -> str:
        return f"gpio{self.pin}"

    def where(self) -> str:
        return f"GPIO {self.pin}"

    def claims(self) -> tuple[Claim, ...]:
        return (Claim(f"GPIO {self.pin}"),)


def check_frame(model: str, frame: bytes) -> None:
    """Reject a frame of five bytes, checksum already verified, that the sensor cannot mean.

    Raises:
        BadFrame: the length is not 5.
        ImplausibleValue: all bytes are zero (a line held low sums up to a right checksum), or a
            "DHT11" sends decimals above 9, which is a DHT22 read as a DHT11.
    """
    if len(frame) != 5:
        raise BadFrame(f"{model}: no fresh frame, {len(frame)} of 5 bytes", _WIRING)
    if not any(frame):
        raise ImplausibleValue(f"{model}: a frame of zeros", f"the line is held low; {_WIRING}")
    if model == "DHT11" and (frame[1] > 9 or frame[3] & 0x7F > 9):
        raise ImplausibleValue(
            f"DHT11: decimals above 9 in the frame {frame.hex(' ')}",
            'this is a DHT22: set driver = "dht22"',
        )


def recording(library_class: Any) -> Any:
    """Derive from `adafruit_dht.DHT22` or `DHT11` a class that keeps the decoded frame.

    The library (4.0.12) throws the bytes away; `_pulses_to_binary` is where it makes each.
    """

    class Recording(library_class):
        frame = bytearray()

        def _pulses_to_binary(self, pulses: Any, start: int, stop: int) -> int:
            if start == 0:
                self.frame = bytearray()
            byte: int = super()._pulses_to_binary(pulses, start, stop)
            self.frame.append(byte & 0xFF)
            return byte

    return Recording


class Dht:
    """One DHT; `model` is the name of its class in adafruit_dht."""

    def __init__(
        self, model: str, options: DhtOptions, board: Board, channels: tuple[Channel, ...]
    ) -> None:
        self.channels = channels
        self._model = model
        self._options = options
        self._board = board
        self._next_attempt_s = -math.inf

    def read(self) -> Measurement:
        """Temperature (°C) and relative humidity (%), in at most three attempts 2.1 s apart."""
        clock = self._board.clock
        failure: SensorError | None = None
        for _ in range(ATTEMPTS):
            if (early_s := self._next_attempt_s - clock.monotonic()) > 0:
                clock.sleep(early_s)
            began_s = clock.monotonic()
            self._next_attempt_s = began_s + SPACING_AFTER_FAILURE_S
            try:
                measurement = self._attempt()
            except SensorError as error:
                failure = error
            else:
                self._next_attempt_s = began_s + SPACING_AFTER_SUCCESS_S
                return measurement
        assert failure is not None
        raise failure

    def _attempt(self) -> Measurement:
        try:
            sensor = self._board.dht(self._model, self._options.pin, self._options.backend)
        except Exception as error:
            raise as_sensor_error(error, self._model) from error
        try:
            sensor.measure()
            frame = bytes(sensor.frame)
            check_frame(self._model, frame)
            return self._plausible(sensor.temperature, sensor.humidity, frame)
        except RuntimeError as error:
            raise self._sorted(error) from error
        except SensorError:
            raise
        except Exception as error:
            raise as_sensor_error(error, self._model, _WIRING) from error
        finally:
            sensor.exit()

    def _plausible(
        self, temperature: float | None, humidity: float | None, frame: bytes
    ) -> Measurement:
        if temperature is None or humidity is None:
            raise BadFrame(f"{self._model}: no value", _WIRING)
        if self._model == "DHT11" and frame[3] & 0x80:
            # The library drops the sign bit; ASAIR DHT11 datasheet 1.3, "Negative temperature".
            temperature = -temperature
        measurement = {"temperature": float(temperature), "humidity": float(humidity)}
        refuse_implausible(
            measurement,
            self.channels,
            where=self._model,
            hint="noise on the line; shorten the wire or lower the pull-up",
        )
        return measurement

    def _sorted(self, error: RuntimeError) -> SensorError:
        text = str(error)
        if "not found" in text:
            return SensorNotFound(f"{self._model}: no answer", _WIRING)
        if "unplausible" in text:
            other = "dht11" if self._model == "DHT22" else "dht22"
            return ImplausibleValue(
                f"{self._model}: humidity above 100 %", f'is it a {other}? set driver = "{other}"'
            )
        if "Checksum" in text:
            return BadFrame(f"{self._model}: the checksum differs", _WIRING)
        if "full buffer" in text:
            return BadFrame(f"{self._model}: edges are missing from the frame", _WIRING)
        return BadFrame(f"{self._model}: {text}", _WIRING)

    def close(self) -> None:
        """Nothing stays open between readings."""


def _info(model: str, temperature: Channel, accuracy: str) -> DriverInfo:
    channels = (temperature, HUMIDITY)
    return DriverInfo(
        name=model.lower(),
        summary=f"{model} on one GPIO: temperature, humidity ({accuracy})",
        options=DhtOptions,
        channels=channels,
        open=lambda options, board: Dht(model, options, board, channels),
        example=f'driver = "{model.lower()}"\npin = 4',
        min_interval_s=2.0,
        read_budget_s=ATTEMPTS * (SPACING_AFTER_FAILURE_S + 0.5),
        preload=("adafruit_dht", "board"),
        reopen_after_failure=False,  # nothing is kept open, but for the time of the last attempt
    )


# AM2302 and ASAIR DHT11 datasheets, "Technical specification".
DHT22 = _info("DHT22", Channel("temperature", "°C", (-40.0, 80.0), 1), "±0.5 °C, ±2 %")
DHT11 = _info("DHT11", Channel("temperature", "°C", (-20.0, 60.0), 1), "±2 °C, ±5 %")
