"""Takes a bundle: copies it, verifies and judges the copy, and unpacks it.

The copy is root's, so what is installed is what was verified: the file that was named may belong to
another user, who could change it in between.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from safe_files import open_foreign

from update_parts.bundle import MAX_BYTES, Manifest, read_manifest, sha256, unpack
from update_parts.minisign import PublicKey, Unfit
from update_parts.trust import Computer, Record, refusals, signer_of

__all__ = ["Taken", "copy_file", "take"]

_MAX_SIGNATURE_BYTES = 4096


class Taken(NamedTuple):
    """A bundle that may be installed."""

    manifest: Manifest
    wheels: Path
    """The folder that its wheels were unpacked into."""
    bundle: Path
    """Root's copy, of an image; of wheels it is gone."""
    signer: str
    """The id of the key; "" if the signature was not asked for."""
    remarks: list[str]


def take(
    bundle: Path,
    folder: Path,
    keys: dict[str, PublicKey],
    record: Record | None,
    computer: Computer,
    *,
    force: bool,
    digest: str = "",
) -> Taken:
    """Take a bundle into an empty folder of root's; note in the record that it was taken.

    `record`: None takes an unsigned bundle, or one whose signature is not looked at. `force` takes
    an old bundle. `digest`: the SHA-256 that it has to have, if that is known.

    Raises:
        Unfit: it must not be taken; the message says why.
        OSError: the disk is full, for example.
    """
    # Of an image the copy alone; of wheels they, and what is in them, which is compressed, too.
    copies = 1 if computer.layout else 6
    copy = _copy(bundle, folder, copies=copies, with_signature=record is not None)
    if digest and sha256(copy) != digest:
        raise Unfit(f"{copy.name} is not the bundle that was asked for: its SHA-256 is another one")
    if record is None:
        signer, remarks = "", [f"warning: {bundle} is not verified: nothing says who made it"]
    else:
        signer = signer_of(copy, keys)
        remarks = [f"{copy.name} is signed with the key {signer}"]
    manifest = read_manifest(copy)
    unfit, old = refusals(manifest, computer, record, keys)
    if unfit:
        raise Unfit(f"{copy.name} is refused: {'; '.join(unfit)}")
    if old and not force:
        raise Unfit(
            f"{copy.name} is refused: {'; '.join(old)}\n(root can take it all the same: --force)"
        )
    remarks += [f"warning: {why}; taken because of --force" for why in old]
    if record is not None:
        record.take(signer, manifest, computer)
    wheels = folder / "wheels"
    if manifest.system is None:
        wheels.mkdir()
        unpack(copy, manifest, wheels)
        copy.unlink()
    return Taken(manifest, wheels, copy, signer, remarks)


def _copy(bundle: Path, folder: Path, *, copies: int, with_signature: bool) -> Path:
    size = bundle.stat().st_size if bundle.is_file() else 0
    if not 0 < size <= MAX_BYTES:
        raise Unfit(f"{bundle} is not a bundle: that is a file of 1 to {MAX_BYTES} bytes")
    needed, free = copies * size, shutil.disk_usage(folder).free
    if free < needed:
        raise Unfit(
            f"{folder.parent} has {free >> 20} MB free, and {bundle.name} needs {needed >> 20}: "
            "make room"
        )
    signature = bundle.with_name(f"{bundle.name}.minisig")
    if with_signature and not signature.is_file():
        raise Unfit(f"{bundle} is not signed: {signature} is missing")
    copy = folder / bundle.name
    copy_file(bundle, copy, MAX_BYTES)
    if with_signature:
        copy_file(signature, folder / signature.name, _MAX_SIGNATURE_BYTES)
    return copy


def copy_file(source: Path, target: Path, most: int) -> None:
    """Copy at most so many bytes: a growing file does no harm, and a pipe is not waited for.

    A link is not followed: what the node has staged must not lead to a file of root's.
    """
    with open_foreign(source) as stream, target.open("xb") as copy:
        while most > 0 and (piece := stream.read(min(1 << 20, most))):
            most -= copy.write(piece)
