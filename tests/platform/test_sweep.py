"""Expansion is pure: the same sweep gives the same trials, each once, at the budget, or one line that says why not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig, bill, parse_pattern
from hybridlab.platform.config import SelectConfig, SweepConfig, TrainingConfig
from hybridlab.platform.loading import load_sweep
from hybridlab.platform.sweep import distinct_models, expand, matched_models, select
from hybridlab.platform.trial_id import trial_id

SWEEP = """
defaults: {d_model: 32, layers: {attn: {n_heads: 2}, mamba2: {head_dim: 8, d_state: 8}}}
models:
  attention: {pattern: "(attn mlp)*2"}
  hybrid: {mix: {mixer: mamba2, ratio: 1/2, depth: 2}}
tasks:
  recall: {kind: recall, n_pairs: 4, vocab_size: 64, sequence_length: 32, training: {steps: 5}}
  copying: {kind: copying, evaluation: {test_batches: 3}}
training: {steps: 10}
seeds: [0, 1]
"""


@pytest.fixture
def load(tmp_path: Path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return lambda *overrides: load_sweep(path, list(overrides))


def test_every_model_meets_every_task_and_seed_in_the_order_written(load):
    trials = expand(load())
    assert [(t.seed, t.task_name, t.name) for t in trials] == [
        (seed, task, name) for seed in (0, 1) for task in ("recall", "copying") for name in ("attention", "hybrid")
    ]


def test_a_task_overrides_training_and_evaluation_for_itself(load):
    by_task = {t.task_name: t for t in expand(load())}
    assert (by_task["recall"].training.steps, by_task["copying"].training.steps) == (5, 10)
    assert (by_task["recall"].evaluation.test_batches, by_task["copying"].evaluation.test_batches) == (16, 3)


def test_axes_cross_with_everything_and_win_over_a_tasks_own_options(tmp_path: Path):
    path = tmp_path / "recall.yaml"
    path.write_text("\n".join(line for line in SWEEP.splitlines() if "copying" not in line))
    axes = ["axes.training.steps=[1,2]", "axes.model.d_model=[16,32]", "axes.task.sequence_length=[64]"]
    trials = expand(load_sweep(path, axes))
    assert len(trials) == 2 * 2 * 1 * 2 * 2
    assert {t.training.steps for t in trials} == {1, 2}
    assert {t.model["d_model"] for t in trials} == {16, 32}
    assert all(t.task["sequence_length"] == 64 for t in trials)
    assert trials[0].axes == {"training.steps": 1, "model.d_model": 16, "task.sequence_length": 64}


MIXED = """
defaults: {d_model: 32, layers: {attn: {n_heads: 2}, mamba2: {head_dim: 8, d_state: 8}, moe: {n_experts: 4}}}
models:
  hybrid: {mix: {mixer: mamba2, depth: 4}}
match: {value: 60000, tolerance: 0.02}
tasks:
  recall: {kind: recall, n_pairs: 4, vocab_size: 64, sequence_length: 32}
training: {steps: 10}
axes:
  model.mix.ratio: [1/4, "1:1"]
  model.mix.placement: [front, back]
  model.mix.moe_every: [0, 2]
  model.mix.depth: [4, 8]
