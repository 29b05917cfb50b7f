"""Imports without what libraries bring along for nothing of ours: a third of the start and memory.

A module that was imported before is left as it is, and one that is imported later is the real one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
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
    """Within it, libraries find what they need, and no more.

    - msgspec (0.22) prefers typing_extensions to typing where it happens to be installed, and with
      it comes inspect.
    - paho (2.2) imports urllib.request, and with it an HTTP client and e-mail, to look for a proxy
      once PySocks is there.
    - Both ask platform for the name of the system, which `os.uname` has as well (as uuid does);
      and msgspec imports decimal to have seen the type.
    - msgspec imports all that it can do: JSON Schema, and formats that nothing here has.
    - argparse asks gettext for translations, of which Python brings none.
    - Without `with_ssl` paho gets no ssl, which it uses with TLS alone (its handlers name two
      errors of it), and hashlib does without OpenSSL: three and a half megabytes.

    Nothing that is made while modules are imported is garbage, and to look for some takes a tenth
    of the start. What is there afterwards stays, and need not be looked at again either.
    """
    stand_ins: dict[str, types.ModuleType | None] = {
        "typing_extensions": None,
        "platform": _module("platform", system=lambda: os.uname().sysname),
        "decimal": _module("decimal", Decimal=type("Decimal", (), {})),
        "gettext": _module("gettext", gettext=_as_it_is, ngettext=_one_or_many),
        "msgspec._json_schema": _module("_json_schema", schema=None, schema_components=None),
        **{f"msgspec.{name}": _module(name) for name in ("inspect", "msgpack", "toml", "yaml")},
    }
    if importlib.util.find_spec("socks") is None:
        stand_ins["urllib.request"] = _module("urllib.request")
    if not with_ssl:
        stand_ins |= {"_hashlib": None, "ssl": _module("ssl", **_SSL_ERRORS)}
    new = stand_ins.keys() - sys.modules.keys()
    gc.disable()
    sys.modules.update({name: stand_ins[name] for name in new})  # type: ignore[misc]
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]
        gc.freeze()
        gc.enable()


def _as_it_is(text: str) -> str:
    return text


def _one_or_many(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


def _module(name: str, **content: object) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(content)
    return module
