"""Signs the head of the log's chain for who asks over MQTT.

`sign` is called on the loop's thread; the signature is made on a thread of its own, because it
takes processes, and comes back by the loop's queue. Imported only if the log is chained.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from node.event_queue import Call
from node.outbox.outbox import Outbox
from node.system.clock import Clock

if TYPE_CHECKING:  # imported with the first request
    from node.outbox.signature import Signed

__all__ = ["HeadSigner"]


class HeadSigner:
    """Signs one head at a time."""

    def __init__(
        self,
        node: str,
        outbox: Outbox,
        clock: Clock,
        state_dir: Path,
        *,
        report: Callable[[Call], None],
    ) -> None:
        """`report` puts an event into the loop's queue."""
        self._node = node
        self._outbox = outbox
        self._clock = clock
        self._state_dir = state_dir
        self._report = report
        self._busy = False

    def sign(self, nonce: str, done: Callable[[Signed | str], None]) -> None:
        """Sign the head as it is now; `done` gets it, or why it cannot be signed.

        Raises:
            ValueError: another one is being signed, or nothing is chained.
        """
        if self._busy:
            raise ValueError("another signature is being made; try again later")
        head = self._outbox.chain_head
        if head is None:
            raise ValueError("the log has no chained reading yet")
        stream = self._outbox.stream_of(head[0])
        utc_ms, synced = round(self._clock.utc_s() * 1000), self._clock.synced()

        def finish(result: Signed | str) -> None:
            self._busy = False
            done(result)

        def work() -> None:
            from node.outbox.signature import signed_head
            from node.system.ed25519 import KeyTrouble

            result: Signed | str
            try:
                result = signed_head(
                    self._state_dir,
                    node=self._node,
                    stream=stream,
                    head=head,
                    nonce=nonce,
                    utc_ms=utc_ms,
                    synced=synced,
                )
            except (KeyTrouble, OSError) as error:
                result = str(error)
            self._report(Call(partial(finish, result)))

        self._busy = True
        threading.Thread(target=work, name="sign", daemon=True).start()
