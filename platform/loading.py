"""From a sweep file to a ``SweepConfig``: defaults, then YAML, then ``key=value``; strict, and every refusal is one
line.

OmegaConf merges and checks types; this file gives its errors the full key, the value and the nearest key that exists.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..architectures import InvalidInput, nearest
from .config import SweepConfig

T = TypeVar("T")


def load_sweep(path: str | Path, overrides: list[str] | None = None) -> SweepConfig:
    """Read a sweep file, apply ``key=value`` overrides, and check everything that needs no model built.

    Raises:
        InvalidInput: one line with the key, its value and what would be right.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"no sweep file {str(path)!r}")
    try:
        written = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not YAML: {_one_line(error)}") from None
    if not isinstance(written, DictConfig):
        raise InvalidInput(f"{path}: a sweep is a mapping of keys to values")
    layers = [_plain(written), *(_override(text) for text in overrides or [])]
    layers[0].setdefault("name", path.stem)
    for layer in layers:
        if isinstance(layer.get("axes"), Mapping):
            layer["axes"] = flatten(layer["axes"])
    return merge(SweepConfig, *layers)


def merge(cls: type[T], *layers: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of the dataclass ``cls``: its defaults, then each layer over the last; ``prefix`` names it in errors.

    Raises:
        InvalidInput: an unknown key, a wrong type or an impossible value.
    """
    schema = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    merged = OmegaConf.structured(cls)
    OmegaConf.set_readonly(merged, False)  # the dataclasses are frozen once made; this is their making
    for layer in layers:
        for key in layer:
            if key not in schema:
                raise InvalidInput(f"unknown key {f'{prefix}{key}'!r}; {nearest(str(key), schema)}")
        try:
            merged = OmegaConf.merge(merged, dict(layer))
        except (OmegaConfBaseException, TypeError, ValueError):
            for key, value in layer.items():  # again by key, which costs a copy each, to say which one it was
                with _naming(prefix, key, value):
                    merged = OmegaConf.merge(merged, {key: value})
            raise
    with _naming(prefix):
        OmegaConf.resolve(merged)
    return _made(merged, prefix)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys: ``axes.training.steps=[1,2]`` means the axis ``training.steps``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(key: str, value: Any) -> dict[str, Any]:
    """``a.b.c`` and a value as ``{a: {b: {c: value}}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _made(node: Any, where: str) -> Any:
    """The dataclasses of a merged config, innermost first, so that what one refuses is named by its full key.
    ``where`` ends in a dot."""
    if not isinstance(node, DictConfig) or node._is_none():
        return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node
    children = {str(key): _made(node[key], f"{where}{key}.") for key in node}
    cls = OmegaConf.get_type(node)
    if not is_dataclass(cls):
        return children
    try:
        return cls(**children)
    except InvalidInput as error:
        raise InvalidInput(f"{where}{error}") from None


@contextmanager
def _naming(prefix: str, key: str = "", value: Any = None) -> Iterator[None]:
    """Turn what OmegaConf refuses inside the block into one line with the full key, the value and, for a key, the
    nearest one."""
    try:
        yield
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        where = prefix + (getattr(error, "full_key", None) or key)
        owner = getattr(error, "object_type", None)
        if isinstance(error, ConfigKeyError) and is_dataclass(owner):
            raise InvalidInput(
                f"unknown key {where!r}; {nearest(str(error.key), [f.name for f in fields(owner)])}"
            ) from None
        text = _one_line(error)
        given = "" if isinstance(value, (dict, list)) or str(value) in text else f" (given {value!r})"
        raise InvalidInput(f"{where}: {text}{given}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    full_key")[0].split())


def _plain(node: Any) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"override {text!r} is not key=value")
    try:
        return _plain(OmegaConf.from_dotlist([text]))
    except (YAMLError, OmegaConfBaseException) as error:
        raise InvalidInput(f"override {text!r}: {_one_line(error)}") from None
