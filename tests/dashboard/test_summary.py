import pytest
from hybridlab.dashboard.summary import count_line, exclusions, metric_columns, number, view

QUALITY, EFFICIENCY = "test/accuracy", "efficiency/state_bytes/1024"


def test_a_model_is_the_mean_and_the_range_of_its_seeds(trial):
    rows = [trial("attention", seed=seed, **{QUALITY: value}) for seed, value in enumerate([0.2, 0.3, 0.7])]
    (model,) = view(rows, QUALITY, EFFICIENCY).models
    assert model.quality.mean == pytest.approx(0.4)
    assert (model.quality.least, model.quality.greatest) == (0.2, 0.7)
    assert (model.seeds, model.shown, model.trials) == (3, 3, 3)


@pytest.mark.parametrize(
    ("points", "quality", "efficiency", "frontier"),
    [
        ([(0.9, 10), (0.5, 5), (0.4, 7)], "test/accuracy", "efficiency/state_bytes/1024", {"0", "1"}),
        ([(0.9, 10), (0.5, 5), (0.4, 7)], "test/loss", "efficiency/state_bytes/1024", {"1", "2"}),
        ([(0.9, 10), (0.5, 5), (0.4, 7)], "test/accuracy", "efficiency/decode_tokens_per_second/1024", {"0"}),
        ([(0.9, 10), (0.5, 5), (0.4, 7)], "test/loss", "efficiency/decode_tokens_per_second/1024", {"0", "2"}),
    ],
    ids=["up and small", "down and small", "up and large", "down and large"],
)
def test_the_frontier_follows_the_direction_of_both_axes(trial, points, quality, efficiency, frontier):
    rows = [trial(str(name), **{quality: y, efficiency: float(x)}) for name, (y, x) in enumerate(points)]
    assert {model.name for model in view(rows, quality, efficiency).models if model.frontier} == frontier


def test_models_come_frontier_first_then_by_quality(trial):
    values = {"worst": (0.1, 9.0), "good": (0.8, 9.0), "best": (0.9, 8.0), "small": (0.2, 1.0)}
    rows = [trial(name, **{QUALITY: y, EFFICIENCY: x}) for name, (y, x) in values.items()]
    assert [model.name for model in view(rows, QUALITY, EFFICIENCY).models] == ["best", "small", "good", "worst"]


def test_every_trial_is_shown_or_excluded_with_a_reason(trials):
    shown = view(trials, QUALITY, EFFICIENCY)
    assert sum(model.shown for model in shown.models) + len(shown.excluded) == len(trials)
    assert {(row["name"], row["status"], row["reason"]) for row in shown.excluded} == {
        ("mamba2", "diverged", "loss is NaN at step 412"),
        ("rwkv6", "out_of_memory", "12.0 GiB asked, 8.1 GiB free"),
        ("linear", "without a value", "no finite Test accuracy"),
    }


def test_a_model_that_lost_a_trial_knows_it(trials):
    models = {model.name: model for model in view(trials, QUALITY, EFFICIENCY).models}
    assert (models["mamba2"].shown, models["mamba2"].trials) == (2, 3)
    assert (models["mamba"].shown, models["mamba"].trials) == (3, 3)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.9"])
def test_what_is_no_finite_number_is_never_drawn(trial, value):
    row = trial("attention", **{QUALITY: value})
    assert number(row, QUALITY) is None
    assert view([row], QUALITY, EFFICIENCY).models == []
    assert [gone["status"] for gone in exclusions([row], [QUALITY, EFFICIENCY])] == ["without a value"]


def test_metrics_of_a_trial_that_did_not_finish_do_not_count(trial):
    row = trial("attention") | {"status": "diverged"}
    assert view([row], QUALITY, EFFICIENCY).models == []
    assert metric_columns([row]) == []


def test_axes_offer_what_some_finished_trial_has_and_no_standard_error(trial):
    rows = [
        trial("attention", **{"lm_eval/copy/acc_stderr": 0.1, "test/empty": None, "note": 3}),
        trial("mamba", status="failed", **{"test/only_failed": 1.0}),
    ]
    offered = metric_columns(rows)
    assert {"parameters", "active_parameters", QUALITY, EFFICIENCY} <= set(offered)
    assert not {"lm_eval/copy/acc_stderr", "test/empty", "test/only_failed", "note", "seed"} & set(offered)


def test_one_name_with_two_patterns_is_two_models(trial):
    rows = [trial("same", pattern="attn"), trial("same", pattern="mamba2")]
    assert [model.pattern for model in view(rows, QUALITY, EFFICIENCY).models] == ["attn", "mamba2"]


def test_points_of_a_sweeps_axes_are_models_of_their_own(trial):
    rows = [trial("attention", axes=f"learning_rate={rate}", id=rate) for rate in ("0.1", "0.2")]
    names = {model.name for model in view(rows, QUALITY, EFFICIENCY).models}
    assert names == {"attention learning_rate=0.1", "attention learning_rate=0.2"}


def test_settings_that_validation_did_not_choose_are_not_on_the_frontier(trial):
    rows = [
        trial("attention", axes="learning_rate=0.1", id="a", selected=True, **{QUALITY: 0.7}),
        trial("attention", axes="learning_rate=0.2", id="b", selected=False, **{QUALITY: 0.9}),
    ]
    shown = view(rows, QUALITY, EFFICIENCY)
    assert [model.name for model in shown.models] == ["attention learning_rate=0.1"]
    assert [row["status"] for row in shown.excluded] == ["not selected"]


def test_the_caption_counts_what_is_left_out_by_kind(trials):
    line = count_line(view(trials, QUALITY, EFFICIENCY))
    assert line == "24 of 27 trials shown. Excluded: 1 diverged, 1 out of memory, 1 without a value."


def test_the_caption_warns_where_one_seed_stands_for_several_settings(trial):
    rows = [trial("attention", id="a"), trial("attention", id="b")]
    assert "average" in count_line(view(rows, QUALITY, EFFICIENCY))
    assert "average" not in count_line(view(rows[:1], QUALITY, EFFICIENCY))