"""


def test_every_option_of_a_mix_is_an_axis_whose_points_have_the_budget_each(tmp_path: Path):
    path = tmp_path / "mixed.yaml"
    path.write_text(MIXED)
    trials = expand(load_sweep(path))
    assert len({trial_id(t) for t in trials}) == len(trials) == 2**4
    for trial in trials:
        share, place, every, depth = trial.axes.values()
        uses = [use.name for use in parse_pattern(trial.model["pattern"]).uses]
        mixers, mlps = uses[::2], uses[1::2]
        assert len(mixers) == len(mlps) == depth
        attention = depth // (4 if share == "1/4" else 2)
        assert [i for i, name in enumerate(mixers) if name == "attn"] == [
            *range(attention if place == "front" else 0),
            *range(depth - attention if place == "back" else depth, depth),
        ]
        assert mlps == (["mlp", "moe"] * (depth // 2) if every else ["mlp"] * depth)
        config = ModelConfig.from_dict(trial.model)
        assert trial.mismatch == pytest.approx(bill(config).parameters / 60000 - 1)
        assert abs(trial.mismatch) <= 0.02


def test_every_distinct_model_of_a_sweep_is_named_with_its_point_on_the_axes(tmp_path: Path, load):
    path = tmp_path / "mixed.yaml"
    path.write_text(MIXED)
    models = distinct_models(load_sweep(path, ["axes.training.steps=[1, 2]"]))
    assert len(models) == 2**4
    assert models[0].name == "hybrid mix.ratio=1/4 mix.placement=front mix.moe_every=0 mix.depth=4"
    assert len({model.name for model in models}) == len({model.config.pattern for model in models}) == 2**4
    assert distinct_models(load("axes.training.steps=[1, 2]")) == matched_models(load())
    tied_or_not = distinct_models(load("axes.model.tie_embeddings=[true, false]"))
    assert [model.name for model in tied_or_not] == [
        f"{name} tie_embeddings={tied}" for name in ("attention", "hybrid") for tied in (True, False)
    ]


def test_expansion_gives_the_same_ids_twice(load):
    assert [trial_id(t) for t in expand(load())] == [trial_id(t) for t in expand(load())]


def test_a_models_scales_and_the_joining_of_branches_reach_its_trials(load):
    options = ["parallel=sum", "embedding_scale=4", "residual_scale=0.5", "logit_scale=0.25", "logit_cap=30"]
    changed = expand(load(*(f"models.hybrid.{option}" for option in options)))
    for before, after in zip(expand(load()), changed, strict=True):
        if after.name == "attention":
            assert trial_id(after) == trial_id(before)
        else:
            model = HybridModel(ModelConfig.from_dict(after.model)).config
            assert (model.parallel, model.embedding_scale, model.residual_scale) == ("sum", 4.0, 0.5)
            assert (model.logit_scale, model.logit_cap) == (0.25, 30.0)
            assert trial_id(after) != trial_id(before)


def test_equal_trials_appear_once(load):
    twice = load('models.again.pattern="(attn mlp) (attn mlp)"')
    assert [trial_id(t) for t in expand(twice)] == [trial_id(t) for t in expand(load())]


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("training.learning_rate", True),
        ("training.batch_size", True),
        ("evaluation.test_batches", True),
        ("training.log_every", False),
        ("training.checkpoint_every", False),
        ("resources.max_concurrent", False),
    ],
)
def test_an_id_depends_on_what_determines_the_result_alone(load, key: str, changes: bool):
    ids = [trial_id(t) for t in expand(load("tasks.copying.evaluation.test_batches=4"))]
    changed = [trial_id(t) for t in expand(load("tasks.copying.evaluation.test_batches=4", f"{key}=1"))]
    assert (ids[0] != changed[0]) is changes


def test_an_id_is_twelve_hex_digits_that_nothing_takes_for_a_number(load):
    trial = expand(load())[0]
    for seed in range(200):
        name = trial_id(dataclasses.replace(trial, seed=seed))
        assert len(name) == 12
        assert set(name) <= set("0123456789abcdef")
        assert name[0].isalpha()


@pytest.mark.parametrize("by", ["parameters", "flops"])
def test_models_have_the_budget_within_the_tolerance(load, by: str):
    sweep = load("match.like=attention", f"match.by={by}")
    attention, hybrid = matched_models(sweep)
    count = {"parameters": lambda m: bill(m).parameters, "flops": lambda m: bill(m).flops_per_token(1024)}[by]
    assert attention.mismatch == 0
    assert hybrid.mismatch == pytest.approx(count(hybrid.config) / count(attention.config) - 1)
    assert abs(hybrid.mismatch) <= 0.02


def test_matching_counts_the_embedding_at_the_largest_vocabulary_of_the_tasks(load):
    sweep = load("match.value=40000", "tasks.recall.vocab_size=512")
    models = matched_models(sweep)
    assert {m.config.vocab_size for m in models} == {512}
    for trial in expand(sweep):
        assert trial.mismatch == next(m.mismatch for m in models if m.name == trial.name)
        assert trial.model["vocab_size"] == (512 if trial.task_name == "recall" else 32)
        assert trial.model["d_model"] == next(m.config.d_model for m in models if m.name == trial.name)


def test_a_trial_names_a_model_that_can_be_built(load):
    for trial in expand(load()):
        assert ModelConfig.from_dict(trial.model).to_dict() == trial.model


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ('models.attention.pattern="(atn mlp)*2"', "models.attention: .*attn"),
        ("models.attention.layers.attn.n_heads=3", "models.attention: .*3"),
        ("models.attention.layers.attn.n_head=2", "models.attention: .*n_heads"),
        ("models.hybrid.mix.raito=0.5", "models.hybrid: .*ratio"),
        ("models.x.d_model=16", "models.x: neither pattern nor mix; give one"),
        ("models.hybrid.pattern=attn", "models.hybrid: both pattern and mix; give one"),
        ("tasks.recall.kind=recal", "tasks.recall: .*'recall'"),
        ("tasks.recall.n_pears=3", "tasks.recall: .*n_pairs"),
        ("tasks.recall.training.stepz=3", "unknown key 'tasks.recall.training.stepz'; did you mean 'steps'"),
        ("tasks.recall.training.steps=0", "tasks.recall.training.steps: 0 is not possible"),
        ("tasks.recall.training=3", "tasks.recall.training: 3 is not a mapping"),
        ("match.like=atention", "match.like: unknown model 'atention'; did you mean 'attention'"),
        ("match.value=1000", "models.attention: .*1,000"),
        ("axes.learning_rate=[1]", "axes: unknown trial key 'learning_rate'"),
        ("axes.training.lr=[1]", "unknown key 'tasks.recall.training.lr'"),
        ("axes.model.d_modl=[1]", "unknown key 'models.attention.d_modl'; did you mean 'd_model'"),
        ("axes.training.steps=[]", "axes.training.steps: no values"),
        ("select.over=[training.steps]", "select.over: 'training.steps' is not an axis"),
        (
            "evaluation.lm_eval.tasks=[niah_singel_1]",
            "tasks.recall.evaluation.lm_eval.tasks: lm-eval has no task 'niah_singel_1'; did you mean 'niah_single_1'",
        ),
        ("evaluation.lm_eval.tasks=[niah_single_1]", "tasks.recall.evaluation.lm_eval.lengths: empty"),
        ("tasks.text={kind: language_modelling, corpus: ./nowhere.txt}", "tasks.text: .*nowhere"),
    ],
    ids=lambda text: text.partition("=")[0] if "=" in text else "",
)
def test_what_cannot_run_is_refused_in_one_line_that_says_where(load, override: str, line: str):
    with pytest.raises(InvalidInput, match=rf"^{line}") as refused:
        expand(load(override))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["stdlib_next_line", "hellaswag", "mmlu", "arc_easy"])
def test_tasks_groups_and_our_own_lm_eval_tasks_are_known(load, name: str):
    assert expand(load(f"evaluation.lm_eval.tasks=[{name}]"))[0].evaluation.lm_eval.tasks == [name]


def test_a_sweep_without_models_or_tasks_is_refused():
    with pytest.raises(InvalidInput, match="models: empty"):
        expand(SweepConfig(training=TrainingConfig()))


def record(name: str, rate: float, seed: int, loss: float | None, status: str = "finished") -> dict[str, Any]:
    metrics = {} if loss is None else {"validation/loss": loss}
    config = {"axes": {"training.learning_rate": rate, "model.d_model": 16}}
    return {"name": name, "task": "recall", "seed": seed, "status": status, "metrics": metrics, "config": config}


def test_selection_takes_the_value_that_is_best_on_validation_over_seeds():
    rule = SelectConfig(over=["training.learning_rate"])
    records = [
        record("a", 1e-3, 0, 1.0),
        record("a", 1e-3, 1, 5.0),
        record("a", 3e-3, 0, 2.0),
        record("a", 3e-3, 1, 2.0),
    ]
    records += [record("b", 1e-3, 0, 0.1), record("b", 3e-3, 0, 0.2)]
    chosen = [(r["name"], r["config"]["axes"]["training.learning_rate"]) for r in select(records, rule)]
    assert chosen == [("a", 3e-3), ("a", 3e-3), ("b", 1e-3)]


def test_selection_prefers_values_where_every_seed_finished_and_keeps_what_never_did():
    rule = SelectConfig(over=["training.learning_rate"])
    records = [record("a", 1e-3, 0, 0.1), record("a", 1e-3, 1, None, "diverged"), record("a", 3e-3, 0, 2.0)]
    assert [r["config"]["axes"]["training.learning_rate"] for r in select(records, rule)] == [3e-3]
    failed = [record("a", 1e-3, 0, None, "failed"), record("a", 3e-3, 0, None, "diverged")]
    assert select(failed, rule) == failed
