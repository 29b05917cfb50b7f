"""Start times such as `24h` or a date, and this computer's time zone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo

from node.units import Seconds

__all__ = ["LocalZone", "parse_since"]


class LocalZone(tzinfo):
    """This computer's time zone, with the offset that is right at each moment (localtime(3)).

    `datetime.astimezone()` gives the offset of one moment, which is an hour wrong on the other
    side of a change of the clocks.
    """

    def fromutc(self, moment: datetime) -> datetime:
        at_s = moment.replace(tzinfo=UTC).timestamp()
        return moment + timedelta(seconds=time.localtime(at_s).tm_gmtoff)

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        return timedelta(seconds=self._at(moment).tm_gmtoff)

    def tzname(self, moment: datetime | None) -> str | None:
        return None if moment is None else self._at(moment).tm_zone

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else timedelta(hours=self._at(moment).tm_isdst)

    @staticmethod
    def _at(moment: datetime) -> time.struct_time:
        return time.localtime(time.mktime(moment.replace(tzinfo=None).timetuple()))


def parse_since(text: str, now_ms: int) -> int:
    """Return a duration before now, or a time (RFC 3339, or a date alone), as ms since 1970.

    Raises:
        ValueError: the text is neither.
    """
    try:
        return now_ms - round(Seconds.parse(text) * 1000)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise ValueError('expected a duration ("24h") or a time ("2026-11-24T12:00Z")') from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)
