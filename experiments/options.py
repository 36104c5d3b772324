"""Plain values (from YAML, JSON or a command line) into the typed fields of a config dataclass."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ..architectures import InvalidInput, nearest

Config = TypeVar("Config")


def read_options(cls: type[Config], options: Mapping[str, Any], *, where: str) -> Config:
    """`cls(**options)` with every name and type checked; `where` begins the line of an `InvalidInput`."""
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    for name in options:
        if name not in known:
            raise InvalidInput(f"{where}: unknown option {name!r}: {nearest(str(name), known)}")
    return cls(**{name: _read(value, known[name], f"{where}: {name}") for name, value in options.items()})


def plain_options(config: Any) -> dict[str, Any]:
    """The fields as JSON-plain values: what `read_options` takes."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return plain_options(value)
        return list(value) if isinstance(value, tuple) else value

    return {f.name: plain(getattr(config, f.name)) for f in fields(config)}


def _read(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` names.

    A scalar, an optional scalar, a tuple of scalars (one alone will do), or a nested config (a string alone is its
    first field).
    """
    if is_dataclass(hint):
        options = {fields(hint)[0].name: value} if isinstance(value, str) else value
        if isinstance(options, Mapping):
            return read_options(cast(type, hint), options, where=where)
    if get_origin(hint) in (types.UnionType, Union):
        if value is None and type(None) in get_args(hint):
            return None
        (hint,) = (h for h in get_args(hint) if h is not type(None))
    if get_origin(hint) is tuple:
        (item, *_) = get_args(hint)
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(_read(v, item, where) for v in values)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InvalidInput(f"{where}={value!r} is {type(value).__name__}, should be {cast(type, hint).__name__}")
    return value
