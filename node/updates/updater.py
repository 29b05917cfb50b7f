"""Takes a bundle in, hands it to root, and says what becomes of it.

    idle ──► offered ──install──► fetching | receiving ──► staged ──► installing ──► trial ──► kept
                                      └─► failed              └─► refused               └─► undone

From `staged` on, root acts (deploy/update --staged), and reports in a file. The node that says
`kept` or `undone` is another process than the one that was asked: what it has to know is in a file
of its own, with the place that waits for the answer.

Used on the loop's thread. Nothing is looked at unless an update is under way.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from node import __version__
from node.health import UpdateHealth
from node.system.clock import Clock
from node.system.safe_files import write_file
from node.topics import UPDATE_PIECE
from node.updates.request import Offer, is_among, parse_offer
from node.updates.staging import Staging

__all__ = ["Reply", "Updater"]

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
TAKEN_UP_WITHIN_S = 600.0
"""How long root may take to begin."""
ENDED_WITHIN_S = 4 * 3600.0
"""How long an installation and its trial may take."""
NEXT_PIECE_WITHIN_S = 3600.0
PIECE_EVERY_S = 0.25
"""How far the answers to pieces are apart. Who sends each piece after the answer to the one before
stays below what `RateLimit` lets in, and in no reading's way."""
_MOST_OWED = 20
_PACKAGE = "/usr/lib/sensor-node"
"""Where the Debian package has the node; a container has it from there, too."""
_BY_APT = (
    "this node is a Debian package, which apt updates (sudo apt install ./sensor-node_VERSION.deb)"
    ", or a container, which gets a newer image"
)
_STATE, _REPORT = "update-state.json", "update-report.json"

State = Literal[
    "idle", "offered", "fetching", "receiving", "staged", "installing", "trial",
    "kept", "undone", "refused", "failed",
]  # fmt: skip
_COMING: tuple[State, ...] = ("fetching", "receiving")
_WITH_ROOT: tuple[State, ...] = ("staged", "installing", "trial")
_PERCENT: dict[State, int] = {"staged": 60, "installing": 70, "trial": 90}


class Reply(msgspec.Struct, frozen=True):
    """Where an answer goes."""

    topic: str
    correlation: bytes = b""


class _Saved(msgspec.Struct, frozen=True):
    """What outlives the process."""

    state: State = "idle"
    text: str = ""
    offer: Offer | None = None
    request: str = ""
    """The id of the request that root is given."""
    reply: Reply | None = None
    """Who waits for the end."""


class _Report(msgspec.Struct, frozen=True):
    """What root has written; see deploy/update_parts/staged.py."""

    request: str
    state: Literal["installing", "trial", "kept", "undone", "refused"]
    text: str = ""


def _piece_in(payload: bytes) -> tuple[int, str, bytes]:
    """Return the offset, the digest and the base64 of a piece."""
    words = payload.split()
    if len(words) != 3 or not words[0].isdigit() or len(words[0]) > 12:
        raise ValueError("a piece is: OFFSET DIGEST BASE64")
    return int(words[0]), words[1].decode(errors="replace"), words[2]


