"""Published models, at full size, in the pattern language: one YAML each in published/, named as the released model.

A YAML says where its pattern and sizes come from and how sure they are. ``primary``: seen in the paper's own text, an
official repository, hub configuration or library; ``transcription``: a page-numbered copy of the paper by others;
``secondary``: others quoting the source; ``memory``: unverified; ``derived``: our own reading or arithmetic.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from .errors import InvalidInput, nearest
from .layer import layer_names
from .matching import Budget, Match, match
from .model_config import ModelConfig
from .pattern import Pattern, parse_pattern

CONFIDENCES = ("primary", "transcription", "secondary", "memory", "derived")
_OF_ONE_WIDTH = (
    *("n_heads", "n_kv_heads", "n_key_heads", "head_dim", "value_dim", "n_groups"),
    *("dt_rank", "kv_rank", "q_rank", "rope_dim"),
)
_OF_ANY_WIDTH = {"mamba": ("n_heads",), "moe": ("n_groups",)}
"""Options that have such a name and count something else: Mamba's few parts, groups of experts."""
FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """How many parameters a model has in the words of those who made it, rounded as they rounded."""

    source: str
    """Where they say so: a paper, a card, the model's name."""
    total: float
    total_differs_because: str | None = None
    """Why our bill differs from ``total`` by more than 1%."""
    active: float | None = None
    """Parameters that one token meets."""
    active_without_embeddings: bool = False
    """Whether ``active`` is read as leaving out embedding and head: as makers seldom say so, by what comes nearer."""
    active_differs_because: str | None = None
    """Why our bill, read likewise, differs from ``active`` by more than 1%."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published model and what is known about it."""

    name: str
    title: str
    source: str
    """Papers, repositories and configurations that the pattern and the sizes were read from."""
    pattern_confidence: str
    """One of CONFIDENCES."""
    sizes_confidence: str
    """One of CONFIDENCES."""
    model: Mapping[str, Any]
    """A ModelConfig in plain values; layers that are awaited have no options there."""
    awaiting: Mapping[str, str] = field(default_factory=dict)
    """Layers, or forms of layers, that hybridlab does not have yet, with their sizes in words."""
    parameters: float | None = None
    """What others count of exactly these sizes; most by a library's class, hence no proof that the sizes are right."""
    parameters_source: str | None = None
    """Who counted."""
    stated: Stated | None = None
    """What its makers say that it has."""
    notes: str | None = None

    def __post_init__(self) -> None:
        for key in ("pattern_confidence", "sizes_confidence"):
            if getattr(self, key) not in CONFIDENCES:
                options = nearest(str(getattr(self, key)), CONFIDENCES)
                raise InvalidInput(f"published {self.name}: {key}={getattr(self, key)!r}; {options}")

    @cached_property
    def pattern(self) -> Pattern:
        """Its sublayers, whether or not hybridlab has all of their layers."""
        return parse_pattern(self.model["pattern"], check_names=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """The layers that hybridlab does not have yet, sorted."""
        unknown = {use.name for use in self.pattern.uses} - set(layer_names())
        return tuple(sorted(unknown | set(self.awaiting)))

    @cached_property
    def config(self) -> ModelConfig:
        """The model at full size; InvalidInput names the layers that are missing."""
        if self.missing:
            wanted = ", ".join(f"{name!r} ({self.awaiting.get(name, 'unknown sizes')})" for name in self.missing)
            raise InvalidInput(f"published {self.name}: not to be built yet, as it needs {wanted}")
        return ModelConfig.from_dict(self.model)

    @property
    def embedding_parameters(self) -> int:
        """Of embedding and head, which are one matrix where they are tied."""
        return self.config.vocab_size * self.config.d_model * (1 if self.config.tie_embeddings else 2)

    def scaled(self, budget: Budget, *, vocab_size: int | None = None) -> Match:
        """The same shape at another size: the pattern, its proportions and the grouping of heads stay, widths follow.

        Query heads keep their ratio to key/value heads, whose number shrinks with the width; other heads get the
        usual width. Inner widths keep their proportion to d_model, to the nearest half for expansions.
        """
        full = dataclasses.replace(self.config, vocab_size=vocab_size or self.config.vocab_size)
        power = 1.0 if budget.by == "state" else 0.5
        shrink = (budget.wanted / budget.amount(full)) ** power
        layers = {name: _of_any_width(name, options, shrink) for name, options in full.layers.items()}
        heads = 2 * math.lcm(*(options.get("n_heads", 1) for options in layers.values()))
        width = heads * max(1, round(full.d_model / heads))  # one that the new heads divide; matching moves it
        return match(dataclasses.replace(full, d_model=width, layers=layers), budget)


def published_names() -> tuple[str, ...]:
    """The names of all published models, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read_published(name: str) -> Published:
    """What is known about a published model, even where it cannot be built yet; InvalidInput for an unknown name."""
    if name not in published_names():
        raise InvalidInput(f"no published model {name!r}; {nearest(name, published_names())}")
    values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml")))
    stated = values.pop("stated", None)
    if stated is not None:
        stated = Stated(**_known(stated, Stated, f"{name}: stated"))
    return Published(name=name, stated=stated, **_known(values, Published, name))


def load_published(name: str) -> Published:
    """A published model whose ``config`` can be built; InvalidInput names a layer that hybridlab does not have yet."""
    published = read_published(name)
    _ = published.config
    return published


def _known(values: dict[str, Any], cls: type[Stated | Published], where: str) -> dict[str, Any]:
    """``values``, if all of their keys are fields of ``cls``."""
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise InvalidInput(f"published {where}: unknown key {key!r}; {nearest(key, known)}")
    return values


def _of_any_width(layer: str, options: Mapping[str, Any], shrink: float) -> dict[str, Any]:
    """A layer's options without the counts that fit one width alone; ``shrink`` is the new width over the old."""
    bound = set(_OF_ONE_WIDTH) - set(_OF_ANY_WIDTH.get(layer, ()))
    free = {key: value for key, value in options.items() if key not in bound}
    if "n_kv_heads" in options:
        groups = max(1, round(options["n_kv_heads"] * shrink))
        free |= {"n_heads": groups * (options["n_heads"] // options["n_kv_heads"]), "n_kv_heads": groups}
    if "expand" in options:
        free["expand"] = max(1, round(2 * options["expand"])) / 2
    return free
