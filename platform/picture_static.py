"""Panels as SVG, PNG or PDF, with Matplotlib: text stays text, and the same records give the same bytes."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .atomic import replacing
from .frontier import smaller_is_better
from .picture import ACCENT, DIM, Panel, axis_title
from .placement import GAP, SIDES, place_names

SIZE = (5.0, 4.2)
"""Inches of one panel."""
PIXEL = 0.72
"""Points of one pixel at Matplotlib's 100 dots per inch."""


def write_static(panels: list[Panel], path: Path, title: str) -> None:
    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hybridlab", "font.size": 9}):
        figure = Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
        figure.suptitle(_plain(title))
        drawn = list(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True))
        for axes, panel in drawn:
            _draw(axes, panel)
        figure.draw_without_rendering()  # only now is it known where the points lie
        for axes, panel in drawn:
            _name(axes, panel)
        with replacing(path) as temporary:
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
            figure.savefig(temporary, format=kind, dpi=150, metadata=dates[kind])


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(_plain(panel.title))
    axes.set_xlabel(_plain(axis_title(panel.x)))
    axes.set_ylabel(_plain(axis_title(panel.y)))
    axes.grid(alpha=0.25)
    axes.margins(0.12)
    if panel.log_x:
        axes.set_xscale("log")
    x, y = [x for x, _ in panel.staircase], [y for _, y in panel.staircase]
    axes.step(x, y, where="post" if smaller_is_better(panel.x) else "pre", color=ACCENT, alpha=0.5)
    for mark in panel.marks:
        colour = ACCENT if mark.on_frontier else DIM
        axes.errorbar(
            mark.x.mean,
            mark.y.mean,
            xerr=[[mark.x.mean - mark.x.least], [mark.x.greatest - mark.x.mean]],
            yerr=[[mark.y.mean - mark.y.least], [mark.y.greatest - mark.y.mean]],
            fmt="o",
            color=colour,
            markersize=7 if mark.on_frontier else 5,
            linewidth=1,
        )


def _name(axes: Axes, panel: Panel) -> None:
    """Write every model's name where it covers least."""
    points = [tuple(axes.transData.transform((mark.x.mean, mark.y.mean))) for mark in panel.marks]
    names = [mark.title for mark in panel.marks]
    for mark, side in zip(panel.marks, place_names(points, names, [True] * len(names), []), strict=True):
        right, up = SIDES[side or "top center"]
        axes.annotate(
            _plain(mark.title),
            (mark.x.mean, mark.y.mean),
            xytext=(right * GAP * PIXEL, up * GAP * PIXEL),
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[right],
            va={-1: "top", 0: "center", 1: "bottom"}[up],
            color=ACCENT if mark.on_frontier else DIM,
        )


def _plain(text: str) -> str:
    """Dollar signs would begin Matplotlib's mathematics."""
    return text.replace("$", r"\$")
