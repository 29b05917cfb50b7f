"""What one thermometer has sent and was not read: at most one value of each quantity.

`Label.hear` runs on the radio's thread, everything else on the bus worker; a lock is between them.
An advertisement is new if its counter differs from the last one of its format. A format without a
counter is new each time: the radio was heard, but whether the sensor behind it still measures
cannot be told.
"""

from __future__ import annotations

import threading

from drivers.base import Measurement
from drivers.ble.advertisement import Decoded, Undecodable, is_measured
from drivers.ble.formats import AUTO, decode
from drivers.bus import Advertisement
from drivers.errors import SensorError, SensorFault, SensorNotFound, SensorTimeout, WrongDriver

__all__ = ["Label"]

_RESTARTED_BELOW = 100
"""A counter of encrypted advertisements below this may follow a higher one: its battery was
changed (bthome-ble has the same rule)."""
_RECENT_S = 15.0
_WEAK_DBM = -88
_LOST_S = 3600.0


class Label:
    """One thermometer, by its address."""

    def __init__(self, form: str, key: bytes | None, began_s: float) -> None:
        self._form = form
        self._key = key
        self._began_s = began_s
        self._lock = threading.Lock()
        self._unread: dict[str, tuple[float, float]] = {}
        """Quantity -> its value, and when it was heard."""
        self._numbers: dict[str, int] = {}
        """Format -> the counter of its last measurement."""
        self._rising: int | None = None
        self._heard_s: float | None = None
        self._new_s: float | None = None
        """When the last new measurement was heard."""
        self._rssi: int | None = None
        self._is_known = False
        self._is_repeating = False
        self._trouble: Undecodable | None = None

    @property
    def has_unread(self) -> bool:
        return any(is_measured(name) for name in self._unread)

    @property
    def was_heard(self) -> bool:
        return self._heard_s is not None

    def hear(self, advertisement: Advertisement) -> None:
        """Keep what is new in an advertisement."""
        with self._lock:
            self._heard_s = advertisement.heard_s
            if advertisement.rssi is not None:
                self._rssi = advertisement.rssi
            try:
                found = decode(advertisement, self._key, self._form)
                if found is not None:
                    self._is_known = True
                    self._accept(*found, advertisement.heard_s)
                    self._trouble = None
            except Undecodable as trouble:
                self._trouble = trouble

    def _accept(self, form: str, decoded: Decoded, heard_s: float) -> None:
        if decoded.rising is not None:
            before, self._rising = self._rising, decoded.rising
            if before is not None and _RESTARTED_BELOW <= decoded.rising < before:
                self._rising = before
                raise Undecodable(
                    f"it sent number {decoded.rising} after number {before}",
                    "something repeats its old advertisements, or its battery was changed: then "
                    "restart the node",
                )
        number = decoded.rising if decoded.counter is None else decoded.counter
        if number is not None:
            self._is_repeating = self._numbers.get(form) == number
            self._numbers[form] = number
            if self._is_repeating:
                return
        # Another dictionary, because `has_unread` may be looking at this one.
        new = {name: (value, heard_s) for name, value in decoded.values.items()}
        self._unread = {**self._unread, **new}
        if any(map(is_measured, decoded.values)):
            self._new_s = heard_s

    def take(self) -> tuple[Measurement, float] | None:
        """Return what was not read before, and when the oldest measured value of it was heard."""
        with self._lock:
            if not self.has_unread:
                return None
            unread, self._unread = self._unread, {}
            values = {name: value for name, (value, _) in unread.items()}
            if self._rssi is not None:
                values["rssi"] = self._rssi
            return values, min(
                heard_s for name, (_, heard_s) in unread.items() if is_measured(name)
            )

    def silence(self, now_s: float) -> SensorError:
        """Return why there is nothing to read."""
        with self._lock:
            if self._heard_s is None:
                return SensorNotFound(
                    f"nothing heard for {_seconds(now_s - self._began_s)}",
                    "is its battery empty, is it out of reach, or is the address wrong? "
                    "sensor-node scan lists what is heard",
                )
            silent_s = now_s - self._heard_s
            strength = "" if self._rssi is None else f" at {self._rssi} dBm"
            if self._heard_s == self._new_s or silent_s > _RECENT_S:
                return self._gone(silent_s, strength)
            if self._trouble is not None:
                return type(self._trouble)(self._trouble.what, self._trouble.hint)
            if not self._is_known:
                wanted = "is known here" if self._form == AUTO else f"is of the format {self._form}"
                return WrongDriver(
                    f"it is heard{strength}, but sends nothing that {wanted}",
                    'sensor-node drivers ble lists the formats; format = "auto" tries them all',
                )
            return self._stale(now_s - (self._began_s if self._new_s is None else self._new_s))

    def _gone(self, silent_s: float, strength: str) -> SensorError:
        weak = self._rssi is not None and self._rssi <= _WEAK_DBM
        return SensorTimeout(
            f"nothing heard for {_seconds(silent_s)}; the last time{strength}",
            "it is almost out of reach: move it or the antenna, away from metal and USB 3"
            if weak
            else "is its battery empty, or was it carried away?",
        )

    def _stale(self, stale_s: float) -> SensorError:
        if self._is_repeating:
            return SensorFault(
                f"it has sent the same measurement for {_seconds(stale_s)}",
                "if it measures so rarely, raise the interval; else take out its battery for a "
                "moment",
            )
        return SensorFault(
            f"it is heard, but has not sent a measurement for {_seconds(stale_s)}",
            "if it measures so rarely, raise the interval; else look at its display",
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _LOST_S else f"{seconds / 3600:.1f} h"
