"""What would run and what it costs, before anything does."""

import io
import json

import pytest
from hybridlab.architectures import InvalidInput, ModelConfig, bill, load_published
from hybridlab.platform import show_gpu
from hybridlab.platform.gpu_rates import Rates, load_rates
from hybridlab.platform.show import LENGTHS, show, table, training_flops
from rich.console import Console, RenderableType

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


@pytest.mark.parametrize("name", ["mamba-2.8b", "recurrentgemma-2b"])
def test_a_published_model_keeps_its_shape_and_tells_its_mismatch(name):
    (model,) = show(name, parameters=30e6).models
    assert model["mismatch"] == pytest.approx(model["parameters"] / 30e6 - 1)
    assert abs(model["mismatch"]) < 0.1


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


def printed(what: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_a_row_per_model(sweep_file):
    text = printed(table(show(sweep_file)))
    assert "mamba2 attn mlp" in text
    assert "state at" in text
    assert "published" not in text


def test_what_is_known_of_a_published_model_is_under_its_table():
    text = printed(table(show("kimi-linear-48b-a3b")))
    assert "arXiv:2510.26692" in text
    assert "pattern secondary, sizes primary" in text
    assert "48G parameters, 3G active, read as without embedding and head (the paper)" in text
    assert "without embedding and head it is 48.4B" in text
    assert "49.12G parameters (transformers" in text
    assert "21 KDA and 6 MLA" in text
    assert "differ" not in printed(table(show("jamba-v0.1")))
    assert "makers" not in printed(table(show("bailing-hybrid"))), "nobody states a count"


@pytest.mark.parametrize("parameters", [None, 100e6])
def test_what_is_known_of_a_published_model_is_in_its_json(parameters):
    (model,) = show("kimi-linear-48b-a3b", parameters=parameters).models
    assert list(model) == [*KEYS, "published"]
    known = model["published"]
    assert known["pattern_confidence"] == "secondary"
    assert known["stated"]["total"] == 48e9
    assert "48.4B" in known["stated"]["total_differs_because"]
    assert known["parameters"] == bill(load_published("kimi-linear-48b-a3b").config).parameters
    assert json.loads(json.dumps(model)) == model


def test_what_does_not_fit_the_gpu_is_said_and_by_how_much():
    shown = [show("jamba-v0.1").models[0], show("attn mlp").models[0]]
    configs = [load_published("jamba-v0.1").config, ModelConfig(pattern="attn mlp", d_model=64, vocab_size=100)]
    predicted = show_gpu.predictions(configs, "h100", batch_size=1, length=512)
    large, small = (model["on_gpu"]["bytes_over"] for model in show_gpu.plain(shown, predicted))
    assert large["training"] == predicted[0].memory["peak"] - predicted[0].gpu_bytes > 0
    assert large["serving"] == predicted[0].serving_bytes - predicted[0].gpu_bytes > 0
    assert small == {"training": 0, "serving": 0}
    said = [line for line in printed(show_gpu.table(["jamba", "small"], predicted)).splitlines() if "fit" in line]
    assert [line.split()[0] for line in said] == ["training", "serving"]
    assert all("jamba takes" in line and "small" not in line for line in said)
    assert "fit" not in printed(show_gpu.table(["small"], predicted[1:]))


@pytest.mark.parametrize("layers", [{}, {"mlp": {"forward": 1e-3, "backward": 1e-3, "prefill": 1e-3}}])
def test_a_host_that_was_not_measured_by_layer_is_said(layers, monkeypatch):
    config = ModelConfig(pattern="attn mlp", d_model=64, vocab_size=100)
    predicted = show_gpu.predictions([config], "h100", batch_size=1, length=512)
    rates = Rates(load_rates("h100").measured | {"layers": layers})
    monkeypatch.setattr(show_gpu, "rates_of", lambda gpu: rates)
    said = [line for line in show_gpu.remarks(predicted) if "small batches take longer than predicted" in line]
    assert len(said) == (not layers)


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
