"""What would run and what it would cost, before anything does: a sweep file, a pattern, or a published model."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..architectures import (
    Budget,
    InvalidInput,
    ModelConfig,
    Published,
    bill,
    layer_names,
    load_published,
    match,
    nearest,
    parse_pattern,
    published_names,
)
from ..experiments import sweep_names, sweep_path
from .config import SweepConfig, TrialConfig
from .loading import load_sweep, merge, nest
from .report import human, human_bytes
from .sweep import distinct_models, expand
from .tasks import build_task

LENGTHS = (1024, 16384, 131072)
"""Tokens of context at which decoding states are shown."""


@dataclass(frozen=True)
class PatternOptions:
    """What a bare pattern needs besides, to be a model."""

    d_model: int = 1024
    """Width."""
    vocab_size: int = 50304
    """Tokens: GPT-2's vocabulary, rounded up to a multiple of 128."""
    sequence_length: int = 1024
    """Tokens per sequence over which FLOPs per token are averaged."""
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options by layer name."""
    tie_embeddings: bool = True
    """One matrix for embedding and output."""
    parallel: str = "average"
    """How parallel branches join: average (after a norm each) or sum."""


@dataclass(frozen=True)
class Shown:
    """Models, and of a sweep what running it takes."""

    models: list[dict[str, Any]]
    """Per model: name, pattern, layers, parameters, active_parameters, flops_per_token, state_bytes, mismatch; of a
    published one also what is known of it at full size, as ``published``."""
    sequence_length: int
    """Tokens per sequence over which ``flops_per_token`` (forward) is averaged."""
    sweep: SweepConfig | None = None
    trials: Sequence[TrialConfig] = ()
    configs: Sequence[ModelConfig] = ()
    """The models themselves, in their order."""

    @property
    def training_flops(self) -> float:
        """All trials together, forward and backward, at their full number of steps."""
        return sum(map(training_flops, self.trials))


def show(what: str, overrides: Sequence[str] = (), parameters: float | None = None) -> Shown:
    """Describe a sweep (a file or the name of one that comes with hybridlab), a published model or a pattern.

    Args:
        overrides: ``key=value``, of the sweep or of ``PatternOptions``.
        parameters: match every model to this many.

    Raises:
        InvalidInput: one line.
    """
    if what in sweep_names() or Path(what).suffix in (".yaml", ".yml"):
        budget = [] if parameters is None else ["match.by=parameters", f"match.value={parameters}", "match.like=null"]
        return show_sweep(load_sweep(sweep_path(what), [*overrides, *budget]))
    if what in published_names():
        return _show_published(what, overrides, parameters)
    names = {*sweep_names(), *published_names(), *layer_names()}
    if re.fullmatch(r"\w+[.-][\w.-]+", what) or (what.islower() and what.isidentifier() and what not in names):
        raise InvalidInput(f"{what!r} is no sweep, published model or layer; {nearest(what, names)}")
    return _show_pattern(what, overrides, parameters)


def show_sweep(sweep: SweepConfig) -> Shown:
    """A sweep's distinct models at their matched widths, and its trials."""
    trials = expand(sweep)
    length = sweep.match.sequence_length if sweep.match else PatternOptions.sequence_length
    matched = distinct_models(sweep)
    models = [describe(model.name, model.config, length, model.mismatch) for model in matched]
    return Shown(models, length, sweep, trials, [model.config for model in matched])


def describe(name: str, config: ModelConfig, sequence_length: int, mismatch: float | None) -> dict[str, Any]:
    """One model in plain JSON. ``mismatch`` is signed, a share of the budget; none without a budget."""
    costs = bill(config)
    return {
        "name": name,
        "pattern": str(parse_pattern(config.pattern)),
        "layers": len(config.sublayers()),
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "flops_per_token": costs.flops_per_token(sequence_length),
        "state_bytes": {str(length): costs.state_bytes(length) for length in LENGTHS},
        "mismatch": mismatch,
    }


def training_flops(trial: TrialConfig) -> float:
    """FLOPs of one trial's training, forward and backward, at its full number of steps."""
    length = build_task(trial.task).sequence_length
    tokens = trial.training.steps * trial.training.batch_size * length
    return tokens * bill(ModelConfig.from_dict(trial.model)).training_flops_per_token(length)


