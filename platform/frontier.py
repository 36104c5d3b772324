"""Which models no other model beats: the Pareto frontier, and which way each metric is better. Pure functions."""

import math
import re
from collections.abc import Sequence

_SMALLER = re.compile(r"(loss|nll|perplexity|ppl|bits_per_\w+|bytes|seconds|flops\w*|parameters|error|wer|cer)$")


def pareto(points: Sequence[Sequence[float]], larger_is_better: Sequence[bool] | None = None) -> set[int]:
    """Indices of the points that no other point dominates.

    One point dominates another if it is at least as good on every axis and better on one. So equal points stand or fall
    together. A point with a NaN is on no frontier and dominates nothing; infinities are ordinary numbers.

    Args:
        larger_is_better: for each axis; without it smaller is better on all.
    """
    signs = [-1.0 if larger else 1.0 for larger in larger_is_better or []]
    costs = {
        i: tuple(sign * value for sign, value in zip(signs, point, strict=True)) if signs else tuple(point)
        for i, point in enumerate(points)
        if not any(math.isnan(value) for value in point)
    }
    frontier: set[int] = set()
    best: list[tuple[float, ...]] = []
    for i, cost in sorted(costs.items(), key=lambda item: item[1]):  # whoever dominates a point comes before it
        if not any(_dominates(other, cost) for other in best):
            frontier.add(i)
            best.append(cost)
    return frontier


def smaller_is_better(metric: str) -> bool:
    """The direction of a metric by its name: ``test/loss``, ``efficiency/state_bytes/1024`` and the like are costs."""
    room, *rest = metric.split("/")
    names = [part for part in rest if not part.isdecimal()] or [room]
    return _SMALLER.search(names[-1].split(",")[0]) is not None


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))
