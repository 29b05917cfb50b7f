"""The TLS context for `[mqtt.tls]`: TLS 1.2 or later, chain and host name always verified."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from node.config.schema import TlsTable

__all__ = ["BadTlsFile", "TlsFiles", "tls_context", "tls_files"]


class BadTlsFile(ValueError):
    """A file of `[mqtt.tls]` does not contain what it should; `key` is the key that names it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class TlsFiles:
    """Stands in for an SSL context in paho, and reads the files for each connection.

    So a renewed certificate is used without a restart of the node.
    """

    check_hostname = True

    def __init__(self, table: TlsTable) -> None:
        self._table = table

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """Do what SSLContext.wrap_socket does, with the files as they are now.

        Raises:
            ConnectionError: a file has the wrong content; it may be written at this moment.
            OSError: as SSLContext.wrap_socket.
        """
        try:
            context = tls_context(self._table)
        except BadTlsFile as error:
            raise ConnectionError(str(error)) from error
        assert context is not None
        if self._table.server_name is not None:
            options["server_hostname"] = self._table.server_name
        return context.wrap_socket(sock, **options)


def tls_files(table: TlsTable | None) -> TlsFiles | None:
    """Return what stands in for the context of the table; None without one."""
    return None if table is None else TlsFiles(table)


def tls_context(table: TlsTable | None) -> ssl.SSLContext | None:
    """Return a context for the table; None without one.

    Raises:
        BadTlsFile: a file is not a certificate, not a key, or the two do not belong together.
    """
    if table is None:
        return None
    try:
        context = ssl.create_default_context(cafile=table.ca_file)
    except (ssl.SSLError, OSError) as error:
        message = f"{table.ca_file} does not contain a PEM certificate ({_reason(error)})"
        raise BadTlsFile("ca_file", message) from error
    if table.alpn:
        context.set_alpn_protocols(list(table.alpn))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Set by default since Python 3.13: it rejects a CA without keyUsage, such as mosquitto-tls(7)
    # makes, so an upgrade of Debian would cut the node off. Chain and name are verified without it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if table.cert_file is not None and table.key_file is not None:
        try:
            # Given a password, OpenSSL does not ask for one at the terminal.
            context.load_cert_chain(table.cert_file, table.key_file, password="")
        except (ssl.SSLError, OSError) as error:
            message = (
                f"{table.cert_file} and {table.key_file} are not a certificate and its key, in "
                f"PEM form and without a pass phrase ({_reason(error)})"
            )
            raise BadTlsFile("key_file", message) from error
    return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
