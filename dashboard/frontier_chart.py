"""Quality against efficiency as a Plotly figure: the frontier as a staircase, what it dominates dimmed."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from ..platform.placement import Point, place_names
from .labels import Axis, axis_title, for_plotly, shorten
from .readings import HOVER, hover
from .summary import Model, Spread, View

ACCENT = "#D81B60"
DIM = "#868E99"
WIDTH, HEIGHT = 1040, 400
"""The plotting area in pixels on a page of 1280; the width is a guess that only the placing of names relies on."""


def is_log(axis: Axis, spreads: Iterable[Spread], scale: str) -> bool:
    """Whether an axis is logarithmic: as ``scale`` (auto, linear, log) says, never where a value is not positive."""
    return all(spread.least > 0 for spread in spreads) and (scale == "log" or (scale == "auto" and axis.log))


def frontier_figure(view: View, quality_scale: str = "auto", efficiency_scale: str = "auto") -> go.Figure:
    """The chart of a view's models."""
    x_log = is_log(view.efficiency, (model.efficiency for model in view.models), efficiency_scale)
    y_log = is_log(view.quality, (model.quality for model in view.models), quality_scale)
    sides = _sides(view, x_log, y_log)
    figure = go.Figure([_points(view, sides, best=False), _staircase(view), _points(view, sides, best=True)])
    figure.update_layout(
        height=HEIGHT + 120,
        margin={"l": 0, "r": 10, "t": 40, "b": 0},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "traceorder": "reversed"},
        hoverlabel={"align": "left"},
        hovermode="closest",
    )
    figure.update_traces(selector={"hovertemplate": HOVER}, mode="markers+text", cliponaxis=False)
    figure.update_xaxes(**_axis(view.efficiency, [model.efficiency for model in view.models], x_log))
    figure.update_yaxes(**_axis(view.quality, [model.quality for model in view.models], y_log))
    return figure


def _sides(view: View, x_log: bool, y_log: bool) -> list[str | None]:
    """On which side of its mark each model's name stands."""
    x = _pixels([model.efficiency.mean for model in view.models], x_log, WIDTH)
    y = _pixels([model.quality.mean for model in view.models], y_log, HEIGHT)
    points = list(zip(x, y, strict=True))
    best = sorted(point for point, model in zip(points, view.models, strict=True) if model.frontier)
    lines = [line for start, end in pairwise(best) for line in _step(start, end, view.efficiency.smaller_is_better)]
    return place_names(points, [shorten(m.name) for m in view.models], [m.frontier for m in view.models], lines)


def _step(start: Point, end: Point, level_first: bool) -> list[tuple[Point, Point]]:
    """The two lines of one step of the staircase."""
    corner = (end[0], start[1]) if level_first else (start[0], end[1])
    return [(start, corner), (corner, end)]


def _pixels(values: list[float], log: bool, length: float) -> list[float]:
    """Roughly where values lie along an axis of ``length`` pixels."""
    at = [math.log10(value) if log else value for value in values]
    low, span = min(at), (max(at) - min(at)) or 1.0
    return [(value - low) / span * length for value in at]


def _points(view: View, sides: list[str | None], *, best: bool) -> go.Scatter:
    """The marks of one class of models, with their names; the seeds' range is a cross."""
    chosen = [(model, side) for model, side in zip(view.models, sides, strict=True) if model.frontier == best]
    models = [model for model, _ in chosen]
    name, colour, size = ("On the frontier", ACCENT, 13) if best else ("Dominated", DIM, 9)
    return go.Scatter(
        name=name,
        x=[model.efficiency.mean for model in models],
        y=[model.quality.mean for model in models],
        text=[for_plotly(shorten(model.name)) if side else "" for model, side in chosen],
        textposition=[side or "top center" for _, side in chosen],
        textfont={"size": 13} if best else {"size": 12, "color": DIM},
        opacity=1.0 if best else 0.8,
        marker=_mark(models, size, colour),
        error_x=_range([model.efficiency for model in models], colour),
        error_y=_range([model.quality for model in models], colour),
        customdata=[hover(model, view) for model in models],
        hovertemplate=HOVER,
    )


def _mark(models: list[Model], size: int, colour: str) -> dict[str, Any]:
    """Discs; rings for models that stand on fewer trials than were run."""
    shapes = ["circle" if model.shown == model.trials else "circle-open" for model in models]
    return {"size": size, "color": colour, "symbol": shapes, "line": {"width": 2, "color": colour}}


def _staircase(view: View) -> go.Scatter:
    """The border of what is attained: along it, the best quality of any model that is at least so efficient."""
    best = sorted((model.efficiency.mean, model.quality.mean) for model in view.models if model.frontier)
    return go.Scatter(
        name="Frontier",
        x=[x for x, _ in best],
        y=[y for _, y in best],
        mode="lines",
        line={"color": ACCENT, "width": 2, "shape": "hv" if view.efficiency.smaller_is_better else "vh"},
        opacity=0.65,
        hoverinfo="skip",
        showlegend=len(best) > 1,
    )


def _range(spreads: list[Spread], colour: str) -> dict[str, Any]:
    """Error bars from the least to the greatest seed."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [spread.greatest - spread.mean for spread in spreads],
        "arrayminus": [spread.mean - spread.least for spread in spreads],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _axis(axis: Axis, spreads: list[Spread], log: bool) -> dict[str, Any]:
    """Title, type and ticks of one axis; the range is left to Plotly."""
    return {
        "title": {"text": for_plotly(axis_title(axis, log))},
        "type": "log" if log else "linear",
        "dtick": _log_ticks(spreads) if log else None,
        "tickformat": "~s" if axis.log else None,
        "showgrid": True,
        "zeroline": False,
        "automargin": True,
    }


def _log_ticks(spreads: list[Spread]) -> int | str | None:
    """Plotly's code for ticks at powers of ten, or at 1, 2 and 5 times them: left alone, it writes them too close."""
    decades = math.log10(max(spread.greatest for spread in spreads) / min(spread.least for spread in spreads))
    return 1 if decades > 4 else "D2" if decades > 1.3 else None
