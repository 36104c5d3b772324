"""A family: one class of transformers and what its configuration and its tensors are here."""

import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import InvalidInput, nearest
from ..layer import LayerConfig
from ..mixers.moe import MoEConfig
from ..model_config import ModelConfig, Place
from .config import TheirConfig
from .rules import Rule

ONLY_TRAINING = ("dt_min", "dt_max", "balance", "balance_weight", "bias_step", "ratio")
"""Options of layers that a trained model's outputs do not depend on; ``ratio`` is there as ``hidden``."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One file in families/ makes one, as FAMILY."""

    name: str
    """``model_type`` in config.json."""
    architecture: str
    """The class of transformers with its language-model head."""
    defaults: Mapping[str, Any]
    """Every key that decides what is computed, with the default of their configuration class."""
    read: Callable[[TheirConfig], ModelConfig]
    """Their configuration as ours; InvalidInput names an option that cannot be expressed."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """Ours as theirs: all of ``defaults``' keys that it does not leave at their defaults."""
    tensors: Callable[[TheirConfig], Iterable[Rule]]
    """The rules of a configuration of theirs, for both directions."""
    older: Mapping[str, str] = field(default_factory=dict)
    """Older spellings of keys, and what they are called now."""
    ignored: Sequence[str] = ()
    """Patterns of names in their files that hold no weights of the model: tied copies, buffers, other heads."""

    def config(self, values: Mapping[str, Any]) -> TheirConfig:
        """``values`` with this family's defaults."""
        renamed = {self.older[key]: value for key, value in values.items() if key in self.older}
        return TheirConfig(self.name, renamed | dict(values), self.defaults)

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of theirs is left out."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def express(self, model: ModelConfig) -> dict[str, Any]:
        """Their configuration of ``model``. InvalidInput names what would be lost."""
        written = self.write(model)
        lost = difference(model, self.read(self.config(written)))
        if lost is not None:
            raise InvalidInput(f"{self.name} cannot express {lost}")
        return written


@cache
def all_families() -> Mapping[str, Family]:
    """All families by name."""
    package = importlib.import_module(".families", __package__)
    modules = (
        importlib.import_module(f".{found.name}", package.__name__) for found in pkgutil.iter_modules(package.__path__)
    )
    return {module.FAMILY.name: module.FAMILY for module in modules}


def family_of(name: str) -> Family:
    """The family of a ``model_type``; InvalidInput for one that we do not have."""
    if name not in all_families():
        raise InvalidInput(f"no Hugging Face family {name!r}: {nearest(name, all_families())}")
    return all_families()[name]


def difference(wanted: ModelConfig, found: ModelConfig) -> str | None:
    """What ``wanted`` says and ``found`` does not, in words; None if they compute the same.

    What ``wanted`` leaves open (None) may be anything, as its layers have resolved it.
    """
    for key in ("d_model", "vocab_size", "tie_embeddings", "norm_eps", "embedding_scale", "residual_scale",
                "logit_scale", "logit_cap"):  # fmt: skip
        if not _equal(getattr(wanted, key), getattr(found, key)):
            return f"{key}={getattr(wanted, key)!r}"
    ours, theirs = wanted.sublayers(), found.sublayers()
    if len(ours) != len(theirs):
        return f"{len(ours)} sublayers"
    parallel = any(len(branches) > 1 for branches in ours)
    if parallel and wanted.parallel != found.parallel:
        return f"parallel={wanted.parallel!r}"
    for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        names = tuple("|".join(place.layer.name for place in branches) for branches in (mine, its))
        if names[0] != names[1]:
            return f"sublayer {number}, {names[0]!r}"
        for place, other in zip(mine, its, strict=True):
            if (lost := _option_lost(place.layer, other.layer, wanted.d_model)) is not None:
                return lost
    return None if _sharing(ours) == _sharing(theirs) else "the weights that its layers share"


def _option_lost(wanted: LayerConfig, found: LayerConfig, d_model: int) -> str | None:
    skipped = set(ONLY_TRAINING)
    if isinstance(wanted, MoEConfig) and isinstance(found, MoEConfig):  # two shared experts are one of twice the width
        skipped |= {"n_shared", "shared_hidden"}
        if wanted.shared_width(d_model) != found.shared_width(d_model):
            return f"moe: shared experts of {wanted.shared_width(d_model)} together"
    for option in dataclasses.fields(wanted):
        value = getattr(wanted, option.name)
        if option.name in skipped or value is None:
            continue
        if not _equal(value, getattr(found, option.name)):
            return f"{wanted.name}: {option.name}={value!r}"
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _sharing(sublayers: Sequence[Sequence[Place]]) -> list[int]:
    """For every place the first place with its weights."""
    first: dict[str, int] = {}
    places = [place for branches in sublayers for place in branches]
    return [i if place.label is None else first.setdefault(place.label, i) for i, place in enumerate(places)]
