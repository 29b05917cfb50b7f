"""Values in a server that takes InfluxDB's line protocol; the numbers in a file of SQLite.

InfluxDB 1, 2 and 3, VictoriaMetrics and QuestDB take it. A point is identified by its tags and its
time, so one that is written again replaces itself. The numbers are committed after the server has
the values and before the broker gets its acknowledgement. So each value is there once, whatever is
killed in between.

Source: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

from node.store.batches import Batch, StoredReading
from node.store.database import Refused, Unavailable, Written
from node.store.sqlite import SqliteDatabase

__all__ = ["InfluxDatabase", "lines"]

_TIMEOUT_S = 30.0
_SHOWN = 200
_MEASUREMENT = "sensor_node"
_REMEDIES = {
    401: "check the token (--token-file) or the login",
    403: "the token may not write there",
    404: "check the path, and that the database or bucket exists",
}


class InfluxDatabase(SqliteDatabase):
    """`url` is that of the server's write API, with its database or bucket in it."""

    def __init__(self, url: str, file: Path, *, token: str | None) -> None:
        super().__init__(file)
        self._url = _with_precision(url)
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if token:
            self._headers["Authorization"] = f"Token {token}"
        self._lines: list[str] = []

    def write(self, batches: Sequence[Batch]) -> Written:
        """As `Database.write`; nothing is left of a transaction that was undone."""
        self._lines.clear()
        return super().write(batches)

    def _insert(self, batch: Batch, stream_id: int, readings: list[StoredReading]) -> None:
        """Collect the values; what is not a number is an event in the file."""
        self._lines += lines(batch, readings)
        self._insert_events(stream_id, readings)

    def _before_commit(self) -> None:
        content, self._lines = "\n".join(self._lines), []
        if content:
            self._post(content.encode())

    def _post(self, content: bytes) -> None:
        request = urllib.request.Request(self._url, content, self._headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                answer.read(_SHOWN)
        except urllib.error.HTTPError as error:
            said = error.read(_SHOWN).decode(errors="replace").strip() or error.reason
            if error.code in (400, 413, 422):
                raise Refused(f"{self._where}: {said}") from None
            remedy = _REMEDIES.get(error.code, "")
            text = f"{self._where}: {error.code} {said}"
            raise Unavailable(f"{text}; {remedy}" if remedy else text) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{self._where}: {getattr(error, 'reason', error)}") from None


def lines(batch: Batch, readings: list[StoredReading]) -> Iterator[str]:
    """Yield a line for each reading with values: sensor, node -> channels, seq, stream, clock."""
    for reading in readings:
        if not reading.values:
            continue
        tags = f"node={_escaped(batch.node)},sensor={_escaped(reading.sensor)}"
        fields = [f"{_escaped(name)}={value!r}" for name, value in reading.values.items()]
        fields += [f"seq={reading.seq}i", f'stream="{_quoted(batch.stream)}"']
        fields += [f"synced={str(reading.synced).lower()}"]
        fields += ["simulated=true"] if batch.simulated else []
        time_ms = round(reading.time.timestamp() * 1000)
        yield f"{_MEASUREMENT},{tags} {','.join(fields)} {time_ms}"


def _escaped(name: str) -> str:
    """Return a tag or a field key with what the protocol uses itself escaped."""
    return re.sub(r"([,= \\])", r"\\\1", name)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _with_precision(url: str) -> str:
    """Return the address with times in milliseconds asked for."""
    parts = urlsplit(url)
    precision = "millisecond" if parts.path.endswith("write_lp") else "ms"
    query = "&".join(filter(None, (parts.query, urlencode({"precision": precision}))))
    return urlunsplit(parts._replace(query=query))
