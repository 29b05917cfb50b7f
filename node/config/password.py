"""Reads a password from a file, a variable or a credential."""

from __future__ import annotations

from pathlib import Path

from node.config.schema import Secret

__all__ = ["checked_password", "password_in", "read_password"]

_MAX_BYTES = 65_535  # binary data has a length of two bytes (MQTT 5, §1.5.6)


def read_password(file: Path) -> Secret:
    """Read a password file.

    Raises:
        OSError: it cannot be read.
        ValueError: it does not hold a password.
    """
    return checked_password(password_in(file.read_text(encoding="utf-8")))


def password_in(text: str) -> str:
    """Return the content of a password file without the characters that editors add."""
    # The Windows editor begins a file with a byte order mark.
    return text.removeprefix("\ufeff").strip("\r\n")


def checked_password(text: str) -> Secret:
    """Check a password.

    Raises:
        ValueError: it cannot be one; the message is the end of a sentence about it.
    """
    # Python passes on bytes of a variable that are not UTF-8 as surrogates.
    encoded = text.encode(errors="ignore")
    if encoded.decode() != text:
        raise ValueError("is not text")
    if not text.strip():
        raise ValueError("is empty")
    if "\n" in text or "\r" in text:
        raise ValueError("has several lines; it must contain only the password")
    if len(encoded) > _MAX_BYTES:
        raise ValueError("is too long for a password")
    return Secret(text)
