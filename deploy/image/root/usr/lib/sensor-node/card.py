"""The FAT partition of the card: the owner's files, and the files written back."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "BOOT",
    "COMPOSED",
    "CONFIG",
    "LAST_GOOD",
    "PACKAGE_PROBLEMS",
    "RUN",
    "SSH_KEYS",
    "STATUS",
    "WIFI",
    "BadFile",
    "read_toml",
    "writable",
]

BOOT = Path("/boot/firmware")
CONFIG = BOOT / "sensor-node.toml"
WIFI = BOOT / "wifi.toml"
SSH_KEYS = BOOT / "ssh.txt"
STATUS = BOOT / "status.txt"
LAST_GOOD = Path("/var/lib/sensor-node/last-good.toml")
RUN = Path("/run/sensor-node-panel")
"""The files that `panel.py` makes from the settings; in memory."""
PACKAGE_PROBLEMS = Path("/run/sensor-node-packages/problems.json")
"""What `packages.py` could not do with the owner's packages; in memory."""
COMPOSED = Path("/run/sensor-node-status")
"""The files that `status.py` puts on the card later; in memory."""


class BadFile(Exception):
    """A file on the card cannot be used; the text says what, where, and what to do."""


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a file; {} if the file is missing.

    Raises:
        BadFile: the file exists but cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise BadFile(f"{file.name} is not UTF-8: save it as plain text, in UTF-8") from None
    except OSError as error:
        raise BadFile(f"{file.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # Only the position, because the text may be a password.
        where = re.search(r"\(at line \d+, column \d+\)", str(error))
        raise BadFile(
            f"{file.name} is not valid TOML {where[0] if where else ''}".rstrip()
        ) from None


@contextlib.contextmanager
def writable(mount_point: Path) -> Iterator[None]:
    """Make a read-only file system writable within the context.

    One that is writable already stays so: its owner is at work there.
    """
    if not os.statvfs(mount_point).f_flag & os.ST_RDONLY:
        yield
        return
    subprocess.run(["mount", "-o", "remount,rw", mount_point], check=True)
    try:
        yield
    finally:
        subprocess.run(["sync", "-f", mount_point], check=False)
        subprocess.run(["mount", "-o", "remount,ro", mount_point], check=False)
