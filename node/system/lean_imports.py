"""Imports without what libraries bring along and the node never uses: a quarter of its start.

Four modules are stood in for while paho and msgspec are imported, and only then. Whoever imports
one of them afterwards, as a third party's driver may, gets the real one, and so does paho as soon
as it needs more of it than the node does. This module can go with Python 3.15, whose lazy imports
(PEP 810) do the same; each stand-in says when it alone can.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
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
    """Within it, libraries find what they need of four modules, and no more.

    - typing_extensions, and with it inspect: msgspec (0.23) prefers it to typing where it happens
      to be installed. Can go when msgspec does not.
    - urllib.request, and with it an HTTP client and e-mail: paho (2.2) looks for a proxy by it, if
      PySocks is installed. Can go when paho imports it where it uses it.
    - ssl, without `with_ssl`: paho uses it with TLS alone, but for the names of three errors. Can
      go when paho imports it in `tls_set`.
    - _hashlib, without `with_ssl`: hashlib asks OpenSSL first, and paho imports hashlib for
      websockets. Can go with ssl.

    A module that was imported before is left as it is.
    """
    stand_ins: dict[str, types.ModuleType | None] = {"typing_extensions": None}
    if importlib.util.find_spec("socks") is None:
        stand_ins["urllib.request"] = _Later("urllib.request")
    if not with_ssl:
        stand_ins |= {"_hashlib": None, "ssl": _Later("ssl", **_SSL_ERRORS)}
    new = stand_ins.keys() - sys.modules.keys()
    had_hashlib = "hashlib" in sys.modules
    sys.modules.update({name: stand_ins[name] for name in new})  # type: ignore[misc]
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]
        if "_hashlib" in new and not had_hashlib:
            sys.modules.pop("hashlib", None)  # it lacks what OpenSSL alone can, scrypt for one


class _Later(types.ModuleType):
    """Stands for a module until something of it is used."""

    def __init__(self, name: str, **until_then: object) -> None:
        """`until_then`: what can be had without the module, while nobody has imported it."""
        super().__init__(name)
        self._until_then = until_then

    def __getattr__(self, name: str) -> object:
        if name in self._until_then and self.__name__ not in sys.modules:
            return self._until_then[name]
        if sys.modules.get(self.__name__) is self or name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        return getattr(importlib.import_module(self.__name__), name)