def table(shown: Shown) -> Group:
    """The models as a rich table, and under it what is known of those that are published."""
    made = Table(header_style="")
    for title in ("model", "pattern"):
        made.add_column(title, overflow="fold")
    for title in ("layers", "parameters", "active", f"FLOPs/token\nat {shown.sequence_length:,}"):
        made.add_column(title, justify="right")
    for length in LENGTHS:
        made.add_column(f"state at\n{length // 1024}k", justify="right")
    made.add_column("mismatch", justify="right")
    for model in shown.models:
        sizes = [human(model[key]) for key in ("parameters", "active_parameters", "flops_per_token")]
        states = [human_bytes(size) for size in model["state_bytes"].values()]
        off = "–" if model["mismatch"] is None else f"{model['mismatch']:+.2%}"
        made.add_row(Text(model["name"]), Text(model["pattern"]), str(model["layers"]), *sizes, *states, off)
    known = [_as_published(model["published"]) for model in shown.models if "published" in model]
    return Group(made, *known)


def _as_published(known: dict[str, Any]) -> Table:
    """What ``_known`` has, a row each."""
    made = Table.grid(padding=(0, 2))
    rows = {
        "as published": known["title"],
        "source": known["source"],
        "how sure": f"pattern {known['pattern_confidence']}, sizes {known['sizes_confidence']}",
    }
    stated = known["stated"]
    if stated:
        without = ", read as without embedding and head" if stated["active_without_embeddings"] else ""
        active = f", {human(stated['active'])} active{without}" if stated["active"] else ""
        rows["its makers state"] = f"{human(stated['total'])} parameters{active} ({stated['source']})"
        rows["our total differs"] = stated["total_differs_because"]
        rows["our active differ"] = stated["active_differs_because"]
    if known["parameters"]:
        rows["others count"] = f"{human(known['parameters'])} parameters ({known['parameters_source']})"
    for title, text in (rows | {"notes": known["notes"]}).items():
        if text:
            made.add_row(title, Text(text))
    return made


def _known(published: Published) -> dict[str, Any]:
    """In plain JSON, all that its file says besides the model."""
    return {key: value for key, value in asdict(published).items() if key not in ("name", "model", "awaiting")}


def _show_published(name: str, overrides: Sequence[str], parameters: float | None) -> Shown:
    published = load_published(name)
    own: dict[str, Any] = {key: getattr(published.config, key) for key in _MODEL_KEYS}
    own["layers"] = {key: dict(value) for key, value in published.config.layers.items()}
    options = _options(overrides, own)
    if parameters is None:
        config, mismatch = replace(published.config, **_chosen(options)), None
    elif {key.split("=")[0] for key in overrides} - {"vocab_size", "sequence_length"}:
        raise InvalidInput(f"{name}: with --parameters only vocab_size and sequence_length can be chosen")
    else:
        budget = Budget(by="parameters", value=parameters, keep_shape=True)
        scaled = published.scaled(budget, vocab_size=options.vocab_size)
        config, mismatch = scaled.config, scaled.mismatch
    length = options.sequence_length
    model = describe(name, config, length, mismatch) | {"published": _known(published)}
    return Shown([model], length, configs=[config])


def _show_pattern(text: str, overrides: Sequence[str], parameters: float | None) -> Shown:
    options = _options(overrides, {})
    config, mismatch = _model(str(parse_pattern(text)), options), None
    if parameters is not None:
        found = match(config, Budget(by="parameters", value=parameters))
        config, mismatch = found.config, found.mismatch
    length = options.sequence_length
    return Shown([describe(config.pattern, config, length, mismatch)], length, configs=[config])


def _model(pattern: str, options: PatternOptions) -> ModelConfig:
    return ModelConfig(pattern=pattern, **_chosen(options))


_MODEL_KEYS = ("d_model", "vocab_size", "layers", "tie_embeddings", "parallel")


def _chosen(options: PatternOptions) -> dict[str, Any]:
    """What of the options is the model's."""
    return {key: getattr(options, key) for key in _MODEL_KEYS}


def _options(overrides: Sequence[str], defaults: dict[str, Any]) -> PatternOptions:
    return merge(PatternOptions, defaults, *(_override(text) for text in overrides))


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"override {text!r} is not key=value")
    return nest(key.strip(), yaml.safe_load(value))
