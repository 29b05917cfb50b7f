"""minisign's keys and signatures (https://jedisct1.github.io/minisign/), format "ED" (prehashed).

Ed25519 is computed by the command `openssl` (ed25519.py, the node's), and the hash, BLAKE2b,
by Python.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import BinaryIO, NamedTuple

from update_parts.ed25519 import KeyTrouble, is_signed_by, pem_of

__all__ = ["PublicKey", "Signature", "Unfit", "parse_key", "parse_signature", "verify"]

_LEGACY, _PREHASHED = b"Ed", b"ED"
_KEY_BYTES = 2 + 8 + 32
_SIGNATURE_BYTES = 2 + 8 + 64
_GLOBAL_BYTES = 64
_TRUSTED = "trusted comment: "


class Unfit(Exception):
    """A bundle, a signature or a key cannot be used; the message says why, and what to do."""


class PublicKey(NamedTuple):
    """A key that signatures are verified with."""

    id: str
    """As minisign shows it: up to 16 hexadecimal digits."""
    raw: bytes
    text: str
    """The line that has the key, in base64."""


class Signature(NamedTuple):
    """The content of a `.minisig` file."""

    key_id: str
    of_file: bytes
    trusted_comment: str
    of_comment: bytes
    """Of `of_file` and the trusted comment: minisign's "global signature"."""


def parse_key(text: str, where: str) -> PublicKey:
    """Return the key of a `.pub` file, or of its second line alone.

    Raises:
        Unfit: the text is not a public key of minisign.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("untrusted comment:"):
        del lines[0]
    content = _decode(lines[0], _KEY_BYTES) if len(lines) == 1 else None
    if content is None or not content.startswith(_LEGACY):  # a key has "Ed" for both formats
        raise Unfit(f"{where} is not a public key of minisign (a .pub file)")
    return PublicKey(_key_id(content), content[10:], lines[0])


def parse_signature(text: str, where: str) -> Signature:
    """Return the content of a `.minisig` file.

    Raises:
        Unfit: the text is not a signature of minisign, or one in its legacy format.
    """
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) != 4 or not lines[0].startswith("untrusted comment:"):
        raise Unfit(f"{where} is not a signature of minisign (a .minisig file of four lines)")
    of_file, of_comment = _decode(lines[1], _SIGNATURE_BYTES), _decode(lines[3], _GLOBAL_BYTES)
    if of_file is None or of_comment is None or not lines[2].startswith(_TRUSTED):
        raise Unfit(f"{where} is a damaged signature: fetch it again")
    if of_file[:2] != _PREHASHED:
        raise Unfit(
            f"{where} is a signature in another format than minisign's newer one: "
            "sign the file again with minisign 0.10 or newer, without -l"
        )
    comment = lines[2].removeprefix(_TRUSTED)
    return Signature(_key_id(of_file), of_file[10:], comment, of_comment)


def verify(file: BinaryIO, signature: Signature, key: PublicKey, where: str) -> None:
    """Verify both signatures.

    Raises:
        Unfit: one of them does not fit, or there is no `openssl`.
    """
    digest = hashlib.blake2b()
    while piece := file.read(1 << 20):
        digest.update(piece)
    if not _fits(key, signature.of_file, digest.digest()):
        raise Unfit(
            f"{where} is not what was signed with the key {key.id}: it is damaged, cut off or "
            "changed; fetch it again, and its signature"
        )
    signed = signature.of_file + signature.trusted_comment.encode()
    if not _fits(key, signature.of_comment, signed):
        raise Unfit(f"the trusted comment of the signature of {where} was changed; fetch it again")


def _fits(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        return is_signed_by(pem_of(key.raw), message, signature)
    except KeyTrouble as error:
        raise Unfit(f"signatures cannot be verified: {error}") from None


def _decode(line: str, length: int) -> bytes | None:
    """Return what a line of base64 has; None if it is not just as long, or spelt in another way."""
    try:
        content = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    canonical = base64.b64encode(content).decode() == line
    return content if canonical and len(content) == length else None


def _key_id(content: bytes) -> str:
    return f"{int.from_bytes(content[2:10], 'little'):X}"
