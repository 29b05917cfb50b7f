"""Ed25519 (RFC 8032) by the command `openssl`: keys, signatures and their check.

Debian installs the command with its certificates, on every architecture. So the node needs no
library for it, which a 32-bit Pi would have to compile, and no memory between two signatures; and
anyone can check a signature without the node's programs. Imported only where something is signed or
checked. May be called on any thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "KeyTrouble",
    "id_of",
    "is_signed_by",
    "new_private_key",
    "pem_of",
    "public_key_of",
    "sign",
]

_LIMIT_S = 30.0
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of a public key (RFC 8410, section 4)."""
_PUBLIC_PEM = re.compile(
    r"\s*-----BEGIN PUBLIC KEY-----\s*([A-Za-z0-9+/=\s]+?)\s*-----END PUBLIC KEY-----\s*"
)
_SIGNATURE_BYTES = 64


class KeyTrouble(Exception):
    """A key or the command cannot be used; the message says why, and what to do."""


def new_private_key() -> bytes:
    """Return a new private key in PEM (PKCS #8).

    Raises:
        KeyTrouble: the command fails.
    """
    return _openssl("genpkey", "-algorithm", "ED25519")


def public_key_of(private: Path) -> str:
    """Return the public key of a private one, in PEM.

    Raises:
        KeyTrouble: the file is not a private key of this kind, or cannot be read.
    """
    public = _openssl("pkey", "-in", str(private), "-passin", "pass:", "-pubout").decode()
    id_of(public)
    return public


def pem_of(raw: bytes) -> str:
    """Return the 32 bytes of a public key in PEM."""
    encoded = base64.b64encode(_SPKI + raw).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{encoded}\n-----END PUBLIC KEY-----\n"


def id_of(public: str) -> str:
    """Return a short name of a public key in PEM: 16 hex digits of the SHA-256 of its DER.

    Raises:
        KeyTrouble: it is not a public key of this kind.
    """
    match = _PUBLIC_PEM.fullmatch(public)
    try:
        der = base64.b64decode(match[1]) if match else b""
    except binascii.Error:
        der = b""
    if len(der) != len(_SPKI) + 32 or not der.startswith(_SPKI):
        raise KeyTrouble("this is not an Ed25519 public key in PEM")
    return hashlib.sha256(der).hexdigest()[:16]


def sign(message: bytes, private: Path) -> bytes:
    """Return the signature of a message, 64 bytes.

    Raises:
        KeyTrouble: the key cannot be used.
    """
    key = ("-inkey", str(private), "-passin", "pass:")
    with _in_memory(message) as file:
        signature = _openssl("pkeyutl", "-sign", "-rawin", *key, "-in", _path(file), files=(file,))
    if len(signature) != _SIGNATURE_BYTES:
        raise KeyTrouble(f"{private} is not an Ed25519 key")
    return signature


def is_signed_by(public: str, message: bytes, signature: bytes) -> bool:
    """Return whether a signature of a message was made with the private part of a key.

    Raises:
        KeyTrouble: the key is not one, or the command fails.
    """
    id_of(public)
    with (
        _in_memory(public.encode()) as key,
        _in_memory(message) as text,
        _in_memory(signature) as proof,
    ):
        keys = ("-pubin", "-inkey", _path(key))
        files = ("-in", _path(text), "-sigfile", _path(proof))
        try:
            _openssl("pkeyutl", "-verify", "-rawin", *keys, *files, files=(key, text, proof))
        except _NotVerified:
            return False
    return True


class _NotVerified(KeyTrouble):
    """The signature is not by this key, or not of this message."""


def _in_memory(content: bytes) -> BinaryIO:
    """Return a file without a name: the command wants the size of what it signs, so no pipe."""
    file = os.fdopen(os.memfd_create("openssl"), "wb")
    file.write(content)
    file.flush()
    return file


def _path(file: BinaryIO) -> str:
    return f"/dev/fd/{file.fileno()}"


def _openssl(*words: str, files: Sequence[BinaryIO] = ()) -> bytes:
    """Return what the command prints.

    Raises:
        KeyTrouble: it fails.
    """
    try:
        done = subprocess.run(
            ["openssl", *words],
            env={**os.environ, "LC_ALL": "C", "OPENSSL_CONF": "/dev/null"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[file.fileno() for file in files],
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise KeyTrouble("the command openssl is missing: sudo apt install openssl") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise KeyTrouble(f"openssl fails: {error}") from error
    if b"Signature Verification Failure" in done.stdout:
        raise _NotVerified("the signature does not fit")
    if done.returncode:
        first_line = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise KeyTrouble(f"openssl fails: {first_line[:200] or done.returncode}")
    return done.stdout
