"""Reads from certificate files when the certificates end.

Python's ssl gives the dates of a peer's certificate and of an authority's, but not of the node's
own. So this reads the few bytes as DER (X.690): a certificate is a sequence, whose first part is a
sequence that contains the period of validity (RFC 5280, §4.1).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from node.config.schema import TlsTable

__all__ = ["WARN_DAYS", "end_dates", "ending_soon", "ends_soon"]

WARN_DAYS = 14
"""How long before its end a certificate is reported."""
_DAY_S = 86_400
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def ending_soon(table: TlsTable | None, utc_s: float) -> list[str]:
    """Describe the files of `[mqtt.tls]` whose certificates end soon, or have ended.

    One valid authority among several is enough. The client's certificate and all those between it
    and an authority must be valid.
    """
    if table is None:
        return []
    texts = []
    for key, file, which in (("ca_file", table.ca_file, max), ("cert_file", table.cert_file, min)):
        ends: list[float] = []
        if file is not None:
            with contextlib.suppress(OSError):
                ends = end_dates(file.read_bytes())
        if ends and (soon := ends_soon(which(ends), utc_s)):
            texts.append(f"the certificate of [mqtt.tls] {key} ({file}) {soon}; renew it")
    return texts


def ends_soon(end_s: float, utc_s: float) -> str:
    """Say when, for a certificate that ends within `WARN_DAYS` or has ended; "" for others."""
    left_s = end_s - utc_s
    if left_s > WARN_DAYS * _DAY_S:
        return ""
    day = datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%d")
    if left_s <= 0:
        return f"ended on {day}"
    days = int(left_s // _DAY_S)
    return f"ends on {day}, in {days} {'day' if days == 1 else 'days'}"


def end_dates(pem: bytes) -> list[float]:
    """Return the end of each readable certificate in a file, in seconds of UTC."""
    found = []
    for match in _PEM.finditer(pem):
        with contextlib.suppress(ValueError, IndexError, binascii.Error):
            found.append(_not_after(base64.b64decode(match[1])))
    return found


def _not_after(der: bytes) -> float:
    """Return the end of a certificate; ValueError or IndexError if it is not one."""
    _, certificate, _ = _element(der, 0)
    _, to_be_signed, end = _element(der, certificate)
    parts = [part for part in _parts(der, to_be_signed, end) if part[0] != _VERSION]
    tag, validity, end = parts[3]  # after serial number, algorithm and issuer
    if tag != _SEQUENCE:
        raise ValueError("no period of validity")
    _, (tag, start, end) = _parts(der, validity, end)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:  # of 1950 to 2049 (RFC 5280, §4.1.2.5.1)
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _parts(der: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the elements between two positions: tag, and where the content begins and ends."""
    while start < end:
        tag, content, start = _element(der, start)
        yield tag, content, start


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return an element's tag, and where its content begins and ends (X.690, §8.1)."""
    length, content = der[at + 1], at + 2
    if length & 0x80:
        content += length & 0x7F
        length = int.from_bytes(der[at + 2 : content], "big")
    if content + length > len(der):
        raise ValueError("cut short")
    return der[at], content, content + length
