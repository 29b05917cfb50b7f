"""Exit codes of every command: 0 done, 1 failed, 2 wrong usage, 78 the configuration is invalid."""

from __future__ import annotations

__all__ = ["EXIT_CONFIG", "EXIT_FAILED"]

EXIT_FAILED = 1
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h; the service does not restart on it
