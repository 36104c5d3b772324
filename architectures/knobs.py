"""The options that matching may turn besides the width, so that a model meets its budget closely."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .errors import InvalidInput, nearest
from .layer import Scalar, layer_config
from .model_config import ModelConfig
from .pattern import parse_pattern

Settings = Mapping["Knob", int]


@runtime_checkable
class _Widened(Protocol):
    """A layer config with a hidden width, by default in proportion to d_model: every kind of MLP."""

    hidden: int | None

    def width(self, d_model: int) -> int: ...


@dataclass(frozen=True)
class Knob:
    """An option of a layer that the search may set for all its uses."""

    layer: str
    option: str
    value: float
    """The model's own value, per unit of width if ``grows``."""
    grows: bool

    def at(self, width: int) -> float:
        """The model's own value at a width."""
        return self.value * width if self.grows else self.value

    def read(self, config: ModelConfig) -> Scalar:
        """The value that a model with this knob set has."""
        return config.layers[self.layer][self.option]

    def __str__(self) -> str:
        return f"{self.layer}.{self.option}"


def fine_knobs(config: ModelConfig, names: Sequence[str] | None) -> list[Knob]:
    """The knobs named LAYER.OPTION (None: the hidden width of every kind of MLP), with the values they have now.

    Those that the pattern sets in braces, or has no layer for, are left out. InvalidInput for an unknown one.
    """
    uses = parse_pattern(config.pattern).uses
    in_pattern = dict.fromkeys(use.name for use in uses)
    if names is None:
        names = [f"{name}.hidden" for name in in_pattern if isinstance(layer_config(name), _Widened)]
    knobs = []
    for name in names:
        layer, option = name.split(".")
        set_here = {option, "ratio"} if option == "hidden" else {option}
        if not any(set_here & dict(use.options).keys() for use in uses if use.name == layer):
            knob = _knob(config, layer, option)
            knobs += [knob] if layer in in_pattern else []
    return knobs


def _knob(config: ModelConfig, layer: str, option: str) -> Knob:
    """The knob with the model's own value; InvalidInput if there is none that is a whole number."""
    own = layer_config(layer, config.layers.get(layer, {}))
    if option == "hidden" and isinstance(own, _Widened):
        return Knob(layer, option, own.width(config.d_model) / config.d_model, grows=True)
    options = [field.name for field in dataclasses.fields(own)]
    if option not in options:
        raise InvalidInput(f"budget: fine: {layer} has no option {option!r}; {nearest(option, options)}")
    value = getattr(own, option)
    if type(value) is not int:
        raise InvalidInput(f"budget: fine: {layer}.{option}={value!r} is no whole number to start from")
    return Knob(layer, option, value, grows=False)


def turned(layers: Mapping[str, Mapping[str, Scalar]], settings: Settings) -> dict[str, dict[str, Scalar]]:
    """The options ``layers`` with the knobs set; a hidden width replaces a ratio."""
    changed = {name: dict(options) for name, options in layers.items()}
    for knob, value in settings.items():
        options = changed.setdefault(knob.layer, {})
        if knob.option == "hidden":
            options.pop("ratio", None)
        options[knob.option] = value
    return changed


def rounded(
    knobs: Sequence[Knob], width: int, scale: float, step: int, bounds: tuple[float, float]
) -> Iterator[Settings]:
    """Every choice of the multiples of ``step`` next to the knobs' scaled values, within the bounds on the scale."""
    low, high = bounds
    around = []
    for knob in knobs:
        own = knob.at(width)
        values = (step * max(1, n) for n in {math.floor(own * scale / step), math.ceil(own * scale / step)})
        around.append([(knob, value) for value in values if low <= value / own <= high])
    return (dict(choice) for choice in itertools.product(*around))


def halved(multiple: int) -> list[int]:
    """The multiple and its halves, down to 1."""
    steps = [multiple]
    while steps[-1] > 1:
        steps.append(steps[-1] // 2)
    return steps
