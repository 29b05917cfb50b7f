"""DHT11 and DHT22 (AM2302) on one GPIO, with the capture that works on this computer.

Backends: `kernel`, the driver of `dtoverlay=dht11` (`drivers.kernel_dht`); `pulseio`, Adafruit's
adafruit_dht in a child process (`drivers.dht_process`); `edges`, the GPIO's edge events and our own
decoder (`drivers.dht_edges`). Backends are trusted only with the pulses and the checksum, because a
library may serve its cache, drop a sign or accept a frame of zeros. So each attempt asks for a
fresh frame, attempts are 2.1 s apart, and the five bytes are decoded here.

The sensor answers with its previous measurement, and then takes a new one (AM2302 datasheet,
"Single-bus"; ASAIR DHT11 1.3, "Precautions"). So a sensor that was not asked for a while is asked
twice.

Runs on the worker thread of its pin.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal

import msgspec

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
from drivers.bus import Board, DhtSensor
from drivers.dht_frame import TEMPERATURES, WIRING, NotAsked, agree, check_frame, decode_frame
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    MissingSupport,
    PinInUse,
    SensorError,
    SensorNotFound,
    SensorTimeout,
    as_sensor_error,
)
from drivers.kernel_dht import MEMORY_S, KernelDht, find_dht

__all__ = ["BACKENDS", "DHT11", "DHT22", "Dht", "DhtOptions"]

_log = logging.getLogger(__name__)

# The sensor measures every 2 s (AM2302 datasheet, "Sampling period"). The pause after a failure is
# a little longer; after a success it is a little shorter, so that a sensor that is read every 2 s
# stays on schedule.
SPACING_AFTER_FAILURE_S = 2.1
SPACING_AFTER_SUCCESS_S = 1.9
ATTEMPTS = 3
_CAPTURE_S = 0.5  # 0.25 s, and the start of a helper
# The first answer of a sensor that was not asked for a while does not count as an attempt.
_ATTEMPTS_S = (ATTEMPTS + 1) * (SPACING_AFTER_FAILURE_S + _CAPTURE_S)
# A sensor that had to wait so long for others, or for the start of a child, is not asked again.
_PATIENCE_S = 10.0
_CHILD_S = 29.0  # `drivers.dht_process`: a turn, a start, a capture that hangs and is ended

BACKENDS = ("kernel", "pulseio", "edges")
"""What `auto` tries, in this order."""


class DhtOptions(Options, frozen=True, kw_only=True):
    """`pin` is the data line; `backend` is how its pulses are captured."""

    pin: BcmPin
    backend: Literal["auto", "kernel", "pulseio", "edges"] = "auto"

    def bus(self) -> str:
        return f"gpio{self.pin}"

    def where(self) -> str:
        return f"GPIO {self.pin}"

    def claims(self) -> tuple[Claim, ...]:
        return (Claim(f"GPIO {self.pin}"),)


class _Source(msgspec.Struct, frozen=True):
    """An opened backend.

    `measure` triggers the sensor once, and raises SensorError. It returns what the sensor answered,
    and how long the trigger had to wait, in seconds.
    """

    backend: str
    measure: Callable[[], tuple[Measurement, float]]
    close: Callable[[], None]


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
        self._source: _Source | None = None
        self._order: list[str] = []
        """The backend in use, or to be tried next, followed by the later ones."""
        self._is_settled = False
        self._forget_choice()
        self._believed: Measurement | None = None
        """The last reading, confirmed if necessary."""
        self._answered_s = -math.inf
        """When the sensor last answered, and so began a measurement."""
        self._waited_s = 0.0
        """For how long this reading had to wait for others."""

    def _forget_choice(self) -> None:
        """Let the next attempt look at each backend again, if the configuration leaves a choice."""
        chosen = self._options.backend
        self._order = list(BACKENDS) if chosen == "auto" else [chosen]
        self._is_settled = chosen != "auto"

    def read(self) -> Measurement:
        """Return temperature (°C) and relative humidity (%), in up to three attempts 2.1 s apart.

        A sensor that was not asked for `MEMORY_S` is first asked once for nothing, because its
        answer is equally old.

        A reading that differs from the last one by more than the sensor's accuracy is only believed
        when the next attempt confirms it: two wrong bits can have a right checksum.

        With `auto`, a backend that fails gives way to the next one at the next reading, until one
        of them has succeeded. Where the kernel has the sensor, none but `kernel` can.
        """
        failures = 0
        failure: SensorError | None = None
        unconfirmed: Measurement | None = None
        was_asked = False
        self._waited_s = 0.0
        while failures < ATTEMPTS and self._waited_s <= _PATIENCE_S:
            try:
                measurement, is_current = self._ask()
            except MissingSupport:
                raise  # another attempt would not help
            except SensorError as error:
                failures, failure = failures + 1, error
                if isinstance(error, SensorTimeout):
                    break  # the other sensors need the child, too
                continue
            if not is_current:
                # The first time is as it should be.
                failures, failure, was_asked = failures + was_asked, self._too_late(), True
                continue
            if self._agree(measurement, self._believed or measurement) or (
                unconfirmed is not None and self._agree(measurement, unconfirmed)
            ):
                self._next_attempt_s += SPACING_AFTER_SUCCESS_S - SPACING_AFTER_FAILURE_S
                self._believed = measurement
                self._settle()
                return measurement
            unconfirmed = measurement
            failures, failure = failures + 1, self._unconfirmed(measurement)
        self._give_way(failure)
        assert failure is not None
        raise failure

    def _ask(self) -> tuple[Measurement, bool]:
        """Let the sensor rest, and ask it. Return its answer, and whether that is not too old."""
        began_s = self._rest()
        try:
            measurement, asked_s = self._attempt(began_s)
        except SensorError as error:
            ended_s = self._board.clock.monotonic()
            self._next_attempt_s = ended_s + SPACING_AFTER_FAILURE_S
            self._waited_s += max(0.0, ended_s - began_s - _CAPTURE_S)
            if isinstance(error, BadFrame | ImplausibleValue):
                self._answered_s = began_s
            if isinstance(error, PinInUse):  # perhaps by the kernel, whose driver has come late
                self.close()
                self._forget_choice()
            raise
        self._waited_s += asked_s - began_s
        is_current = asked_s - self._answered_s <= MEMORY_S
        self._answered_s = asked_s
        self._next_attempt_s = asked_s + SPACING_AFTER_FAILURE_S
        return measurement, is_current

    def _give_way(self, failure: SensorError | None) -> None:
        """Let the next reading take the next backend, unless this one is settled or not ready."""
        if not self._is_settled and not isinstance(failure, NotAsked | PinInUse):
            self.close()
            self._order.append(self._order.pop(0))
        elif self._order[0] == "kernel":
            self.close()  # the device may come back under another number

    def _rest(self) -> float:
        """Let the sensor rest. Return the start time of the following attempt."""
        clock = self._board.clock
        if (early_s := self._next_attempt_s - clock.monotonic()) > 0:
            clock.sleep(early_s)
        return clock.monotonic()

    def _agree(self, one: Measurement, other: Measurement) -> bool:
        """Return whether two readings differ by no more than the sensor's accuracy."""
        first, second = ((m["temperature"], m["humidity"]) for m in (one, other))
        return agree(self._model, first, second)

    def _too_late(self) -> SensorError:
        return NotAsked(
            f"{self._model} on GPIO {self._options.pin}: an old answer, because the other DHTs "
            "took too long",
            "read them less often",
        )

    def _unconfirmed(self, measurement: Measurement) -> SensorError:
        temperature, humidity = measurement["temperature"], measurement["humidity"]
        return BadFrame(
            f"{self._model} on GPIO {self._options.pin}: {temperature:g} °C and {humidity:g} % "
            "after other values, and no second reading like it",
            "noise on the line; shorten the wire or lower the pull-up",
        )

    def _attempt(self, began_s: float) -> tuple[Measurement, float]:
        """Measure once, through the first available backend. Return when the sensor was asked, too.

        Raises:
            MissingSupport: none of the backends is available.
        """
        if self._source is not None:
            return self._measured(self._source, began_s)
        missing: list[MissingSupport] = []
        for backend in list(self._order):
            try:
                self._source = self._opened(backend)
                if backend == "kernel":  # which has the pin
                    self._order = [backend]
                return self._measured(self._source, began_s)
            except MissingSupport as error:
                self.close()
                self._order.remove(backend)
                missing.append(error)
        self._forget_choice()
        if len(missing) == 1:
            raise missing[0]
        raise MissingSupport("; ".join(error.what for error in missing), missing[-1].hint)

    def _opened(self, backend: str) -> _Source:
        if backend == "kernel":
            try:
                device = find_dht(self._board, self._options.pin)
            except SensorNotFound as error:
                user = "" if self._options.backend == "auto" else self._user_of_pin()
                raise MissingSupport(
                    f"{self._model} through kernel: {error.what}{user}",
                    f"dtoverlay=dht11,gpiopin={self._options.pin} in config.txt, and reboot",
                ) from error
            dht = KernelDht(device, self._board)
            return _Source(backend, lambda: (dht.ask(), 0.0), dht.close)
        try:
            sensor = self._board.dht(self._model, self._options.pin, backend)
        except Exception as error:
            where = f"{self._model} on GPIO {self._options.pin}"
            raise as_sensor_error(error, where) from error
        return _Source(backend, lambda: self._frame_of(sensor), sensor.exit)

    def _user_of_pin(self) -> str:
        user = self._board.pin_user(self._options.pin)
        return f"; GPIO {self._options.pin} is in use: {user}" if user else ""

    def _frame_of(self, sensor: DhtSensor) -> tuple[Measurement, float]:
        waited_s = sensor.measure()
        frame = bytes(sensor.frame)
        check_frame(self._model, frame)
        temperature, humidity = decode_frame(self._model, frame)
        return {"temperature": temperature, "humidity": humidity}, waited_s

    def _measured(self, source: _Source, began_s: float) -> tuple[Measurement, float]:
        where = f"{self._model} through {source.backend}"
        try:
            measurement, waited_s = source.measure()
        except SensorError as error:
            raise type(error)(f"{where}: {error.what}", error.hint) from error
        except Exception as error:
            raise as_sensor_error(error, where, WIRING) from error
        hint = "noise on the line; shorten the wire or lower the pull-up"
        believed = refuse_implausible(measurement, self.channels, where=where, hint=hint)
        return believed, began_s + waited_s

    def _settle(self) -> None:
        """Keep the backend that has given a reading, and log which one it is."""
        if not self._is_settled:
            self._is_settled = True
            self._order = self._order[:1]
            _log.info(
                "%s on GPIO %d: read through %s", self._model, self._options.pin, self._order[0]
            )

    def close(self) -> None:
        """Let go of the backend; the next reading opens it again."""
        source, self._source = self._source, None
        if source is not None:
            source.close()


