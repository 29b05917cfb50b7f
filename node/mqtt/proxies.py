"""A TCP connection to the broker through a proxy. Used on the network thread."""

from __future__ import annotations

import contextlib
import socket

from node.config.schema import ProxyAddress

__all__ = ["connect_through"]


def connect_through(proxy: ProxyAddress, host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connection that the proxy has made; it resolves the host's name.

    Raises:
        OSError: the proxy cannot be reached, or refuses.
    """
    scheme, proxy_host, proxy_port = proxy.parts
    if scheme == "http":
        return _tunnel((proxy_host, proxy_port), host, port, timeout_s)
    import socks

    try:
        connection: socket.socket = socks.create_connection(
            (host, port),
            timeout=timeout_s,
            proxy_type=socks.SOCKS5,
            proxy_addr=proxy_host,
            proxy_port=proxy_port,
        )
    except socks.ProxyError as error:
        raise ConnectionError(f"the proxy {proxy}: {error}") from None
    return connection


def _tunnel(proxy: tuple[str, int], host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a tunnel made by CONNECT (RFC 9110, §9.3.6)."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(*proxy, timeout=timeout_s)
    connection.set_tunnel(host, port)
    where = f"the proxy http://{proxy[0]}:{proxy[1]}"
    try:
        connection.connect()
    except (OSError, HTTPException) as error:
        with contextlib.suppress(OSError):
            connection.close()
        raise ConnectionError(f"{where}: {error}") from None
    sock: socket.socket = connection.sock
    return sock
