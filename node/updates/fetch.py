"""Fetches a file by HTTP, from where an attempt before has ended, on a thread that may wait."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from typing import BinaryIO

from node import __version__

__all__ = ["Unreachable", "fetch_into"]

_CHUNK = 64 * 1024
_SILENT_S = 30.0
"""How long a server may be silent."""


class Unreachable(Exception):
    """The server does not give the file; the message says why, without the address."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The address is one that the owner of the node allows; another one is not."""

    def redirect_request(self, *_: object) -> None:
        return None


def fetch_into(
    part: BinaryIO,
    url: str,
    size: int,
    cancelled: threading.Event,
    *,
    end_s: float,
) -> None:
    """Append what is missing of a file of `size` bytes, and not a byte more.

    `end_s`: until when it may take, however slowly it comes (`time.monotonic`).

    Raises:
        Unreachable: the server does not give it, gives another length, or takes too long.
        OSError: the disk is full, for example.
    """
    have = part.seek(0, 2)
    headers = {"User-Agent": f"sensor-node/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have >= size:
        return
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=_SILENT_S) as answer:
            if have and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = part.seek(0)  # it sends all of it again
                part.truncate()
            while have < size and not cancelled.is_set():
                if time.monotonic() > end_s:
                    raise Unreachable(f"the server is too slow: {have} of {size} bytes have come")
                chunk = answer.read(min(_CHUNK, size - have))
                if not chunk:
                    raise Unreachable(f"the server ends after {have} of {size} bytes")
                part.write(chunk)
                have += len(chunk)
    except urllib.error.HTTPError as error:
        raise Unreachable(f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise Unreachable(f"the server cannot be reached: {error.reason}") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise Unreachable(
            f"the server does not go on: {str(error) or type(error).__name__}"
        ) from None
