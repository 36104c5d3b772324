"""What the command line and the dashboard read."""

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.platform.config import SelectConfig, TrainingConfig
from hybridlab.platform.folders import runs_folder
from hybridlab.platform.records import list_sweeps, load_frame, load_records, load_selection
from hybridlab.platform.tracking import SELECT, Tracker

from .samples import make_trial, place


@pytest.fixture(scope="module")
def two_sweeps(tmp_path_factory):
    """``first``: one finished trial, one diverged, on an axis; ``second``: empty so far."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDLAB_RUNS", str(tmp_path_factory.mktemp("runs")))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    finished = place("first", make_trial(axes={"training.learning_rate": 0.01}), test__loss=1.5, validation__loss=1.4)
    fast = make_trial(training=TrainingConfig(learning_rate=0.1), axes={"training.learning_rate": 0.1})
    diverged = place("first", fast, status="diverged")
    rule = '{"over": ["training.learning_rate"], "metric": "validation/loss", "mode": "min"}'
    tracker = Tracker("first", {SELECT: rule}, order=[finished.name, diverged.name])
    tracker.deliver(finished)
    tracker.deliver(diverged)
    Tracker("second", {SELECT: "null"})
    tracker.client.create_experiment("somebody else's")
    place("third", make_trial())
    yield
    patch.undo()


def test_only_sweeps_are_listed(two_sweeps):
    assert list_sweeps() == ["first", "second"]


def test_a_frame_has_a_row_per_trial_and_a_column_per_metric(two_sweeps):
    frame = load_frame("first")
    lead = ["id", "name", "pattern", "task", "seed", "status", "reason", "parameters", "active_parameters"]
    assert list(frame.columns) == [*lead, "axes", "selected", "test/loss", "train/loss", "validation/loss"]
    assert list(frame["status"]) == ["finished", "diverged"], "no trial is left out"
    assert list(frame["axes"]) == ["learning_rate=0.01", "learning_rate=0.1"]
    assert list(frame["selected"]) == [True, False], "of a tuned axis one value stands for the model"
    assert frame["test/loss"][0] == 1.5
    assert frame["test/loss"].isna()[1]


def test_a_sweep_without_records_is_an_empty_frame(two_sweeps):
    assert load_records("second") == []
    assert load_frame("second").empty


def test_the_rule_for_tuned_settings_is_kept_with_the_sweep(two_sweeps):
    assert load_selection("first") == SelectConfig(over=["training.learning_rate"])
    assert load_selection("second") is None


def test_an_unknown_sweep_gets_the_nearest_name(two_sweeps):
    with pytest.raises(InvalidInput, match=r"no sweep 'frist' in MLflow at sqlite:.*; did you mean 'first'"):
        load_records("frist")


def test_records_that_wait_in_their_folder_are_pointed_to(two_sweeps):
    with pytest.raises(InvalidInput, match="has no sweep 'third', but 1 of its records wait: hybridlab sync"):
        load_records("third")


def test_reading_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert list_sweeps() == []
    with pytest.raises(InvalidInput, match="run one: hybridlab sweep FILE"):
        load_records("x")
    assert not runs_folder().exists()
