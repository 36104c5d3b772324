"""A model's layers as a strip of colours: one cell a sublayer, first to last, split where layers are parallel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ..architectures import InvalidInput, parse_pattern
from .labels import for_plotly, plural, shorten
from .palette import Mark, marks

CELL = 0.92
ROW = 0.74
ROW_PIXELS = 30
PATTERN = {"fgcolor": "rgba(255,255,255,0.75)", "size": 6}
HOVER = "<b>%{customdata[1]}</b><br>sublayer %{customdata[2]} of %{customdata[0]}<extra></extra>"


@dataclass(frozen=True)
class Cell:
    """One layer of one model: the ``branch``-th, from the top, of the ``branches`` parallel ones of a sublayer."""

    model: str
    kind: str
    sublayer: int
    branch: int
    branches: int
    text: str
    label: str


def cells(model: str, pattern: str) -> list[Cell]:
    """The layers that ``pattern`` writes, in order, unknown ones too. Raises InvalidInput where it is no pattern."""
    return [
        Cell(model, use.name, place, branch, len(sublayer.branches), str(use), use.label or "")
        for place, sublayer in enumerate(parse_pattern(pattern, check_names=False).sublayers)
        for branch, use in enumerate(sublayer.branches)
    ]


def readable(models: Sequence[tuple[str, str]]) -> tuple[list[list[Cell]], list[str]]:
    """The strips of (name, pattern) pairs, and the names of those whose pattern cannot be read."""
    strips, unreadable = [], []
    for name, pattern in models:
        try:
            strips.append(cells(name, pattern))
        except InvalidInput:
            unreadable.append(name)
    return strips, unreadable


def strips_figure(strips: Sequence[Sequence[Cell]]) -> go.Figure:
    """The strips below one another, the first on top; the legend names each kind and can hide it."""
    rows = [(row, cell) for row, strip in enumerate(strips) for cell in strip]
    kinds = marks(cell.kind for _, cell in rows)
    figure = go.Figure(
        [_kind_trace(kind, mark, [(row, c) for row, c in rows if c.kind == kind]) for kind, mark in kinds.items()]
    )
    figure.update_layout(
        height=110 + ROW_PIXELS * len(strips),
        barmode="overlay",
        margin={"l": 0, "r": 10, "t": 48, "b": 46},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(**_places(max((cell.sublayer + 1 for _, cell in rows), default=1)))
    figure.update_yaxes(**_names([strip[0].model for strip in strips]))
    return figure


def _places(longest: int) -> dict[str, Any]:
    """The axis along a strip: whole numbers from 1."""
    return {
        "title": {"text": "Sublayer, from input to output"},
        "range": [0.5, longest + 0.5],
        "tick0": 1,
        "dtick": max(1, round(longest / 24)),
        "showgrid": False,
        "zeroline": False,
    }


def _names(models: Sequence[str]) -> dict[str, Any]:
    """The axis down the strips, a name at each."""
    return {
        "tickvals": list(range(len(models))),
        "ticktext": [f"{for_plotly(shorten(model))}  " for model in models],
        "tickfont": {"size": 13},
        "range": [len(models) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    }


def _kind_trace(kind: str, mark: Mark, rows: list[tuple[int, Cell]]) -> go.Bar:
    """All cells of one kind, in every row."""
    heights = [ROW / cell.branches for _, cell in rows]
    tops = [row - ROW / 2 + cell.branch * height for (row, cell), height in zip(rows, heights, strict=True)]
    return go.Bar(
        name=for_plotly(kind),
        orientation="h",
        base=[cell.sublayer + 1 - CELL / 2 for _, cell in rows],
        x=[CELL] * len(rows),
        y=[top + height / 2 for top, height in zip(tops, heights, strict=True)],
        width=heights,
        text=[for_plotly(cell.label) for _, cell in rows],
        textposition="inside",
        insidetextanchor="middle",
        marker={"color": mark.colour, "line": {"width": 0}, "pattern": {**PATTERN, "shape": mark.hatch}},
        customdata=[[for_plotly(cell.model), for_plotly(cell.text), cell.sublayer + 1] for _, cell in rows],
        hovertemplate=HOVER,
        showlegend=True,
    )


def spoken(strips: Sequence[Sequence[Cell]]) -> str:
    """The strips in a sentence, for readers who hear the page."""
    kinds = sorted({cell.kind for strip in strips for cell in strip})
    return f"Layers of {plural(len(strips), 'model')}, made of {', '.join(kinds)}"
