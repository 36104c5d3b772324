"""The chart in words: what a mark says when it is pointed at, and what the chart says to readers who hear the page."""

import textwrap

from .labels import Axis, for_plotly, plural, quantity
from .summary import Model, Spread, View

HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}<br><br>%{customdata[2]}<br>%{customdata[3]}<br>%{customdata[4]}"
    "<extra></extra>"
)


def hover(model: Model, view: View) -> list[str]:
    """Name, pattern, both values with their range, and the seeds behind them, escaped for Plotly."""
    return [
        for_plotly(model.name),
        "<br>".join(for_plotly(line) for line in textwrap.wrap(model.pattern, 64)),
        for_plotly(_reading(view.quality, model.quality)),
        for_plotly(_reading(view.efficiency, model.efficiency)),
        behind(model),
    ]


def _reading(axis: Axis, spread: Spread) -> str:
    """`Test accuracy: 0.9134 (0.89 to 0.93)`; the range only where there is one."""
    value = f"{axis.title}: {quantity(spread.mean, axis.unit)}"
    if spread.least == spread.greatest:
        return value
    return f"{value} ({quantity(spread.least)} to {quantity(spread.greatest)})"


def behind(model: Model) -> str:
    """A mark's size and what it averages: `1.05M parameters · 2 seeds, 1 of 3 trials excluded`."""
    lost = model.trials - model.shown
    parts = [
        "" if model.parameters is None else f"{quantity(model.parameters)} parameters · ",
        plural(model.seeds, "seed"),
        f" in {plural(model.shown, 'trial')}" if model.shown > model.seeds else "",
        f", {lost} of {plural(model.trials, 'trial')} excluded" if lost else "",
    ]
    return "".join(parts)


def spoken(view: View) -> str:
    """The chart's finding in a sentence, for readers who hear the page."""
    best = ", ".join(model.name for model in view.models if model.frontier)
    titles = f"{view.quality.title} against {view.efficiency.title}"
    return f"{titles} of {plural(len(view.models), 'model')}; on the frontier: {best}"
