"""Panels as one self-contained page, with Plotly."""

import html
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .frontier import smaller_is_better
from .picture import ACCENT, DIM, Mark, Panel, axis_title


def write_html(panels: list[Panel], path: Path, title: str) -> None:
    titles = [html.escape(panel.title) for panel in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.08)
    for column, panel in enumerate(panels, start=1):
        figure.add_traces([_points(panel, False), _staircase(panel), _points(panel, True)], rows=1, cols=column)
        figure.update_xaxes(title=axis_title(panel.x), type="log" if panel.log_x else "linear", col=column)
        figure.update_yaxes(title=axis_title(panel.y), col=column)
    figure.update_layout(title=html.escape(title), template="plotly_white", showlegend=False)
    figure.write_html(path, include_plotlyjs=True, full_html=True)


def _points(panel: Panel, on_frontier: bool) -> go.Scatter:
    marks = [mark for mark in panel.marks if mark.on_frontier == on_frontier]
    colour = ACCENT if on_frontier else DIM
    return go.Scatter(
        x=[mark.x.mean for mark in marks],
        y=[mark.y.mean for mark in marks],
        mode="markers+text",
        text=[html.escape(mark.title) for mark in marks],
        textposition="top center",
        textfont={"color": colour, "size": 12 if on_frontier else 10},
        marker={"color": colour, "size": 11 if on_frontier else 8},
        error_x=_range(marks, "x", colour),
        error_y=_range(marks, "y", colour),
        customdata=[html.escape(mark.pattern) for mark in marks],
        hovertemplate="%{text}<br>%{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    )


def _staircase(panel: Panel) -> go.Scatter:
    """The border of what is attained."""
    shape = "hv" if smaller_is_better(panel.x) else "vh"
    x, y = [x for x, _ in panel.staircase], [y for _, y in panel.staircase]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": ACCENT, "shape": shape}, opacity=0.5, hoverinfo="skip")


def _range(marks: list[Mark], axis: str, colour: str) -> dict:
    spreads = [getattr(mark, axis) for mark in marks]
    return {
        "type": "data",
        "symmetric": False,
        "array": [spread.greatest - spread.mean for spread in spreads],
        "arrayminus": [spread.mean - spread.least for spread in spreads],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }
