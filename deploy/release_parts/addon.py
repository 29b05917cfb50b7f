"""The Home Assistant add-on as an archive: the folder `deploy/addon` with the Debian packages."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["pack_addon"]

_FOLDER = Path(__file__).resolve().parents[1] / "addon"
_NAME = "sensor_node"


def pack_addon(target: Path, *, version: str, debs: Iterable[Path], epoch: int) -> None:
    """Write the archive, whose files all have the time `epoch`, in seconds."""
    content = {
        file.relative_to(_FOLDER): file.read_bytes()
        for file in _FOLDER.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    config = content[Path("config.yaml")].decode()
    content[Path("config.yaml")] = re.sub(
        r'^version: ".*"$', f'version: "{version}"', config, flags=re.MULTILINE
    ).encode()
    content |= {Path("debs", deb.name): deb.read_bytes() for deb in debs}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in sorted(content):
            member = tarfile.TarInfo(f"{_NAME}/{name}")
            member.size, member.mtime = len(content[name]), epoch
            member.mode = 0o755 if name == Path("start") else 0o644
            tar.addfile(member, io.BytesIO(content[name]))
    # The packages are compressed already.
    target.write_bytes(gzip.compress(packed.getvalue(), compresslevel=1, mtime=0))
