"""Which decoder reads what, and in which order they are asked."""

from __future__ import annotations

from drivers.ble import (
    atc,
    bthome,
    govee,
    inkbird,
    mibeacon,
    qingping,
    ruuvi,
    switchbot,
    thermopro,
)
from drivers.ble.advertisement import Advertisement, Decoded, Decoder

__all__ = ["AUTO", "FORMATS", "decode"]

AUTO = "auto"

FORMATS: dict[str, Decoder] = {
    "bthome": bthome.decode,
    "pvvx": atc.decode_pvvx,
    "atc": atc.decode_atc,
    "mibeacon": mibeacon.decode,
    "qingping": qingping.decode,
    "switchbot": switchbot.decode,
    "ruuvi": ruuvi.decode,
    "govee": govee.decode,
    "thermopro": thermopro.decode,
    "inkbird": inkbird.decode,
}
"""Name -> decoder. Those with an identifier of their own come first."""


def decode(
    advertisement: Advertisement, key: bytes | None, named: str = AUTO
) -> tuple[str, Decoded] | None:
    """Return the format of an advertisement and its content; None for nothing that is known.

    Raises:
        Undecodable: its format is known, but its content cannot be used.
    """
    for name, decoder in FORMATS.items():
        if named in (AUTO, name):
            decoded = decoder(advertisement, key)
            if decoded is not None:
                return name, decoded
    return None
