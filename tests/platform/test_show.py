"""What would run and what it costs, before anything does."""

import io
import json

import pytest
from hybridlab.architectures import InvalidInput, ModelConfig, bill, load_published
from hybridlab.platform.show import LENGTHS, show, table, training_flops
from rich.console import Console

KEYS = ["name", "pattern", "layers", "parameters", "active_parameters", "flops_per_token", "state_bytes", "mismatch"]
SWEEP = """
defaults: {d_model: 16, layers: {attn: {n_heads: 2}, mamba2: {head_dim: 8}}}
models:
  attention: {pattern: "attn mlp"}
  hybrid: {pattern: "mamba2 attn mlp"}
tasks:
  recall: {kind: recall, n_pairs: 4, vocab_size: 64, sequence_length: 32}
  copying: {kind: copying}
seeds: [0, 1]
training: {steps: 10, batch_size: 4}
"""


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(SWEEP)
    return str(path)


def test_a_pattern_is_shown_as_a_model_with_documented_defaults():
    (model,) = show("(mamba2 mlp)*7 (attn moe)").models
    assert list(model) == KEYS
    costs = bill(ModelConfig(pattern=model["pattern"], d_model=1024, vocab_size=50304))
    assert model["layers"] == 16
    assert model["parameters"] == costs.parameters
    assert model["active_parameters"] == costs.active_parameters < costs.parameters
    assert model["flops_per_token"] == costs.flops_per_token(1024)
    assert model["state_bytes"] == {str(length): costs.state_bytes(length) for length in LENGTHS}
    assert model["mismatch"] is None
    assert json.loads(json.dumps(model)) == model


def test_keys_change_what_a_pattern_is_shown_at():
    (model,) = show("attn mlp", ["d_model=64", "vocab_size=100", "sequence_length=8", "layers.attn.n_heads=2"]).models
    config = ModelConfig(pattern="attn mlp", d_model=64, vocab_size=100, layers={"attn": {"n_heads": 2}})
    assert model["parameters"] == bill(config).parameters
    assert model["flops_per_token"] == bill(config).flops_per_token(8)


def test_branches_are_joined_as_asked_and_as_published():
    averaged, summed = (show("attn|mamba2", [f"parallel={how}"]).models[0]["parameters"] for how in ("average", "sum"))
    assert averaged - summed == 2 * 1024  # the norms of two branches
    assert show("falcon-h1-7b").models[0]["parameters"] == load_published("falcon-h1-7b").parameters


def test_parameters_match_a_pattern_to_a_budget():
    (model,) = show("(mamba2 mlp)*7 (attn moe)", parameters=30e6).models
    assert abs(model["mismatch"]) <= 0.02
    assert model["parameters"] == pytest.approx(30e6 * (1 + model["mismatch"]))


def test_a_published_model_is_shown_by_name_and_scaled():
    (full,) = show("jamba-v0.1").models
    (small,) = show("jamba-v0.1", ["vocab_size=1000"], parameters=100e6).models
    assert full["name"] == small["name"] == "jamba-v0.1"
    assert full["pattern"] == small["pattern"]
    assert full["parameters"] > 50e9
    assert abs(small["mismatch"]) <= 0.02
    with pytest.raises(InvalidInput, match="with --parameters only vocab_size and sequence_length"):
        show("jamba-v0.1", ["d_model=64"], parameters=100e6)


def test_a_sweep_is_shown_with_its_trials_and_their_cost(sweep_file):
    shown = show(sweep_file)
    assert [model["name"] for model in shown.models] == ["attention", "hybrid"]
    assert len(shown.trials) == 2 * 2 * 2
    recall = next(trial for trial in shown.trials if trial.task_name == "recall")
    costs = bill(ModelConfig.from_dict(recall.model))
    assert training_flops(recall) == 10 * 4 * 32 * costs.training_flops_per_token(32)
    assert shown.training_flops == sum(training_flops(trial) for trial in shown.trials)


def test_parameters_give_a_sweep_a_budget(sweep_file):
    models = show(sweep_file, parameters=20000).models
    assert all(abs(model["mismatch"]) <= 0.02 for model in models)


def test_a_sweep_that_comes_along_is_shown_by_name():
    shown = show("quickstart")
    assert shown.sweep is not None
    assert shown.sweep.name == "quickstart"
    assert all(abs(model["mismatch"]) <= 0.02 for model in shown.models)


def test_the_table_has_a_row_per_model(sweep_file):
    console = Console(width=200, file=io.StringIO())
    console.print(table(show(sweep_file)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mamba2 attn mlp" in text
    assert "state at" in text


@pytest.mark.parametrize(
    "what, overrides, line",
    [
        ("(mamab2 mlp)*2", [], "unknown layer 'mamab2'; did you mean 'mamba2'"),
        ("attn mlp", ["dmodel=3"], "unknown key 'dmodel'; did you mean 'd_model'"),
        ("attn mlp", ["d_model=wide"], "d_model: Value 'wide'"),
        ("attn mlp", ["d_model"], "override 'd_model' is not key=value"),
        ("attn mlp", ["layers.attn.n_heads=7"], "n_heads=7 does not cut the width 1024"),
        ("jamba-v0.2", [], "'jamba-v0.2' is no sweep, published model or layer; did you mean 'jamba-v0.1'"),
        ("quickstrt", [], "did you mean 'quickstart'"),
        ("nowhere.yaml", [], "'nowhere.yaml': no such file"),
    ],
)
def test_a_mistake_is_one_line(what, overrides, line):
    with pytest.raises(InvalidInput) as caught:
        show(what, overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
