"""What `B/N/cmd/update` asks for, and whether this node is among those that it is for. Pure."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

__all__ = ["MAX_BYTES", "Offer", "is_among", "parse_offer"]

MAX_BYTES = 300 << 20
"""The largest bundle, as in deploy/update_parts/bundle.py."""


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle that the node may install."""

    bundle: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Its SHA-256."""
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES)]
    """Its length in bytes."""
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9][0-9A-Za-z.!+]{0,30}\Z")]
    """The version that it has, for people; root believes the bundle alone."""
    signature: Annotated[str, msgspec.Meta(max_length=2048, pattern="^untrusted comment:")]
    """The content of its `.minisig` file."""
    file: (
        Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,127}\Z")] | None
    ) = None
    """Its name below `[update] url`; None: it comes in pieces."""
    share: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0
    """Per cent of the nodes that it is for."""
    offer: bool = False
    """Whether it is only offered, and waits for `install`."""


def parse_offer(payload: bytes) -> Offer:
    """Return what a payload asks for.

    Raises:
        ValueError: it cannot be understood; the message says why.
    """
    try:
        return msgspec.json.decode(payload, type=Offer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(
            f"its payload must be install, cancel, nothing, or a bundle as JSON ({error})"
        ) from None


def is_among(device: str, offer: Offer) -> bool:
    """Return whether a node is among the share of nodes that a bundle is for.

    The same nodes for the same bundle; those of a smaller share are among those of a larger one.
    """
    digest = hashlib.sha256(f"{device}\0{offer.bundle}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * 100 < offer.share
