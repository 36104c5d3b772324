"""The Pareto frontier: what its definition says, for any points."""

import math

import pytest
from hybridlab.platform.frontier import pareto, smaller_is_better
from hypothesis import given
from hypothesis import strategies as st

values = st.integers(-3, 3).map(float) | st.sampled_from([math.nan, math.inf, -math.inf, 0.5])
points = st.lists(st.tuples(values, values, values), max_size=12)


def beaten(point, others):
    """By the definition: someone is nowhere worse and somewhere better."""
    rivals = [p for p in others if not any(map(math.isnan, p))]
    return any(
        all(a <= b for a, b in zip(p, point, strict=True)) and any(a < b for a, b in zip(p, point, strict=True))
        for p in rivals
    )


@given(points)
def test_the_frontier_is_what_nothing_beats(points):
    expected = {i for i, p in enumerate(points) if not any(map(math.isnan, p)) and not beaten(p, points)}
    assert pareto(points) == expected


@given(points, st.randoms())
def test_the_order_of_the_points_does_not_matter(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    assert {order[i] for i in pareto([points[i] for i in order])} == pareto(points)


@given(points)
def test_equal_points_stand_or_fall_together(points):
    once = pareto(points)
    assert pareto(points + points) == once | {i + len(points) for i in once}


@given(points, st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_larger_is_better_is_the_mirror_image(points, larger):
    mirrored = [tuple(-v if flip else v for v, flip in zip(p, larger, strict=True)) for p in points]
    assert pareto(points, larger) == pareto(mirrored)


@given(points)
def test_there_is_a_frontier_wherever_there_is_a_number(points):
    assert bool(pareto(points)) == any(not any(map(math.isnan, p)) for p in points)


def test_a_nan_is_on_no_frontier_and_beats_nothing():
    assert pareto([(math.nan, 0.0), (1.0, 1.0)]) == {1}


def test_a_direction_for_every_axis_is_needed():
    with pytest.raises(ValueError):
        pareto([(1.0, 2.0)], [True])


@pytest.mark.parametrize(
    "metric", ["test/loss", "test/bits_per_byte", "efficiency/state_bytes/1024", "parameters", "bill/flops_per_token"]
)
def test_costs_are_better_small(metric):
    assert smaller_is_better(metric)


@pytest.mark.parametrize(
    "metric",
    ["test/accuracy", "efficiency/decode_tokens_per_second/512", "lm_eval/niah_single_1/4096", "lm_eval/a/acc,none"],
)
def test_scores_and_speeds_are_better_large(metric):
    assert not smaller_is_better(metric)
