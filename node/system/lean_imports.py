"""Imports libraries without modules that the node never uses: a quarter of its start time.

Seven modules are replaced by stand-ins, only while paho and msgspec are imported. A later import of
one of them, by a third party's driver for example, gets the real module. So do paho and msgspec as
soon as they use more of it than the node needs. This module can go with Python 3.15, whose lazy
imports (PEP 810) do the same; for each stand-in, the list below says when it can go earlier.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import types
from collections.abc import Iterator

__all__ = ["lean_imports"]


_SSL_ERRORS = {
    name: type(name, (OSError,), {})
    for name in ("SSLWantReadError", "SSLWantWriteError", "CertificateError")
}


@contextlib.contextmanager
def lean_imports(*, with_ssl: bool = True) -> Iterator[None]:
    """Give libraries imported within the context only the parts of seven modules that they need.

    - platform: paho (2.2), and uuid for msgspec, ask it for the system's name. Can go when both
      import it where they use it.
    - msgspec.inspect, which is needed only for JSON Schema. Can go when msgspec imports it there.
    - typing_extensions, which imports inspect: msgspec (0.23) prefers it to typing if it is
      installed. Can go when msgspec stops this.
    - urllib.request, which imports an HTTP client and e-mail, and socks: paho (2.2) finds proxies
      with them, in variables of the environment that nobody meant for MQTT. [mqtt] proxy does not
      need them. Can go when paho imports them where they are used.
    - ssl, without `with_ssl`: paho needs only the names of three errors from it, except with TLS.
      Can go when paho imports it in `tls_set`.
    - _hashlib, without `with_ssl`: hashlib tries OpenSSL first, and paho imports hashlib for
      websockets. Can go with ssl.

    A module that was imported before is left unchanged.

    Objects created during import live as long as the process: no garbage is looked for meanwhile,
    and later collections skip them.
    """
    stand_ins: dict[str, types.ModuleType | None] = {
        "platform": _Later("platform", system=lambda: os.uname().sysname),
        "msgspec.inspect": _Later("msgspec.inspect"),
        "typing_extensions": None,
        "socks": None,
        "urllib.request": _Later("urllib.request"),
    }
    if not with_ssl:
        stand_ins |= {"_hashlib": None, "ssl": _Later("ssl", **_SSL_ERRORS)}
    new = stand_ins.keys() - sys.modules.keys()
    had_hashlib = "hashlib" in sys.modules
    gc.disable()
    sys.modules.update({name: stand_ins[name] for name in new})  # type: ignore[misc]
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]
        if "_hashlib" in new and not had_hashlib:
            sys.modules.pop("hashlib", None)  # lacks OpenSSL's functions, such as scrypt
        gc.freeze()
        gc.enable()


class _Later(types.ModuleType):
    """Stands in for a module until an attribute that it lacks is used."""

    def __init__(self, name: str, **until_then: object) -> None:
        """`until_then`: the attributes available before the real module is imported."""
        super().__init__(name)
        self._until_then = until_then

    def __getattr__(self, name: str) -> object:
        if name in self._until_then and sys.modules.get(self.__name__, self) is self:
            return self._until_then[name]
        if sys.modules.get(self.__name__) is self or name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        return getattr(importlib.import_module(self.__name__), name)
