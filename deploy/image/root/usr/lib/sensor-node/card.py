"""The FAT partition of the card: what its owner writes there, and what is written back."""

from __future__ import annotations

import contextlib
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
"""What `panel.py` has made of the settings; in memory."""
COMPOSED = Path("/run/sensor-node-status")
"""What `status.py` is to put on the card; in memory."""


class BadFile(Exception):
    """A file of the card cannot be used; the text says what, where, and what to do."""


def read_toml(file: Path) -> dict[str, Any]:
    """What a file says.

    Raises:
        BadFile: it is there and cannot be read, or is not TOML.
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
        # Where, and not what: what stands there may be a password.
        where = re.search(r"\(at line \d+, column \d+\)", str(error))
        raise BadFile(
            f"{file.name} is not valid TOML {where[0] if where else ''}".rstrip()
        ) from None


@contextlib.contextmanager
def writable(mount_point: Path) -> Iterator[None]:
    """A file system that is otherwise only read, for as long as something is written."""
    subprocess.run(["mount", "-o", "remount,rw", mount_point], check=True)
    try:
        yield
    finally:
        subprocess.run(["sync", "-f", mount_point], check=False)
        subprocess.run(["mount", "-o", "remount,ro", mount_point], check=False)
