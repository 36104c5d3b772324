"""What a sweep would run: every model matched to the budget, crossed with tasks, axes and seeds.

Nothing here trains, writes or draws a random number: the same sweep gives the same trials in the same order. All that
can be wrong in a sweep (a pattern, an option, a budget that no width meets, a missing corpus) is refused here, in one
line, before anything starts.
"""

import dataclasses
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..architectures import Budget, InvalidInput, Mix, ModelConfig, match, nearest, parse_pattern
from ..experiments import task_config
from .config import EvaluationConfig, MatchConfig, ModelSpec, SelectConfig, SweepConfig, TrainingConfig, TrialConfig
from .lm_eval_tasks import check_tasks
from .loading import merge, nest
from .tasks import build_task, canonical
from .trial_id import trial_id

AXIS_ROOTS = ("model", "task", "training", "evaluation")
_MODEL_OPTIONS = (
    "tie_embeddings",
    "norm_eps",
    "parallel",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "logit_cap",
)


@dataclass(frozen=True)
class MatchedModel:
    """A model of the sweep after its widths were chosen."""

    name: str
    config: ModelConfig
    """At the reference vocabulary; each trial has its own task's."""
    mismatch: float | None
    """Signed distance from the budget as a share of it; none where no budget applies."""


def expand(sweep: SweepConfig) -> list[TrialConfig]:
    """Every trial of the sweep: by seed, then task, model and axes, each as written. Equal trials appear once, under
    the first name.

    Raises:
        InvalidInput: one line naming what is wrong.
    """
    _check(sweep)
    trials: dict[str, TrialConfig] = {}
    points = list(_axis_points(sweep.axes))
    matched = _matched_at(sweep, points)
    resolved = {name: [_task(sweep, name, point) for point in points] for name in sweep.tasks}
    for seed, task_name in itertools.product(sweep.seeds, sweep.tasks):
        for index in range(len(sweep.models)):
            for point, models, found in zip(points, matched, resolved[task_name], strict=True):
                task, training, evaluation, vocab_size = found
                model = dataclasses.replace(models[index].config, vocab_size=vocab_size)
                trial = TrialConfig(
                    name=models[index].name,
                    model=model.to_dict(),
                    task_name=task_name,
                    task=task,
                    training=training,
                    evaluation=evaluation,
                    seed=seed,
                    axes=point,
                    mismatch=models[index].mismatch,
                )
                trials.setdefault(trial_id(trial), trial)
    return list(trials.values())


def matched_models(sweep: SweepConfig, axes: Mapping[str, Any] | None = None) -> list[MatchedModel]:
    """The sweep's models at the given values of its ``model.*`` axes, as written, with the widths that meet the budget.

    Models are compared with their embeddings, at the largest vocabulary of the sweep's tasks (or
    ``match.vocab_size``), and keep the widths so found on every task.
    """
    _check(sweep)
    axes = dict(axes or {})
    vocab_size = _reference_vocabulary(sweep, axes)
    written = {name: _as_written(sweep, name, axes, vocab_size) for name in sweep.models}
    if sweep.match is None:
        return [MatchedModel(name, config, None) for name, config in written.items()]
    budget = _budget(sweep.match, written)
    models = []
    for name, config in written.items():
        if not sweep.models[name].match:
            models.append(MatchedModel(name, config, None))
        else:
            with _naming(f"models.{name}"):
                found = match(config, budget)
            models.append(MatchedModel(name, found.config, found.mismatch))
    return models


def distinct_models(sweep: SweepConfig) -> list[MatchedModel]:
    """The sweep's models at every point of its axes, each once, named with its first ``model.*`` values."""
    _check(sweep)
    points = list(_axis_points(sweep.axes))
    matched = _matched_at(sweep, points)
    distinct: dict[str, MatchedModel] = {}
    for index, name in enumerate(sweep.models):
        for point, models in zip(points, matched, strict=True):
            at = [f"{key.removeprefix('model.')}={value}" for key, value in point.items() if key.startswith("model.")]
            named = dataclasses.replace(models[index], name=" ".join([name, *at]))
            distinct.setdefault(canonical({"name": name, **named.config.to_dict()}), named)
    return list(distinct.values())


def select(records: Sequence[Mapping[str, Any]], rule: SelectConfig) -> list[Mapping[str, Any]]:
    """The records at each model's best values of the tuned axes: per model, task and remaining axes, judged by the
    mean of the rule's validation metric over seeds. Values at which any seed did not finish lose to those where all
    did, and are never dropped unseen: where nothing finished, all are kept.
    """
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        axes = record["config"]["axes"]
        kept = {key: value for key, value in axes.items() if key not in rule.over}
        tuned = {key: value for key, value in axes.items() if key in rule.over}
        groups[repr((record["name"], record["task"], sorted(kept.items())))][repr(sorted(tuned.items()))].append(record)
    sign = 1 if rule.mode == "min" else -1
    chosen = []
    for candidates in groups.values():
        scored = {}
        for value, group in candidates.items():
            scores = [record["metrics"].get(rule.metric) for record in group if record["status"] == "finished"]
            if len(scores) == len(group) and None not in scores:
                scored[value] = sign * statistics.fmean(scores)  # type: ignore[arg-type]
        best = [min(scored, key=scored.__getitem__)] if scored else list(candidates)
        chosen += [record for value in best for record in candidates[value]]
    return chosen


