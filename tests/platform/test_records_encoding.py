"""A record as an MLflow run: what goes in comes out."""

import itertools
import math

from hybridlab.platform.run_encoding import (
    CURVE_POINTS,
    LONGEST,
    config_to_params,
    curve_to_points,
    metrics_to_points,
    record_to_tags,
    run_to_record,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .samples import make_record, make_trial

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
keys = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=10)
trees = st.recursive(
    leaves, lambda children: st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=3)
)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(st.dictionaries(keys, trees, max_size=4))
def test_any_configuration_comes_back(config):
    params = config_to_params(config)
    assert all(isinstance(value, str) and value for value in params.values())
    assert run_to_record({}, params, {})["config"] == config


@patient
@given(st.dictionaries(st.text(min_size=1, max_size=10), st.floats(allow_nan=False), max_size=4))
def test_any_metric_name_and_value_comes_back(metrics):
    stored = {
        key: max(min(value, 1.7976931348623157e308), -1.7976931348623157e308)
        for key, value, _ in metrics_to_points(metrics, 0)
    }
    largest = {
        key: math.copysign(math.inf, value) if abs(value) >= 1.7976931348623157e308 else value
        for key, value in metrics.items()
    }
    assert run_to_record({}, {}, stored)["metrics"] == largest


def test_a_record_comes_back_with_its_types():
    record = make_record(make_trial(seed=3), test__loss=1.25)
    points = metrics_to_points(record["metrics"], 5)
    params = config_to_params(record["config"])
    assert run_to_record(record_to_tags(record), params, {key: value for key, value, _ in points}) == record
    assert params["training.steps"] == "5"
    assert params["training.schedule"] == "cosine", "plain strings stay readable"
    assert params["task.label"] == '"12"', "a string that looks like a number stays a string"


def test_texts_longer_than_mlflow_takes_are_cut_and_joined():
    record = make_record(make_trial(), status="failed") | {"reason": "x" * (2 * LONGEST + 1)}
    tags = record_to_tags(record)
    assert max(map(len, tags.values())) == LONGEST
    assert run_to_record(tags, {}, {})["reason"] == record["reason"]


def test_curves_are_thinned_evenly_and_keep_both_ends():
    rows = [{"step": step, "train/loss": 1.0 / step, "seconds": 0.1, "note": "no number"} for step in range(1, 5001)]
    points = curve_to_points(rows)
    steps = [step for _, _, step in points]
    assert {key for key, _, _ in points} == {"train/loss"}
    assert len(points) <= CURVE_POINTS
    assert (steps[0], steps[-1]) == (1, 5000)
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2 * 5000 // CURVE_POINTS


def test_a_short_curve_is_whole():
    assert curve_to_points([{"step": 7, "train/loss": 2.0}]) == [("train/loss", 2.0, 7)]
    assert curve_to_points([]) == []