def _info(
    model: str,
    temperature: Channel,
    accuracy: str,
    maker: str,
    aliases: tuple[str, ...],
    quirks: str = "",
) -> DriverInfo:
    channels = (temperature, HUMIDITY)
    return DriverInfo(
        name=model.lower(),
        summary=f"{model} on one GPIO: temperature, humidity ({accuracy})",
        aliases=aliases,
        options=DhtOptions,
        channels=channels,
        open=lambda options, board: Dht(model, options, board, channels),
        example=f'driver = "{model.lower()}"\npin = 17',
        accuracy=accuracy,
        source=f"{maker} datasheet, Technical specification",
        quirks="has no more than a checksum of 8 bits: give each channel a range and a max_rate; "
        f"answers with its previous measurement, so a reading takes 2.4 s{quirks}",
        min_interval_s=2.0,
        read_budget_s=_ATTEMPTS_S + _PATIENCE_S + _CHILD_S,
        reopen_after_failure=False,  # the object keeps the time of the last attempt
        former=(("backend", "bitbang", "auto"),),
    )


DHT22 = _info(
    "DHT22",
    Channel("temperature", "°C", TEMPERATURES["DHT22"], 1),
    "±0.5 °C, ±2 %",
    "Aosong AM2302",
    aliases=("am2302", "am2301", "dht21", "rht03"),
)
DHT11 = _info(
    "DHT11",
    Channel("temperature", "°C", TEMPERATURES["DHT11"], 1),
    "±2 °C, ±5 %",
    "ASAIR DHT11",
    aliases=("ky015", "dht12"),
    quirks="; a DHT12 sends the same frames with its SCL wired to GND (not to Linux's driver)",
)
