"""Other servers that the broker sends the node to (MQTT 5, §4.11), and the way back.

    configured ──"Server moved"──► base ──"Use another server"──► another
        ▲                           ▲                               │
        └───── 30 s without it ─────┴──── after a loss, at once ────┘

A server reference makes the node send its login elsewhere, so it must come from a broker that has
proved who it is. With `[mqtt.tls]` it has, and the other server has to prove the same: its
certificate must be valid for the name in the reference, or for `server_name`. Without TLS anybody
on the way may have written it, so only servers that `[mqtt] servers` lists are followed. With TLS
such a list restricts them.

"Server moved" is remembered in the state directory once the other server has let the node in, until
`[mqtt] host` or `port` changes. "Use another server" lasts as long as the connection there.

Used on the thread of the link's owner; imported when a broker first refers to another one.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from node.config.schema import HostName, MqttTable
from node.config.values import parse_server
from node.mqtt.reasons import SERVER_MOVED
from node.system.safe_files import write_file

__all__ = ["Referrals"]

_log = logging.getLogger(__name__)

MAX_HOPS = 4
"""How many servers in a row may send the node on before one has kept it."""
MAX_REFERENCES = 8
TRY_OTHER_AFTER_S = 30.0
"""How long the node tries the server that it expects to return, before it looks at another one."""
_LONGEST_SHOWN = 80


class _Moved(msgspec.Struct, frozen=True):
    """The content of the file."""

    configured: str
    moved_to: str


class Referrals:
    """Where the node connects: the configured server, or another one that it was sent to."""

    def __init__(self, configured: MqttTable, file: Path | None, now_s: float) -> None:
        """`file`: where to remember that the broker has moved; with None it is forgotten."""
        self._configured = configured
        self._file = file
        moved_to = self._read()
        self._base = configured if moved_to is None else moved_to
        self.place = self._base
        """The table with the address to connect to."""
        self._is_for_good = False
        """Whether `place` is where the base has moved to, if it lets the node in."""
        self._other: MqttTable | None = None
        """The last other server that has let the node in."""
        self._turn = 0
        """How often such a server, or the configured one, was tried in place of the base."""
        self._seen: set[str] = set()
        """Addresses of the servers that have sent the node on since one has kept it."""
        self._since_s = now_s

    @property
    def moved_to(self) -> str:
        """Return the address of the server that takes the configured one's place; "" if none."""
        return "" if self._base is self._configured else self._base.address

    def follow(self, code: int, reference: str) -> str:
        """Go to a server that the present one names; return why not, "" if there is one.

        A reference may name several servers, separated by spaces.
        """
        if not reference:
            return "sends this node to another server and names none"
        named = [self._named(text) for text in reference.split(" ")[:MAX_REFERENCES]]
        known = [table for table in named if table is not None]
        shown = ascii(reference[:_LONGEST_SHOWN])
        if not known:
            return f"sends this node to {shown}, which is not the address of a server"
        allowed = [table for table in known if self._may_follow(table)]
        if not allowed:
            why = "is not in [mqtt] servers"
            if self._configured.servers is None:
                why = "the node follows only with TLS, or if [mqtt] servers lists it"
            return f"sends this node to {shown}, which {why}"
        self._seen.add(self.place.address)
        new = [table for table in allowed if table.address not in self._seen]
        if not new:
            return f"sends this node to {shown} again, which has not kept it"
        if len(self._seen) > MAX_HOPS:
            return f"sends this node to {shown}, as {MAX_HOPS} others before it have done"
        self._is_for_good = code == SERVER_MOVED and self.place is self._base
        self.place = new[0]
        return ""

    def arrived(self) -> None:
        """Note that the present server has let the node in."""
        if self._is_for_good:
            self._is_for_good = False
            self._base = self.place
            self._write()
        elif self.place is not self._base:
            self._other = self.place

    def lasted(self) -> None:
        """Note that the present server has kept the node for a while."""
        self._seen.clear()

    def lost(self, now_s: float) -> bool:
        """Go back after a lost connection; return whether that is another server."""
        return self._go(self._base, now_s)

    def gave_up(self, now_s: float) -> bool:
        """Go back because a server could not be followed; return whether that is another one."""
        self._seen.clear()
        return self._go(self._base, now_s)

    def failed(self, now_s: float) -> bool:
        """Note a failed attempt to connect; return whether the next one is to another server."""
        if self.place is not self._base:
            self._seen.add(self.place.address)
            return self._go(self._base, now_s)
        if now_s - self._since_s < TRY_OTHER_AFTER_S:
            return False
        others = [t for t in (self._configured, self._other) if t and t is not self._base]
        if not others:
            return False
        self._turn += 1
        return self._go(others[self._turn % len(others)], now_s)

    def _go(self, table: MqttTable, now_s: float) -> bool:
        self._since_s = now_s
        self._is_for_good = False
        is_another, self.place = table is not self.place, table
        return is_another

    def _named(self, text: str) -> MqttTable | None:
        """Return the table for a reference; without a port it is the configured one."""
        try:
            host, port = parse_server(text).parts
        except ValueError:
            return None
        for known in (self._configured, self._base):
            if (host, port or self._configured.broker_port) == _place_of(known):
                return known
        return self._at(host, port)

    def _at(self, host: str, port: int | None) -> MqttTable:
        return msgspec.structs.replace(
            self._configured, host=HostName(host), port=port or self._configured.broker_port
        )

    def _may_follow(self, table: MqttTable) -> bool:
        configured = self._configured
        if table is configured:
            return True
        if configured.servers is None:
            return configured.tls is not None
        listed = (server.parts for server in configured.servers)
        return _place_of(table) in {(h, port or configured.broker_port) for h, port in listed}

    def _read(self) -> MqttTable | None:
        """Return where the configured server has moved to, if it still may be followed."""
        if self._file is None:
            return None
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=_Moved)
            table = self._at(*parse_server(known.moved_to).parts)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.DecodeError) as error:
            _log.warning("%s cannot be read (%s); trying the configured broker", self._file, error)
            return None
        fits = known.configured == self._configured.address
        return table if fits and self._may_follow(table) else None

    def _write(self) -> None:
        if self._file is None:
            return
        host, port = _place_of(self._base)
        moved_to = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        content = _Moved(self._configured.address, moved_to)
        try:
            if self._base is self._configured:
                self._file.unlink(missing_ok=True)
            else:
                write_file(self._file, msgspec.json.encode(content))
        except OSError as error:
            _log.warning(
                "%s cannot be written (%s): the next start asks %s again",
                self._file,
                error.strerror,
                self._configured.address,
            )


def _place_of(table: MqttTable) -> tuple[str, int]:
    return table.host.rstrip(".").lower(), table.broker_port
