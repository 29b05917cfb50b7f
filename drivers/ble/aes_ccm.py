"""AES-CCM with a tag of 4 bytes, as BTHome, Xiaomi and pvvx use it, through `cryptography`.

The package is imported when a sensor with a key is opened: plain advertisements do not need it.
"""

from __future__ import annotations

from drivers.ble.advertisement import Undecodable
from drivers.errors import MissingSupport

__all__ = ["NEEDS_KEY", "decrypted", "require_cryptography"]

_TAG_BYTES = 4
_KEY_BYTES = 16

NEEDS_KEY = 'put it into the configuration: key = "..." (32 hexadecimal digits), or key_file'


def require_cryptography() -> None:
    """Check that the package is installed.

    Raises:
        MissingSupport: it is not.
    """
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
    except ImportError as error:
        from drivers.packages import install_command

        raise MissingSupport(
            f"a key needs the package cryptography ({error})", install_command("ble-encrypted")
        ) from error


def decrypted(
    key: bytes | None, nonce: bytes, sealed: bytes, associated: bytes | None = None
) -> bytes:
    """Return the content of `sealed`, which ends with its tag.

    Raises:
        Undecodable: there is no key, or it is not the key of this sensor.
    """
    if key is None:
        raise Undecodable("it sends encrypted data, and its key is not configured", NEEDS_KEY)
    if len(key) != _KEY_BYTES or len(sealed) <= _TAG_BYTES:
        raise Undecodable("its data cannot be decrypted", "its key has 32 hexadecimal digits")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM

    try:
        return AESCCM(key, tag_length=_TAG_BYTES).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Undecodable(
            "its data cannot be decrypted with the configured key",
            "compare the key with that of its app; pairing it again changes the key",
        ) from None
