"""What a model is, in plain values: a pattern, a width, a vocabulary and the options of its layers."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from .context import EMBEDDING
from .errors import InvalidInput, nearest
from .layer import LayerConfig, Scalar, layer_config
from .pattern import Use, parse_pattern


@dataclass(frozen=True)
class Place:
    """One layer at one place of the model; places with one ``label`` share their weights."""

    layer: LayerConfig
    label: str | None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A hybrid language model. What cannot be built raises InvalidInput here, where it is made."""

    pattern: str
    """Its residual sublayers, in the pattern language."""
    d_model: int
    """Width of the residual stream."""
    vocab_size: int
    """Tokens."""
    layers: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Options by layer name, for all its places; those in a pattern's braces win. Names that the pattern lacks do no
    harm, so that the models of a sweep can share them."""
    tie_embeddings: bool = True
    """The output head is the embedding."""
    norm_eps: float = 1e-5
    """Epsilon of the norms between the layers."""
    parallel: Literal["average", "sum"] = "average"
    """How parallel branches join: averaged, each after a norm of its own (Hymba), or summed as they are (Falcon-H1)."""
    embedding_scale: float = 1.0
    """Multiplies the embeddings as they enter the stream (Gemma, Granite)."""
    residual_scale: float = 1.0
    """Multiplies what each sublayer adds to the stream (Granite)."""
    logit_scale: float = 1.0
    """Multiplies the logits (Granite, Falcon-H1)."""
    logit_cap: float | None = None
    """Soft cap: logits become cap * tanh(logits / cap), after their scale (Gemma); left out: none."""

    def __post_init__(self) -> None:
        for name in ("d_model", "vocab_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"model: {name}={getattr(self, name)} must be at least 1")
        if self.parallel not in ("average", "sum"):
            raise InvalidInput(f"model: parallel={self.parallel!r}: {nearest(str(self.parallel), ('average', 'sum'))}")
        for name in ("norm_eps", "embedding_scale", "residual_scale", "logit_scale", "logit_cap"):
            value = getattr(self, name)
            absent = value is None and name == "logit_cap"
            if not (absent or (isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf)):
                raise InvalidInput(f"model: {name}={value!r} must be a number above 0")
        for name, options in self.layers.items():
            layer_config(name, options)
        for sublayer in self.sublayers():
            for place in sublayer:
                place.layer.num_parameters(self.d_model)
        self._require_one_stream()
        self._require_shared()

    def sublayers(self) -> tuple[tuple[Place, ...], ...]:
        """For every sublayer its parallel branches, options resolved."""
        return self._sublayers

    @cached_property
    def _sublayers(self) -> tuple[tuple[Place, ...], ...]:
        return tuple(
            tuple(self._place(use) for use in sublayer.branches) for sublayer in parse_pattern(self.pattern).sublayers
        )

    def _require_one_stream(self) -> None:
        """Parallel branches have one norm and one residual, and something comes after what adds to the next."""
        sublayers = self.sublayers()
        for number, sublayer in enumerate(sublayers):
            for option in ("norm", "residual_weight", "adds_to"):
                values = {str(getattr(place.layer, option)): None for place in sublayer}
                if len(values) > 1:
                    raise InvalidInput(
                        f"model: the branches of sublayer {number} differ in {option} ({', '.join(values)}); "
                        f"they have one stream"
                    )
        last = sublayers[-1][0].layer
        if last.adds_to == "next":
            raise InvalidInput(f"model: {last.name}: adds_to='next' in the last sublayer: nothing comes after it")

    def _require_shared(self) -> None:
        """What a layer reads, an earlier one shares."""
        known = {EMBEDDING}
        for number, sublayer in enumerate(self.sublayers()):
            for place in sublayer:
                missing = [name for name in place.layer.reads if name not in known]
                if missing:
                    raise InvalidInput(
                        f"model: {place.layer.name} in sublayer {number} reads {missing[0]!r}, "
                        f"which no earlier layer shares"
                    )
                known |= set(place.layer.shares)

    def _place(self, use: Use) -> Place:
        return Place(layer_config(use.name, {**self.layers.get(use.name, {}), **dict(use.options)}), use.label)

    def unique_layers(self) -> tuple[LayerConfig, ...]:
        """The layers that have weights of their own: all places, a label's once."""
        seen: set[str] = set()
        unique = []
        for place in (place for sublayer in self.sublayers() for place in sublayer):
            if place.label is None or place.label not in seen:
                unique.append(place.layer)
            if place.label is not None:
                seen.add(place.label)
        return tuple(unique)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them; ``from_dict`` is the inverse.

        Options that have come since the first release are left out where they are at their defaults, so that the
        identities of the trials before them hold.
        """
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {key: value for key, value in plain.items() if key not in _LATER or value != _LATER[key]}
        return {**plain, "layers": {name: dict(options) for name, options in self.layers.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ModelConfig":
        """The config of ``to_dict``. An unknown or missing key raises InvalidInput."""
        names = [f.name for f in dataclasses.fields(cls)]
        for key in plain:
            if key not in names:
                raise InvalidInput(f"model: unknown key {key!r}: {nearest(key, names)}")
        missing = [key for key in ("pattern", "d_model", "vocab_size") if key not in plain]
        if missing:
            raise InvalidInput(f"model: key {missing[0]!r} is missing")
        return cls(**plain)


_LATER = {
    field.name: field.default
    for field in dataclasses.fields(ModelConfig)
    if field.name in ("parallel", "embedding_scale", "residual_scale", "logit_scale", "logit_cap")
}
