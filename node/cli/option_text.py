"""Describes the keys of a schema in words, for `sensor-node drivers`."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from node.config.reader import table_in, tables_by_name
from node.config.values import choice_text

__all__ = ["OptionText", "describe_options"]

_FEW = 6
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class OptionText(msgspec.Struct, frozen=True):
    """One key: the values that it accepts, and its default."""

    name: str
    required: bool
    default: str
    value: str


def describe_options(schema: type[msgspec.Struct]) -> list[OptionText]:
    """Describe each key of `schema`, in the order of its fields, and those of tables in it."""
    described: list[OptionText] = []
    for field in msgspec.structs.fields(schema):
        name = field.encode_name
        if (tables := tables_by_name(field.type)) is not None:
            described += [
                msgspec.structs.replace(key, name=f"{name}.NAME.{key.name}")
                for key in describe_options(tables)
            ]
            continue
        if (table := table_in(field.type)) is not None:
            described += [
                msgspec.structs.replace(key, name=f"{name}.{key.name}", required=False)
                for key in describe_options(table)
            ]
            continue
        described.append(
            OptionText(
                name=name,
                required=field.required,
                default="" if field.required else _default(name, field.default),
                value=_describe(field.type),
            )
        )
    return described


def _default(key: str, value: Any) -> str:
    if value is None:
        return "(left out)"
    if key == "address" and isinstance(value, int):
        return f"0x{value:02x}"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _describe(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metas = get_args(annotation)
        described = next((meta.description for meta in metas if meta.description), None)
        if described:
            return str(described)
        return _describe(inner) + "".join(_limits(meta) for meta in metas)
    if origin is Literal:
        choices = get_args(annotation)
        return (" | " if len(choices) <= _FEW else ", ").join(
            choice_text(choice) if isinstance(choice, int) else f'"{choice}"' for choice in choices
        )
    if origin is tuple and get_args(annotation)[1:] == (...,):
        return f"a list, each {_describe(get_args(annotation)[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in get_args(annotation) if a is not type(None))
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(meta: msgspec.Meta) -> str:
    if meta.gt is not None:
        return f" above {meta.gt}"
    if meta.ge is not None and meta.le is not None:
        return f", {meta.ge} to {meta.le}"
    if meta.ge is not None:
        return f", {meta.ge} or more"
    return ""
