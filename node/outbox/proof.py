"""Checks the chain of hashes: of a log, or of readings that a consumer has stored.

It finds the first reading that was altered, is missing, or was put in. What it compares with is in
the same file, so who can write that file could make all hashes again: a `Head` from elsewhere, as
`health` has it each minute, shows that. Pure but for reading the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from node.outbox.chain import Content, content_of, hash_after
from node.outbox.log_file import LogFile
from node.outbox.rows import Damaged, Row
from node.reading import ALARM_ACKNOWLEDGED, ALARM_OFF, ALARM_ON

__all__ = ["Head", "Stored", "Verdict", "check_export", "check_log", "stored_from"]

_AT_ONCE = 256
_TRIED = 200
"""The most readings of which each number may be from before the clock was set."""


class Head(msgspec.Struct, frozen=True):
    """A hash that is known from elsewhere, and its reading."""

    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Head:
        """Parse `1042:8f3c...`; raise ValueError if it is not one."""
        seq, _, written = text.partition(":")
        bytes.fromhex(written)
        if not written:
            raise ValueError("no hash")
        return cls(int(seq), written.lower())


class Verdict(msgspec.Struct):
    """What a check has found."""

    checked: int = 0
    """Readings whose content the chain covers, and that agree with it."""
    unchained: int = 0
    """Readings without a hash: from before the log was chained."""
    skipped: int = 0
    """Numbers that were never written: the chain goes on over them. Such readings were dropped, or
    were sent from memory while the log could not be written."""
    timeless: int = 0
    """Readings among the checked ones whose time is not covered."""
    first: int | None = None
    last: int | None = None
    faults: list[str] = []
    """What is wrong, in order of seq; [] if all is right."""
    head_seen: bool = False
    """Whether the head from elsewhere was compared."""

    def note(self, first_seq: int, last_seq: int) -> None:
        self.first = first_seq if self.first is None else self.first
        self.last = last_seq


def _span(first: int, last: int) -> str:
    return f"reading {first}" if first == last else f"readings {first} to {last}"


def _altered(first: int, last: int) -> str:
    """Say so of readings that were committed together, and share a hash."""
    return (
        f"reading {first} altered"
        if first == last
        else f"one of readings {first} to {last} altered"
    )


def _compare_head(verdict: Verdict, head: Head | None, seq: int, found: bytes) -> None:
    if head is None or head.seq != seq:
        return
    verdict.head_seen = True
    if found.hex() != head.hash:
        verdict.faults.append(f"the hash of reading {seq} is {found.hex()}, and not {head.hash}")


def _conclude(verdict: Verdict, head: Head | None) -> Verdict:
    if head is None or verdict.head_seen:
        return verdict
    if verdict.last is None or head.seq > verdict.last:
        after = (verdict.last or 0) + 1
        verdict.faults.append(f"{_span(after, head.seq)} missing at the end")
    else:
        verdict.faults.append(f"reading {head.seq}, whose hash is known, cannot be compared")
    return verdict


def check_log(log: LogFile, head: Head | None = None) -> Verdict:
    """Check the rows of a log, from its oldest one on."""
    verdict = Verdict()
    anchors = log.anchors.all()
    before: bytes | None = None
    after_seq = 0
    if head is not None and head.seq in anchors:
        _compare_head(verdict, head, head.seq, anchors[head.seq])
    while rows := list(log.rows_after(after_seq, _AT_ONCE)):
        for row in rows:
            first_seq = row.last_seq - row.count + 1
            known = [at for at in anchors if after_seq <= at < first_seq]
            if known:
                after_seq = max(known)
                before = anchors[after_seq]
            is_first = verdict.last is None and not known
            gap = (1, 0) if is_first else (after_seq + 1, first_seq - 1)
            verdict.note(first_seq, row.last_seq)
            after_seq = row.last_seq
            if row.hash is None:
                verdict.unchained += row.count
                before = None
                continue
            _check_row(verdict, log, row, before, gap)
            _compare_head(verdict, head, row.last_seq, row.hash)
            before = row.hash
    return _conclude(verdict, head)


def _check_row(
    verdict: Verdict, log: LogFile, row: Row, before: bytes | None, gap: tuple[int, int]
) -> None:
    which = _span(row.last_seq - row.count + 1, row.last_seq)
    try:
        right = (
            before is not None and hash_after(before, content_of(log.as_written(row))) == row.hash
        )
    except Damaged as error:
        verdict.faults.append(f"{which}: {error}")
        return
    if right:
        verdict.checked += row.count
        verdict.timeless += 0 if row.synced else row.count
        verdict.skipped += gap[1] - gap[0] + 1
    elif gap[0] <= gap[1]:
        verdict.faults.append(f"{_span(*gap)} missing")
        verdict.unchained += row.count
    elif before is None:
        verdict.faults.append(f"{which} cannot be checked: the hash before is missing")
    else:
        verdict.faults.append(_altered(row.last_seq - row.count + 1, row.last_seq))


class Stored(msgspec.Struct, frozen=True):
    """A reading as a consumer has it."""

    stream: str
    content: Content
    synced: bool
    hash: str

    def agrees_with(self, other: Stored) -> bool:
        """Return whether both can be the same reading: it may have got its true time in between."""
        (seq, at_ms, *rest), (other_seq, other_ms, *others) = self.content, other.content
        if (seq, rest) != (other_seq, others) or (at_ms != other_ms and self.synced):
            return False
        return self.hash == other.hash or not (self.hash and other.hash)

    @property
    def seq(self) -> int:
        return self.content[0]


def check_export(stored: Iterable[Stored], head: Head | None = None) -> Verdict:
    """Check readings of one stream, in any order; what came twice is checked to be the same."""
    verdict = Verdict()
    by_seq: dict[int, Stored] = {}
    for one in stored:
        first = by_seq.setdefault(one.seq, one)
        if not first.agrees_with(one):
            verdict.faults.append(f"reading {one.seq} is there twice, and differs")
        elif one.synced or one.hash:
            by_seq[one.seq] = one
    before: bytes | None = None
    row: list[Content] = []
    gaps: list[tuple[int, int]] = []
    for seq in sorted(by_seq):
        if verdict.last is not None and seq > verdict.last + 1:
            gaps.append((verdict.last + 1, seq - 1))
        verdict.note(seq, seq)
        row.append(by_seq[seq].content)
        if by_seq[seq].hash:
            told = bytes.fromhex(by_seq[seq].hash)
            _check_stored(verdict, before, row, told, gaps)
            _compare_head(verdict, head, seq, told)
            before, row, gaps = told, [], []
    verdict.unchained += len(row)
    verdict.faults += [f"{_span(*gap)} missing" for gap in gaps]
    return _conclude(verdict, head)


def _check_stored(
    verdict: Verdict,
    before: bytes | None,
    row: list[Content],
    told: bytes,
    gaps: list[tuple[int, int]],
) -> None:
    """Check the readings up to one with a hash; `gaps` are the numbers missing among them."""
    if before is not None:
        timeless = _timeless(before, row, told)
        if timeless is not None:
            verdict.checked += len(row)
            verdict.timeless += timeless
            verdict.skipped += sum(last - first + 1 for first, last in gaps)
            return
        if not gaps:
            verdict.faults.append(_altered(row[0][0], row[-1][0]))
            return
    verdict.unchained += len(row)
    verdict.faults += [f"{_span(*gap)} missing" for gap in gaps]


def _timeless(before: bytes, row: list[Content], told: bytes) -> int | None:
    """Return of how many of the readings the time is not covered; None if the hash differs.

    They are the first ones, from before the clock was set. Readings that were sent from memory have
    come without a hash, so a row may be several here.
    """
    counts = range(len(row) + 1) if len(row) <= _TRIED else (0, len(row))
    for count in counts:
        without: list[Content] = [(one[0], None, *one[2:]) for one in row[:count]]
        if hash_after(before, [*without, *row[count:]]) == told:
            return count
    return None


def stored_from(stream: str, item: dict[str, Any]) -> Stored:
    """Return a reading of `history`, or of a line of `watch --history --json`.

    Raises:
        ValueError: it is not one.
    """
    try:
        values = dict(item["values"]) if isinstance(item.get("values"), dict) else dict(item)
        hashed = values.pop("hash", None) or ""
        for key in ("seq", "sensor", "time", "clock"):
            values.pop(key, None)
        alarm = values.pop("alarm", None)
        pairs = dict(_alarm_pairs(alarm)) if isinstance(alarm, dict) else values
        bytes.fromhex(hashed)
        utc_ms = round(datetime.fromisoformat(item["time"]).timestamp() * 1000)
        numbers = msgspec.convert(list(pairs.values()), tuple[int | float, ...])
        content = (int(item["seq"]), utc_ms, str(item["sensor"]), tuple(pairs), numbers)
        return Stored(stream, content, item["clock"] == "synced", hashed)
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"not a reading: {error}") from error


def _alarm_pairs(alarm: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the channels of a record of an alarm, and their numbers, as the log has them."""
    name = f"alarm_{alarm['name']}"
    on = ALARM_ACKNOWLEDGED if alarm["acknowledged"] else ALARM_ON
    yield name, ALARM_OFF if alarm["state"] == "off" else on
    yield f"{name}_limit", alarm["limit"]
    if alarm["value"] is not None:
        yield f"{name}_value", alarm["value"]
