"""A bundle on the operator's computer: what it says of itself, and its signature.

It is only looked at, so that a wrong file is noticed before it is sent for minutes. Whether the
signature is right, and the bundle fits the node, is root's to judge (deploy/update_parts).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from node.updates.request import MAX_BYTES, Offer

__all__ = ["NotABundle", "read_offer"]

_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 1 << 20
_PRODUCT = "sensor-node"
_MAX_SIGNATURE_BYTES = 2048
_SIGNATURE_BYTES, _GLOBAL_BYTES = 2 + 8 + 64, 64
"""As in deploy/update_parts: the manifest of a bundle, and minisign's two signatures."""


class NotABundle(Exception):
    """A file cannot be sent as a bundle; the message says why, and what to do."""


def read_offer(file: Path, *, fetch: bool = False, offer: bool = False) -> Offer:
    """Return what a node has to know of a bundle, whose signature is the file BUNDLE.minisig.

    `fetch`: the node gets the file by its name. `offer`: it waits for `install`.

    Raises:
        NotABundle: one of the two files is missing, or is something else.
    """
    try:
        size = file.stat().st_size
        if not file.is_file() or not 0 < size <= MAX_BYTES:
            raise NotABundle(f"{file} is not a bundle: that is a file of 1 to {MAX_BYTES} bytes")
        version = _version_in(file)
        signature = _signature_of(file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise NotABundle(f"{error.filename or file} cannot be read: {error.strerror}") from None
    named = {"file": file.name} if fetch else {}
    about = {"bundle": digest, "size": size, "version": version, "signature": signature}
    try:
        return msgspec.convert({**about, **named, "offer": offer}, Offer)
    except msgspec.ValidationError as error:
        if "$.file" in str(error):
            raise NotABundle(
                f"a node does not fetch a file named {file.name!r}: give it a name of letters, "
                "digits and . _ + -, on the server, too"
            ) from None
        raise NotABundle(f"{file} is a bundle that no node takes: {error}") from None


def _version_in(file: Path) -> str:
    """Return the version that the manifest of a bundle names."""
    try:
        with zipfile.ZipFile(file) as packed:
            if packed.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
                raise NotABundle(f"the manifest of {file} is too large: make the bundle again")
            manifest: Any = json.loads(packed.read(_MANIFEST))
        product, version = manifest["product"], manifest["version"]
    except (zipfile.BadZipFile, LookupError, NotImplementedError, RuntimeError, EOFError) as error:
        raise NotABundle(
            f"{file} is not a bundle of sensor-node ({_reason(error)}): give a file that ends in "
            ".bundle, as deploy/release --bundle makes it; if it is one, fetch it again"
        ) from None
    except (ValueError, TypeError) as error:
        raise NotABundle(f"the manifest of {file} is not valid ({error})") from None
    if product != _PRODUCT or not isinstance(version, str):
        raise NotABundle(f"{file} is a bundle of {product!r}, not of {_PRODUCT}")
    return version


def _reason(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def _signature_of(file: Path) -> str:
    """Return the content of the `.minisig` file of a bundle."""
    place = file.with_name(f"{file.name}.minisig")
    if not place.exists():
        raise NotABundle(
            f"the signature {place} is missing: fetch it together with the bundle, or sign the "
            f"bundle (minisign -S -s update.key -m {file.name})"
        )
    with place.open("rb") as stream:
        content = stream.read(_MAX_SIGNATURE_BYTES + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    lines = text.removesuffix("\n").split("\n")
    if len(content) > _MAX_SIGNATURE_BYTES or len(lines) != 4 or not _is_signature(lines):
        raise NotABundle(
            f"{place} is not a signature of minisign, which has four lines: fetch the signature "
            "of this bundle again, or sign it with minisign 0.10 or newer, without -l"
        )
    return text


def _is_signature(lines: list[str]) -> bool:
    of_file, of_comment = _decoded(lines[1]), _decoded(lines[3])
    comments = lines[0].startswith("untrusted comment:") and lines[2].startswith("trusted comment:")
    lengths = (len(of_file), len(of_comment)) == (_SIGNATURE_BYTES, _GLOBAL_BYTES)
    return comments and lengths and of_file.startswith(b"ED")


def _decoded(line: str) -> bytes:
    try:
        return base64.b64decode(line.rstrip("\r"), validate=True)
    except ValueError:
        return b""