def _matched_at(sweep: SweepConfig, points: Sequence[Mapping[str, Any]]) -> list[list[MatchedModel]]:
    """The models at every axis point; points that differ only in how a model is trained or evaluated share one
    search."""
    found: dict[str, list[MatchedModel]] = {}
    keys = []
    for point in points:
        shaping = {key: value for key, value in point.items() if key.split(".")[0] in ("model", "task")}
        keys.append(canonical(shaping))
        if keys[-1] not in found:
            found[keys[-1]] = matched_models(sweep, shaping)
    return [found[key] for key in keys]


def _check(sweep: SweepConfig) -> None:
    if not sweep.models:
        raise InvalidInput("models: empty; a sweep needs at least one model")
    if not sweep.tasks:
        raise InvalidInput("tasks: empty; a sweep needs at least one task")
    for key, values in sweep.axes.items():
        if key.split(".")[0] not in AXIS_ROOTS or "." not in key:
            raise InvalidInput(
                f"axes: unknown trial key {key!r}; it begins with 'model.', 'task.', 'training.' or 'evaluation.'"
            )
        if not values:
            raise InvalidInput(f"axes.{key}: no values; give at least one")
    if sweep.match and sweep.match.like is not None and sweep.match.like not in sweep.models:
        raise InvalidInput(f"match.like: unknown model {sweep.match.like!r}; {nearest(sweep.match.like, sweep.models)}")
    for key in sweep.select.over if sweep.select else []:
        if key not in sweep.axes:
            raise InvalidInput(
                f"select.over: {key!r} is not an axis; {nearest(key, sweep.axes) if sweep.axes else 'axes is empty'}"
            )


def _axis_points(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _at(axes: Mapping[str, Any], root: str) -> list[dict[str, Any]]:
    """The part of an axis point below ``root``, as layers to merge."""
    return [nest(key.split(".", 1)[1], value) for key, value in axes.items() if key.split(".")[0] == root]


def _task(
    sweep: SweepConfig, name: str, axes: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainingConfig, EvaluationConfig, int]:
    """A task's options, training and evaluation at an axis point, and its vocabulary."""
    options = _task_options(sweep, name, axes)
    made = []
    for key, cls in (("training", TrainingConfig), ("evaluation", EvaluationConfig)):
        own = sweep.tasks[name].get(key) or {}
        if not isinstance(own, Mapping):
            raise InvalidInput(f"tasks.{name}.{key}: {own!r} is not a mapping of keys to values")
        layers = [dataclasses.asdict(getattr(sweep, key)), own, *_at(axes, key)]
        made.append(merge(cls, *layers, prefix=f"tasks.{name}.{key}."))
    training, evaluation = made
    check_tasks(evaluation.lm_eval, where=f"tasks.{name}.evaluation.lm_eval")
    return options, training, evaluation, _vocabulary(name, options)


def _task_options(sweep: SweepConfig, name: str, axes: Mapping[str, Any]) -> dict[str, Any]:
    """``kind`` and every option of a task, defaults included."""
    written = {key: value for key, value in sweep.tasks[name].items() if key not in ("training", "evaluation")}
    for layer in _at(axes, "task"):
        written |= layer
    with _naming(f"tasks.{name}"):
        return task_config(written).to_dict()


def _vocabulary(name: str, options: Mapping[str, Any]) -> int:
    """The vocabulary of a task, which is built for it: a missing corpus is noticed here."""
    with _naming(f"tasks.{name}"):
        return build_task(options).vocab_size


def _reference_vocabulary(sweep: SweepConfig, axes: Mapping[str, Any]) -> int:
    if sweep.match and sweep.match.vocab_size is not None:
        return sweep.match.vocab_size
    return max(_vocabulary(name, _task_options(sweep, name, axes)) for name in sweep.tasks)


def _as_written(sweep: SweepConfig, name: str, axes: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    own = dataclasses.asdict(sweep.models[name])
    given = {key: value for key, value in own.items() if value not in (None, {})}
    layers = [dataclasses.asdict(sweep.defaults), given, *_at(axes, "model")]
    spec = merge(ModelSpec, *layers, prefix=f"models.{name}.")
    with _naming(f"models.{name}"):
        options = {key: getattr(spec, key) for key in _MODEL_OPTIONS if getattr(spec, key) is not None}
        if spec.d_model is None:
            raise InvalidInput("no d_model; give it here or under defaults")
        pattern = _pattern(spec, layers)
        return ModelConfig(pattern=pattern, d_model=spec.d_model, vocab_size=vocab_size, layers=spec.layers, **options)


def _pattern(spec: ModelSpec, layers: Sequence[Mapping[str, Any]]) -> str:
    """The canonical pattern: of ``pattern`` and ``mix`` the one that was said last, by the defaults, the model or an
    axis."""
    said = [[key for key in ("pattern", "mix") if layer.get(key)] for layer in layers]
    for both in said:
        if len(both) == 2:
            raise InvalidInput("both pattern and mix; give one")
    last = [key for keys in said for key in keys][-1:]
    if not last:
        raise InvalidInput("neither pattern nor mix; give one")
    if last == ["pattern"]:
        assert spec.pattern is not None
        return str(parse_pattern(spec.pattern))
    return str(Mix.from_dict(spec.mix).pattern())


def _budget(rule: MatchConfig, written: Mapping[str, ModelConfig]) -> Budget:
    options = {
        key: value for key, value in dataclasses.asdict(rule).items() if key not in ("like", "fine", "vocab_size")
    }
    like = None if rule.like is None else written[rule.like]
    with _naming("match"):
        return Budget(**options, like=like, fine=None if rule.fine is None else tuple(rule.fine))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Begin the line of an InvalidInput raised inside with the place in the sweep file."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None
