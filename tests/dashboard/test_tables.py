import io
import json
import math

import pandas as pd
from hybridlab.dashboard.summary import view
from hybridlab.dashboard.tables import as_csv, as_json, file_name, model_table, trial_table

QUALITY, EFFICIENCY = "test/accuracy", "efficiency/state_bytes/1024"


def test_the_table_of_models_says_what_the_chart_draws(trials):
    shown = view(trials, QUALITY, EFFICIENCY)
    table = model_table(shown)
    assert list(table["name"]) == [model.name for model in shown.models]
    assert list(table["frontier"]) == [model.frontier for model in shown.models]
    for part, value in (("mean", "mean"), ("min", "least"), ("max", "greatest")):
        assert list(table[f"{QUALITY} {part}"]) == [getattr(model.quality, value) for model in shown.models]
        assert list(table[f"{EFFICIENCY} {part}"]) == [getattr(model.efficiency, value) for model in shown.models]


def test_one_metric_on_both_axes_is_one_set_of_columns(trials):
    table = model_table(view(trials, QUALITY, QUALITY))
    assert table.columns.is_unique
    assert json.loads(as_json(table))


def test_the_table_of_trials_has_every_trial_and_every_metric_once(frame):
    table = trial_table(frame.assign(**{"test/nothing": None}).to_dict("records"))
    assert len(table) == len(frame)
    assert table.columns.is_unique
    assert set(frame.columns) - set(table.columns) == set()
    assert "test/nothing" not in table


def test_exports_read_back_as_the_same_numbers(trials):
    table = trial_table(trials)
    csv = pd.read_csv(io.BytesIO(as_csv(table)))
    rows = json.loads(as_json(table))
    assert list(csv.columns) == list(rows[0]) == list(table.columns)
    for there, back, row in zip(table[QUALITY], csv[QUALITY], rows, strict=True):
        if math.isnan(there):
            assert math.isnan(back)
            assert row[QUALITY] is None
        else:
            assert back == there
            assert math.isclose(row[QUALITY], there, rel_tol=1e-14)


def test_a_file_name_is_never_a_path():
    assert file_name("../../etc", "a b/c", "models", ending="csv") == "etc_a-b-c_models.csv"