class Updater:
    """The updates of this node."""

    def __init__(
        self,
        url: str | None,
        clock: Clock,
        *,
        state_dir: Path,
        device: str,
        later: Callable[[Callable[[], None]], None],
        answer: Callable[[str, Reply, dict[str, Any]], bool],
        changed: Callable[[], None],
    ) -> None:
        """Go on with what an earlier process has begun.

        `url`: what the address of a bundle begins with; None: none is fetched. `device`: the id of
        this node. `later` has the loop call a function; it is called on another thread. `answer`
        sends the answer to a command, and returns whether there is a connection for it.
        `changed`: health is to be published.
        """
        self._url = url
        self._clock = clock
        self._device = device
        self._later = later
        self._answer = answer
        self._changed = changed
        self._state_file = state_dir / _STATE
        self._report_file = state_dir / _REPORT
        self._staging = Staging(state_dir)
        self._saved = self._load()
        self._cancelled = threading.Event()
        self._since_s = clock.monotonic()
        """When the present state, or the newest piece, came."""
        self._said_percent: int | None = None
        self._owed: deque[tuple[float, Reply, dict[str, Any]]] = deque(maxlen=_MOST_OWED)
        """Answers to pieces, and when each is due."""
        self._answered_at_s = -math.inf
        """When the newest of them is due."""
        self.next_due_s = math.inf
        if self._saved.state == "fetching":
            self._fetch()
        self._stage_if_whole()
        self._look_again()

    def _load(self) -> _Saved:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=_Saved)
        except (OSError, msgspec.DecodeError):
            return _Saved()

    # -- commands

    def command(self, payload: bytes, reply: Reply) -> dict[str, Any]:
        """Do what a message on `B/N/cmd/update` asks for; return the answer of the moment.

        Raises:
            ValueError: it is refused; the message says why.
        """
        word = payload.strip()
        if word not in (b"", b"cancel") and sys.prefix == _PACKAGE:
            raise ValueError(_BY_APT)
        if word == b"cancel":
            self._cancel()
        elif word == b"install":
            if self._saved.offer is None:
                raise ValueError("no bundle has been offered: name one")
            self._refuse_second()
            self._start(self._saved.offer, reply)
        elif word:
            return self._take(parse_offer(payload), reply)
        return {**self._facts(), "received": self._received}

    def piece(self, payload: bytes, reply: Reply) -> None:
        """Take a piece of a bundle: `OFFSET DIGEST BASE64`; answer a little later.

        `received` in the answer says where the next piece begins, after an error, too.
        """
        offer, error = self._saved.offer, ""
        try:
            offset, digest, text = _piece_in(payload)
            piece = base64.b64decode(text, validate=True)
            if offer is None or self._saved.state != "receiving":
                raise ValueError("no bundle is awaited in pieces: name it by the command update")
            if len(digest) < 8 or not offer.bundle.startswith(digest):
                raise ValueError(f"the bundle that is awaited is {offer.bundle[:16]}...")
            self._staging.add(offset, piece, offer)
        except (ValueError, OSError) as wrong:
            error = str(wrong)
        else:
            self._since_s = self._clock.monotonic()
        content: dict[str, Any] = {"ok": not error, "received": self._received}
        if error:
            content["error"] = error
        else:
            self._stage_if_whole()
        self._answered_at_s = max(self._clock.monotonic(), self._answered_at_s) + PIECE_EVERY_S
        self._owed.append((self._answered_at_s, reply, content))
        self._look_again()

    @property
    def _received(self) -> int:
        """Return how much of the bundle has come: all of it, once it is with root."""
        saved = self._saved
        whole = saved.state in _WITH_ROOT and saved.offer is not None
        return saved.offer.size if whole and saved.offer else self._staging.received

    def _take(self, offer: Offer, reply: Reply) -> dict[str, Any]:
        if not is_among(self._device, offer):
            said = f"this node is not among the {offer.share:g} % that the bundle is for"
            return {**self._facts(), "state": "held back", "text": said}
        if offer.file is not None and self._url is None:
            raise ValueError("[update] url does not say from where bundles may be fetched")
        before = self._saved.offer
        goes_on = self._saved.state == "receiving" and before and before.bundle == offer.bundle
        if not goes_on:
            self._refuse_second()
            if offer.offer:
                self._enter("offered", f"{offer.version} can be installed", offer=offer)
            else:
                self._start(offer, reply)
        return {**self._facts(), "received": self._received}

    def _refuse_second(self) -> None:
        state, offer = self._saved.state, self._saved.offer
        if state in (*_COMING, *_WITH_ROOT) and offer is not None:
            end = "cancel it first" if state in _COMING else "wait for its end"
            raise ValueError(f"the update to {offer.version} is under way ({state}): {end}")

    def _start(self, offer: Offer, reply: Reply) -> None:
        self._staging.begin(offer)
        request = os.urandom(8).hex()
        state: State = "receiving" if offer.file is None else "fetching"
        text = f"the bundle of {offer.version} is coming"
        self._enter(state, text, offer=offer, request=request, reply=reply)
        if state == "fetching":
            self._fetch()

    def _cancel(self) -> None:
        if self._saved.state == "staged" and not self._staging.take_back():
            raise ValueError(
                "root installs it already: it goes back by itself if it is not healthy"
            )
        if self._saved.state in _WITH_ROOT and self._saved.state != "staged":
            raise ValueError(
                "root installs it already: it goes back by itself if it is not healthy"
            )
        if self._saved.state not in (*_COMING, "staged", "offered"):
            raise ValueError("no update is under way")
        self._cancelled.set()
        self._staging.drop()
        self._enter("idle", "cancelled", offer=None, request="")

    # -- the work

    def _fetch(self) -> None:
        offer, request = self._saved.offer, self._saved.request
        if offer is None or offer.file is None or self._url is None:
            self._enter("failed", "[update] url does not say from where bundles may be fetched")
            return
        url = f"{self._url.rstrip('/')}/{offer.file}"
        cancelled = self._cancelled = threading.Event()

        def work() -> None:
            self._staging.fetch(url, offer, cancelled)
            if not cancelled.is_set():
                self._staging.stage(offer, request)

        self._work(work)

    def _stage_if_whole(self) -> None:
        """Hand a bundle to root whose last piece has come."""
        offer = self._saved.offer
        if self._saved.state == "receiving" and offer and self._staging.received == offer.size:
            self._work(partial(self._staging.stage, offer, self._saved.request))

    def _work(self, work: Callable[[], None]) -> None:
        request = self._saved.request

        def run() -> None:
            error = ""
            try:
                work()
            except (ValueError, OSError) as wrong:
                error = str(wrong)
            self._later(partial(self._came, request, error))

        threading.Thread(target=run, name="update", daemon=True).start()

    def _came(self, request: str, error: str) -> None:
        """React to the end of the work on a request, which may have been cancelled meanwhile."""
        if request != self._saved.request or self._saved.state not in _COMING:
            return
        if error:
            self._staging.drop()
            self._enter("failed", error)
        else:
            self._enter("staged", "the bundle is there, and waits for root")

    # -- what root makes of it

    def look(self, now_s: float) -> None:
        """Look at what goes on, if it is due."""
        if now_s < self.next_due_s:
            return
        while self._owed and self._owed[0][0] <= now_s:
            _, reply, content = self._owed.popleft()
            self._answer(UPDATE_PIECE, reply, content)
        state = self._saved.state
        if state in _WITH_ROOT:
            self._read_report(now_s)
        elif state == "receiving" and now_s > self._since_s + NEXT_PIECE_WITHIN_S:
            self._staging.drop()
            self._enter("failed", "no piece has come for an hour")
        elif self._percent != self._said_percent:
            self._said_percent = self._percent
            self._changed()
        self._answer_end()
        self._look_again()

    def _read_report(self, now_s: float) -> None:
        try:
            report = msgspec.json.decode(self._report_file.read_bytes(), type=_Report)
        except (OSError, msgspec.DecodeError):
            report = None
        if report is not None and report.request == self._saved.request:
            if (report.state, report.text) != (self._saved.state, self._saved.text):
                self._enter(report.state, report.text)
            elif now_s > self._since_s + ENDED_WITHIN_S:
                self._enter(
                    "failed",
                    "root has not said how it ended (sudo journalctl -u sensor-node-staged)",
                )
        elif self._saved.state == "staged" and now_s > self._since_s + TAKEN_UP_WITHIN_S:
            self._staging.take_back()
            self._staging.drop()
            self._enter(
                "failed",
                "root has not taken the bundle up: is sensor-node-staged.path active? "
                "(sudo systemctl status sensor-node-staged.path)",
            )

    def _answer_end(self) -> None:
        """Tell who has asked for the update how it has ended, once there is a connection."""
        saved = self._saved
        if saved.reply is None or saved.state in (*_COMING, *_WITH_ROOT):
            return
        if self._answer("update", saved.reply, {"ok": saved.state == "kept", **self._facts()}):
            self._save(msgspec.structs.replace(saved, reply=None))

    def _look_again(self) -> None:
        waits = self._saved.state in (*_COMING, *_WITH_ROOT) or self._saved.reply is not None
        self.next_due_s = self._clock.monotonic() + LOOK_EVERY_S if waits else math.inf
        if self._owed:
            self.next_due_s = min(self.next_due_s, self._owed[0][0])

    # -- states

    def _enter(self, state: State, text: str, **changes: Any) -> None:
        saved = msgspec.structs.replace(self._saved, state=state, text=text, **changes)
        if state == "kept":
            saved = msgspec.structs.replace(saved, offer=None)
        level = logging.WARNING if state in ("undone", "refused", "failed") else logging.INFO
        _log.log(level, "update: %s: %s", state, text)
        self._since_s = self._clock.monotonic()
        self._save(saved)
        self._look_again()
        self._changed()

    def _save(self, saved: _Saved) -> None:
        self._saved = saved
        try:
            write_file(self._state_file, msgspec.json.encode(saved))
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._state_file, error)

    @property
    def _percent(self) -> int | None:
        saved = self._saved
        if saved.state in _COMING and saved.offer is not None:
            return self._staging.received * _PERCENT["staged"] // saved.offer.size
        return _PERCENT.get(saved.state)

    @property
    def health(self) -> UpdateHealth:
        """Return the state, for the health of the node."""
        saved = self._saved
        return UpdateHealth(
            state=saved.state,
            text=saved.text,
            installed_version=__version__,
            latest_version=saved.offer.version if saved.offer else __version__,
            in_progress=saved.state in (*_COMING, *_WITH_ROOT),
            update_percentage=self._percent,
            bundle=saved.offer.bundle if saved.offer else "",
        )

    def _facts(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self.health)
