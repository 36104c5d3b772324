"""Sweep files are strict: what is wrong is one line with the key, the value and what would be right, before anything
starts."""

from pathlib import Path

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.platform.config import SweepConfig, TrialConfig
from hybridlab.platform.loading import load_sweep

SWEEP = """
defaults: {d_model: 16, layers: {attn: {n_heads: 2}}}
models:
  attention: {pattern: "(attn mlp)*2"}
tasks:
  recall: {kind: recall}
training: {learning_rate: 1e-3}
axes: {training.learning_rate: [1e-3, 3e-3]}
"""


@pytest.fixture
def load(tmp_path: Path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return lambda *overrides: load_sweep(path, list(overrides))


def test_defaults_then_file_then_command_line(load):
    sweep = load("training.steps=7", "models.attention.layers.attn.n_heads=4")
    assert isinstance(sweep, SweepConfig)
    assert sweep.name == "small"
    assert (sweep.training.steps, sweep.training.learning_rate, sweep.training.batch_size) == (7, 1e-3, 32)
    assert sweep.models["attention"].layers == {"attn": {"n_heads": 4}}


def test_an_axis_may_be_overridden_and_added_by_its_dotted_key(load):
    sweep = load("axes.training.learning_rate=[5e-3]", "axes.model.d_model=[16,32]")
    assert sweep.axes == {"training.learning_rate": [5e-3], "model.d_model": [16, 32]}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainin.steps=7", "unknown key 'trainin'; did you mean 'training'?"),
        ("training.stepz=7", "unknown key 'training.stepz'; did you mean 'steps'?"),
        ("models.attention.patern=attn", "unknown key 'models.attention.patern'; did you mean 'pattern'?"),
        ("training.steps=many", "training.steps: Value 'many' of type 'str' could not be converted to Integer"),
        ("training.steps=1.5", "training.steps: Value '1.5' of type 'float' could not be converted to Integer"),
        ("training.steps=-1", "training.steps: -1 is not possible; it takes a whole number above 0"),
        ("training.learning_rate=0", "training.learning_rate: 0.0 is not possible; it takes a number above 0"),
        ("training.learning_rate=nan", "training.learning_rate: nan is not possible; it takes a number above 0"),
        ("training.schedule=cosin", "training.schedule: unknown value 'cosin'; did you mean 'cosine'?"),
        (
            "evaluation.lm_eval.limit=0",
            "evaluation.lm_eval.limit: 0 is not possible; it takes a whole number above 0, or null",
        ),
        ("seeds=[1,1]", "seeds: [1, 1] is not possible; it takes one or more different whole numbers"),
        ("models=3", "models: Cannot assign int to Dict[str, ModelSpec] (given 3)"),
        ("name=a/b", "name: 'a/b' is not possible; it takes letters, digits, '.', '_' and '-': it names a folder"),
        ("match.by=params", "match.by: unknown value 'params'; did you mean 'parameters'?"),
        (
            "match.by=flops",
            "match.value: None is not possible; it takes a number, or none beside like: the name of a model",
        ),
        ("resources.cpus=0", "resources.cpus: 0.0 is not possible; it takes a number above 0"),
        ("nonsense", "override 'nonsense' is not key=value"),
        ("training.steps=${foo}", "training.steps: Interpolation key 'foo' not found"),
        (
            "select.metric=test/loss",
            "select.metric: 'test/loss' is not possible; it takes a validation metric: choosing on test data would"
            " flatter the chosen",
        ),
    ],
    ids=lambda text: text if "=" in text and " " not in text else "",
)
def test_a_refusal_names_key_value_and_what_would_be_right(load, override: str, line: str):
    with pytest.raises(InvalidInput) as refused:
        load(override)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "a: 1\na: 2"], ids=["broken", "a list", "a key twice"])
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=r"bad\.yaml") as refused:
        load_sweep(tmp_path / "bad.yaml")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"no sweep file .*nowhere\.yaml"):
        load_sweep(tmp_path / "nowhere.yaml")


def test_a_trial_survives_json(recall_trial):
    import json

    trial = recall_trial()
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial
