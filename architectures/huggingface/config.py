"""A configuration of theirs, read strictly: keys with their class's defaults, values that can be expressed here."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..errors import InvalidInput
from ..layer import LayerConfig, Scalar, layer_config
from ..mixers.attn import AttentionConfig
from ..model_config import ModelConfig


class TheirConfig:
    """config.json of a family. A key that is left out has its class's default."""

    def __init__(self, family: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.family = family
        self.values = {**defaults, **{key: value for key, value in values.items() if key in defaults}}
        self.given = values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def only(self, key: str, *allowed: Any) -> None:
        """InvalidInput unless the value is one that we have."""
        value = self.values[key]
        if value not in allowed:
            self.refuse(key, f"can only be {' or '.join(map(repr, allowed))}")

    def refuse(self, key: str, why: str) -> None:
        """InvalidInput that names the key and its value."""
        raise InvalidInput(f"{self.family}: {key}={self.values[key]!r} {why}")

    def rope(self, base: float = 10_000.0, fraction: float = 1.0) -> tuple[float, float]:
        """(base, rotated part of a head) of ``rope_parameters``, or of the older ``rope_theta``, ``rope_scaling`` and
        ``partial_rotary_factor``; the family's defaults where neither is given. Scaled rotations are refused."""
        given = self.given
        parameters = given.get("rope_parameters") or given.get("rope_scaling") or {}
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise InvalidInput(f"{self.family}: rope_type={kind!r} can only be 'default'")
        theta = parameters.get("rope_theta", given.get("rope_theta"))
        part = parameters.get("partial_rotary_factor", given.get("partial_rotary_factor"))
        return float(base if theta is None else theta), float(fraction if part is None else part)


def rope_parameters(base: float, fraction: float | None = None) -> dict[str, Any]:
    """``rope_parameters`` as transformers writes them; with the rotated part where the family has one."""
    parameters: dict[str, Any] = {"rope_theta": base, "rope_type": "default"}
    return parameters if fraction is None else parameters | {"partial_rotary_factor": fraction}


Block = tuple[LayerConfig, ...]


def blocks(family: str, model: ModelConfig, *roles: Sequence[str]) -> list[Block]:
    """The model's sublayers in blocks of as many as ``roles``, each a single layer with one of the role's names.

    InvalidInput names the first sublayer that does not fit.
    """
    sublayers = model.sublayers()
    shape = ", then ".join(" or ".join(names) for names in roles)
    if len(sublayers) % len(roles):
        raise InvalidInput(f"{family}: {len(sublayers)} sublayers are no blocks of {shape}")
    for number, sublayer in enumerate(sublayers):
        names = roles[number % len(roles)]
        found = "|".join(place.layer.name for place in sublayer)
        if found not in names:
            raise InvalidInput(f"{family}: sublayer {number} is {found!r}, but its blocks are {shape}")
        if sublayer[0].label is not None:
            raise InvalidInput(
                f"{family}: sublayer {number} shares its weights (@{sublayer[0].label}), which it cannot"
            )
    each = [sublayer[0].layer for sublayer in sublayers]
    return [tuple(each[i : i + len(roles)]) for i in range(0, len(each), len(roles))]


def alike(family: str, layers: Sequence[LayerConfig]) -> LayerConfig | None:
    """The one config that all ``layers`` have; None of none. InvalidInput if they differ."""
    for layer in layers:
        if layer != layers[0]:
            raise InvalidInput(f"{family}: {layer.name} layers differ in their options, which it cannot express")
    return layers[0] if layers else None


Kind = TypeVar("Kind", bound=LayerConfig)


def kind(family: str, each: Sequence[Block], wanted: type[Kind]) -> Kind | None:
    """The one config of all layers that are exactly ``wanted``, in all blocks; None if there are none. InvalidInput if
    they differ."""
    return alike(family, [layer for block in each for layer in block if type(layer) is wanted])  # pyright: ignore


def every(indices: Sequence[int], count: int) -> tuple[int, int] | None:
    """(period, offset) such that exactly ``indices`` of ``count`` are offset modulo period; None if there are none."""
    if not indices:
        return count + 1, count
    for period in range(1, count + 1):
        if list(range(indices[0] % period, count, period)) == list(indices):
            return period, indices[0] % period
    return None


def attention_options(theirs: TheirConfig) -> dict[str, int]:
    """Heads as most configurations spell them; where no ``head_dim`` is given it is the width over the heads."""
    H, given = theirs["num_attention_heads"], theirs.given.get("head_dim")
    G = theirs["num_key_value_heads"] or H
    return {"n_heads": H, "n_kv_heads": G, "head_dim": given or theirs["hidden_size"] // H}


def attention_config(theirs: TheirConfig, **options: Scalar) -> AttentionConfig:
    """``attn`` with ``attention_options`` and these."""
    config = layer_config("attn", attention_options(theirs) | options)
    assert isinstance(config, AttentionConfig)
    return config


def written_attention(attn: AttentionConfig | None, d_model: int) -> dict[str, int]:
    """The keys of ``attention_options``; of a model without attention one head, which nothing uses."""
    if attn is None:
        return {"num_attention_heads": 1, "num_key_value_heads": 1}
    H, G, K = attn.heads(d_model)
    written = {"num_attention_heads": H, "num_key_value_heads": G}
    return written if d_model == H * K else written | {"head_dim": K}
