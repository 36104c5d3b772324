from typing import Any

import pytest
from hybridlab.dashboard.frontier_chart import frontier_figure
from hybridlab.dashboard.readings import behind
from hybridlab.dashboard.summary import view
from hybridlab.platform.placement import SIDES, place_names

QUALITY, EFFICIENCY = "test/accuracy", "efficiency/state_bytes/1024"


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_the_frontier_is_drawn_and_the_dominated_are_dimmed(trials):
    shown = view(trials, QUALITY, EFFICIENCY)
    drawn = traces(frontier_figure(shown))
    best = [model for model in shown.models if model.frontier]
    assert set(drawn["On the frontier"].y) == {model.quality.mean for model in best}
    assert len(drawn["Dominated"].y) == len(shown.models) - len(best) > 0
    assert drawn["Dominated"].opacity < drawn["On the frontier"].opacity
    assert list(drawn["Frontier"].x) == sorted(model.efficiency.mean for model in best)


@pytest.mark.parametrize(
    ("efficiency", "shape"), [(EFFICIENCY, "hv"), ("efficiency/decode_tokens_per_second/1024", "vh")]
)
def test_the_staircase_promises_nothing_between_two_models(trials, efficiency, shape):
    assert traces(frontier_figure(view(trials, QUALITY, efficiency)))["Frontier"].line.shape == shape


def test_error_bars_span_the_seeds(trial):
    rows = [trial("attention", seed=seed, **{QUALITY: value}) for seed, value in enumerate([0.25, 0.5, 1.5])]
    bars = traces(frontier_figure(view(rows, QUALITY, EFFICIENCY)))["On the frontier"].error_y
    assert (bars.arrayminus[0], bars.array[0]) == (0.5, 0.75)


def test_a_model_with_a_lost_trial_is_a_ring(trials):
    shown = view(trials, QUALITY, EFFICIENCY)
    drawn = traces(frontier_figure(shown)).values()
    rings = sum(list(trace.marker.symbol).count("circle-open") for trace in drawn if trace.marker.symbol)
    assert rings == sum(model.shown < model.trials for model in shown.models) == 3


def test_sizes_are_logarithmic_unless_the_reader_says_otherwise(trials):
    shown = view(trials, QUALITY, EFFICIENCY)
    layout: Any = frontier_figure(shown).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "linear")
    other: Any = frontier_figure(shown, "log", "linear").layout
    assert (other.xaxis.type, other.yaxis.type) == ("linear", "log")


@pytest.mark.parametrize(("largest", "dtick"), [(1e4, None), (1e5, "D2"), (1e9, 1)])
def test_logarithmic_ticks_are_as_dense_as_their_labels_allow(trial, largest, dtick):
    rows = [trial("mamba", **{EFFICIENCY: 1e3}), trial("attention", **{EFFICIENCY: largest})]
    layout: Any = frontier_figure(view(rows, QUALITY, EFFICIENCY)).layout
    assert layout.xaxis.dtick == dtick


def test_zero_is_not_put_on_a_logarithmic_axis(trial):
    rows = [trial("mlp", **{EFFICIENCY: 0.0}), trial("attention")]
    layout: Any = frontier_figure(view(rows, QUALITY, EFFICIENCY), "auto", "log").layout
    assert layout.xaxis.type == "linear"


def test_the_hover_tells_seeds_and_lost_trials(trials):
    models = {model.name: model for model in view(trials, QUALITY, EFFICIENCY).models}
    assert behind(models["mamba"]) == "1.05M parameters · 3 seeds"
    assert behind(models["mamba2"]).endswith("2 seeds, 1 of 3 trials excluded")


def test_names_and_patterns_are_escaped(trial):
    figure: Any = frontier_figure(view([trial("<b>x</b> $y$", pattern="<i>z</i>")], QUALITY, EFFICIENCY))
    hover = figure.data[2].customdata[0]
    assert figure.data[2].text[0] == "&lt;b&gt;x&lt;/b&gt; &#36;y&#36;"
    assert hover[0] == figure.data[2].text[0]
    assert hover[1] == "&lt;i&gt;z&lt;/i&gt;"


def test_names_that_would_cover_each_other_stand_on_different_sides():
    sides = place_names([(100, 100), (104, 112)], ["first", "second"], [True, True], [])
    assert sides[0] != sides[1]
    assert set(sides) <= set(SIDES)


def test_a_crowd_names_what_must_be_named_and_leaves_the_rest_to_the_hover():
    points = [(100.0 + 3 * place, 100.0) for place in range(30)]
    sides = place_names(points, ["a rather long name"] * 30, [place == 29 for place in range(30)], [])
    assert sides[29] is not None
    assert sides.count(None) >= 20


def test_a_name_does_not_stand_on_a_line():
    line = ((0.0, 118.0), (200.0, 118.0))
    assert place_names([(100, 100)], ["name"], [True], []) == ["top center"]
    assert place_names([(100, 100)], ["name"], [True], [line]) == ["bottom center"]
