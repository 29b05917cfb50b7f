"""The TLS context for `[mqtt.tls]`: TLS 1.2 or later, chain and host name always verified."""

from __future__ import annotations

import ssl
from pathlib import Path

from node.config import ConfigError, Problem
from node.schema import TlsTable

__all__ = ["tls_context"]


def tls_context(table: TlsTable | None, source: Path) -> ssl.SSLContext | None:
    """None without a table.

    Raises:
        ConfigError: a file is not a certificate, not a key, or the two do not belong together.
    """
    if table is None:
        return None
    try:
        context = ssl.create_default_context(cafile=table.ca_file)
    except (ssl.SSLError, OSError) as error:
        message = f"{table.ca_file} holds no certificate in PEM form ({_reason(error)})"
        raise ConfigError(source, [Problem(1, "[mqtt.tls] ca_file", message)]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if table.cert_file is not None and table.key_file is not None:
        try:
            context.load_cert_chain(table.cert_file, table.key_file)
        except (ssl.SSLError, OSError) as error:
            message = f"not a certificate and its key, in PEM form ({_reason(error)})"
            raise ConfigError(source, [Problem(1, "[mqtt.tls] cert_file", message)]) from error
    return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
