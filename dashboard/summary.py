"""From a sweep's trials (the rows of its frame) to the models of a chart: pure, nothing here reads or draws."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from statistics import fmean
from typing import Any

from ..platform.frontier import pareto
from .labels import Axis, describe, plural

Trial = dict[str, Any]
"""A row of the frame: IDENTITY, SIZES, metrics by column name. Where the sweep has axes, ``axes`` tells its values of
them; where some are only tuned, ``selected`` is false for a trial whose values validation did not choose."""

IDENTITY = ("id", "name", "pattern", "task", "seed", "status", "reason")
SIZES = ("parameters", "active_parameters")


@dataclass(frozen=True)
class Spread:
    """A metric over the trials of a model."""

    mean: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Model:
    """One mark of the chart: the trials of a sweep that differ only in their seed."""

    name: str
    pattern: str
    parameters: float | None
    active_parameters: float | None
    quality: Spread
    efficiency: Spread
    seeds: int
    """Distinct ones among the trials that are shown."""
    shown: int
    """Trials that the spreads are over: finished, with a finite value on both axes."""
    trials: int
    """All trials of this model."""
    frontier: bool = False


@dataclass(frozen=True)
class View:
    """What a page shows of one task of a sweep, for two chosen axes."""

    trials: list[Trial]
    models: list[Model]
    """The frontier first, then by quality, the best on top."""
    excluded: list[Trial]
    """Trials that are not drawn, as `exclusions` tells them."""
    quality: Axis
    efficiency: Axis


def view(trials: list[Trial], quality: str, efficiency: str) -> View:
    """Everything that is drawn for the metric columns ``quality`` and ``efficiency``."""
    axes = describe(quality), describe(efficiency)
    models = summarize(trials, *axes)
    points = [(model.quality.mean, model.efficiency.mean) for model in models]
    best = pareto(points, [not axis.smaller_is_better for axis in axes])
    models = [replace(model, frontier=place in best) for place, model in enumerate(models)]
    sign = 1 if axes[0].smaller_is_better else -1
    models.sort(key=lambda model: (not model.frontier, sign * model.quality.mean, model.name))
    return View(trials, models, exclusions(trials, [quality, efficiency]), *axes)


def number(trial: Trial, column: str) -> float | None:
    """The trial's value as a float; None where it is missing, not a number, NaN or infinite."""
    value = trial.get(column)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def metric_columns(trials: Sequence[Trial]) -> list[str]:
    """The columns an axis can show: finite for some finished trial. lm-eval's standard errors are not among them."""
    finished = [trial for trial in trials if trial["status"] == "finished"]
    columns = {column: None for trial in finished for column in trial if column in SIZES or "/" in column}
    return [c for c in columns if "_stderr" not in c and any(number(trial, c) is not None for trial in finished)]


def exclusions(trials: Sequence[Trial], columns: Sequence[str]) -> list[Trial]:
    """The trials that are not drawn on these axes, each told by IDENTITY, with why: nothing is left out in silence."""
    told = []
    for trial in trials:
        missing = [describe(column).title for column in columns if number(trial, column) is None]
        row = {key: trial.get(key) for key in IDENTITY}
        if trial["status"] != "finished":
            told.append(row)
        elif trial.get("selected") is False:
            told.append(
                row | {"status": "not selected", "reason": "validation chose another setting of the tuned axes"}
            )
        elif missing:
            told.append(row | {"status": "without a value", "reason": f"no finite {' and no finite '.join(missing)}"})
    return told


def summarize(trials: Sequence[Trial], quality: Axis, efficiency: Axis) -> list[Model]:
    """One model for each name, pattern and point of the sweep's axes that has a trial with both metrics."""
    groups: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[model_name(trial), str(trial["pattern"])].append(trial)
    models = [_model(*key, group, quality.column, efficiency.column) for key, group in groups.items()]
    return [model for model in models if model is not None]


def model_name(trial: Trial) -> str:
    """The name of the trial's model; behind it, its values of the sweep's axes where it has any."""
    axes = trial.get("axes")
    return f"{trial['name']} {axes}" if isinstance(axes, str) and axes else str(trial["name"])


def _model(name: str, pattern: str, trials: list[Trial], quality: str, efficiency: str) -> Model | None:
    """The model of these trials; None where no trial can be drawn."""
    left_out = {trial["id"] for trial in exclusions(trials, [quality, efficiency])}
    drawn = [trial for trial in trials if trial["id"] not in left_out]
    if not drawn:
        return None
    return Model(
        name=name,
        pattern=pattern,
        parameters=number(drawn[0], "parameters"),
        active_parameters=number(drawn[0], "active_parameters"),
        quality=_spread(drawn, quality),
        efficiency=_spread(drawn, efficiency),
        seeds=len({trial["seed"] for trial in drawn}),
        shown=len(drawn),
        trials=len(trials),
    )


def _spread(trials: list[Trial], column: str) -> Spread:
    """Mean, least and greatest of a column that all of the trials have."""
    values = [value for trial in trials if (value := number(trial, column)) is not None]
    return Spread(fmean(values), min(values), max(values))


def count_line(view: View) -> str:
    """The caption under a chart: how many trials it shows, how many it leaves out, and what it cannot tell apart."""
    kinds = Counter(str(trial["status"]).replace("_", " ") for trial in view.excluded)
    excluded = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    mixed = any(model.shown > model.seeds for model in view.models)
    note = " Several trials of a model have the same seed: its mark averages different settings." if mixed else ""
    shown = f"{len(view.trials) - len(view.excluded):,} of {plural(len(view.trials), 'trial')} shown"
    return f"{shown}. {f'Excluded: {excluded}' if excluded else 'None excluded'}.{note}"
