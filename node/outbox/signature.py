"""Signs the head of the log's chain, and checks such a signature.

What is signed is a text of JSON, the statement: which node, which hash of which reading, when, and
the nonce of the one who asked. It travels as a text, so that its bytes stay as they were signed.

The key is a file of the state directory that only the node's user can read. `sensor-node sign`
makes it; a running node only uses it. Imported only where something is signed or checked.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

import msgspec

from node.outbox.proof import Head
from node.system.clock import utc_text
from node.system.ed25519 import (
    KeyTrouble,
    id_of,
    is_signed_by,
    new_private_key,
    public_key_of,
    sign,
)
from node.system.safe_files import write_file

__all__ = ["KEY_FILE", "Signed", "Statement", "make_key", "signed_head"]

KEY_FILE = "signing.key"


class Statement(msgspec.Struct, frozen=True, tag_field="signs", tag="chain head"):
    """What a signature says. `signs` keeps it apart from whatever else a key may sign."""

    node: str
    stream: str
    seq: int
    hash: str
    """Of the reading `seq`, in hex."""
    time: str
    """When it was signed."""
    clock: str
    """Whether that time was known: `synced` or `unsynced`."""
    nonce: str
    key: str
    """The id of the public key."""

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)


class Signed(msgspec.Struct, frozen=True):
    """A statement with its signature, as it is sent and stored."""

    statement: str
    """The text that was signed, in UTF-8."""
    signature: str
    """In base64."""

    def checked(self, public: str) -> Statement:
        """Return what it says, if the signature is by this key.

        Raises:
            KeyTrouble: it is not, or there is no such key.
            ValueError: it is not of this form.
        """
        try:
            signature = base64.b64decode(self.signature, validate=True)
        except binascii.Error as error:
            raise ValueError("its signature is not base64") from error
        if not is_signed_by(public, self.statement.encode(), signature):
            raise KeyTrouble(f"the signature was not made with the key {id_of(public)}")
        return msgspec.json.decode(self.statement, type=Statement)


def make_key(state_dir: Path) -> str:
    """Return the public key of the node, in PEM; make the pair if there is none.

    Raises:
        KeyTrouble: the key cannot be made or used.
        OSError: it cannot be written.
    """
    file = state_dir / KEY_FILE
    if not os.path.lexists(file):
        write_file(file, new_private_key(), mode=0o600)
    return public_key_of(_own(file))


def _own(file: Path) -> Path:
    """Return the file, if only its owner can read it.

    Raises:
        KeyTrouble: it is missing, a link, or open to others.
    """
    try:
        status = file.lstat()
    except FileNotFoundError:
        raise KeyTrouble(
            "there is no key yet: `sudo sensor-node sign --public-key` makes one"
        ) from None
    except OSError as error:
        raise KeyTrouble(f"{file} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise KeyTrouble(
            f"{file} is not used, because others than its owner may read it; remove it, and make "
            "another one: sudo sensor-node sign --public-key"
        )
    if not os.access(file, os.R_OK):
        raise KeyTrouble(f"{file} cannot be read by this user: use sudo")
    return file


def signed_head(
    state_dir: Path,
    *,
    node: str,
    stream: str,
    head: tuple[int, bytes],
    nonce: str,
    utc_ms: int,
    synced: bool,
) -> Signed:
    """Return the signed head of a chain: the last chained reading, and its hash.

    It starts two processes, which take a fifth of a second or so on a Pi Zero.

    Raises:
        KeyTrouble: there is no key, or it cannot be used.
    """
    file = _own(state_dir / KEY_FILE)
    statement = Statement(
        node=node,
        stream=stream,
        seq=head[0],
        hash=head[1].hex(),
        time=utc_text(utc_ms),
        clock="synced" if synced else "unsynced",
        nonce=nonce,
        key=id_of(public_key_of(file)),
    )
    text = msgspec.json.encode(statement)
    return Signed(text.decode(), base64.b64encode(sign(text, file)).decode())
