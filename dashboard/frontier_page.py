"""The first page: one sweep's models, quality against efficiency, their layers, and every number behind them.

The store comes in as two functions, so that a test can hand in frames.
"""

from collections.abc import Callable

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ..architectures import InvalidInput
from . import sections
from .labels import EFFICIENCY_GROUPS, QUALITY_GROUPS, Group, as_code, option_label, order_axes, plural
from .selection import choose, choose_scale, choose_sweep, write_address
from .summary import Trial, View, exclusions, metric_columns, view

QUALITY_FIRST = ("test/bits_per_byte", "test/accuracy", "test/loss", "validation/loss")
EFFICIENCY_FIRST = ("efficiency/state_bytes/", "efficiency/decode_tokens_per_second/", "bill/", "parameters")

NO_SWEEP = (
    "No sweep is recorded yet. Run one first: `hybridlab sweep experiments/sweeps/quickstart.yaml`. The dashboard reads"
    " the store in the folder `runs`, or in `HYBRIDLAB_RUNS`, or at `MLFLOW_TRACKING_URI`, as set when it started."
)


def show(list_sweeps: Callable[[], list[str]], load_frame: Callable[[str], pd.DataFrame]) -> None:
    """The page over a store: ``list_sweeps()`` names its sweeps, ``load_frame(sweep)`` has one row per trial."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.header("Quality against efficiency", anchor=False)
        st.button("Reload", icon=":material/refresh:", help="Read the store again", on_click=st.cache_data.clear)
    try:
        sweeps = list_sweeps()
        if sweeps:
            _sweep_page(sweeps, load_frame)
        else:
            st.info(NO_SWEEP, icon=":material/inbox:")
    except InvalidInput as wrong:
        st.error(as_code(wrong), icon=":material/error:")


def _sweep_page(sweeps: list[str], load_frame: Callable[[str], pd.DataFrame]) -> None:
    """Choose a sweep and a task; messages where there is nothing to choose from."""
    columns = st.columns([1.7, 1.5, 3, 3.4, 1.2], vertical_alignment="bottom")
    sweep = choose_sweep(columns[0], sweeps, default=sweeps[0])
    if sweep is None:
        st.error(f"There is no sweep {as_code(st.query_params['sweep'])} in this store. Choose one above.")
        return
    frame = load_frame(sweep)
    if frame.empty:
        st.info(f"The sweep {as_code(sweep)} has no trial yet. Its trials appear here as they end.")
        return
    trials = frame.to_dict("records")
    names = sorted({str(trial["task"]) for trial in trials})
    task = choose(columns[1], "Task", "task", names, names[0])
    _task_page([trial for trial in trials if str(trial["task"]) == task], {"sweep": sweep, "task": task}, columns[2:])


def _task_page(trials: list[Trial], address: dict[str, str], columns: list[DeltaGenerator]) -> None:
    """Choose the axes, then draw; where no trial has a number, the trials and their reasons."""
    offered = metric_columns(trials)
    if offered:
        quality = _choose_axis(columns[0], "Quality", offered, QUALITY_GROUPS, QUALITY_FIRST)
        efficiency = _choose_axis(columns[1], "Efficiency", offered, EFFICIENCY_GROUPS, EFFICIENCY_FIRST)
        scales = columns[2].popover("Scales", icon=":material/tune:", width="stretch")
        address |= {"quality": quality, "efficiency": efficiency}
        address |= {f"{axis}_scale": choose_scale(scales, axis) for axis in ("quality", "efficiency")}
        _draw(view(trials, quality, efficiency), address)
    else:
        st.warning(
            f"None of the {plural(len(trials), 'trial')} of this task ended with a number: nothing can be drawn."
        )
        sections.excluded_table(exclusions(trials, []), address)
    write_address(address)


def _choose_axis(
    where: DeltaGenerator, label: str, offered: list[str], groups: tuple[Group, ...], first: tuple[str, ...]
) -> str:
    """One axis among the metric columns that hold numbers."""
    columns = order_axes(offered, groups)
    return choose(where, label, label.lower(), columns, prefer(columns, first), option_label)


def prefer(columns: list[str], wanted: tuple[str, ...]) -> str:
    """The first of ``wanted`` that is a column; one that ends in a slash stands for the last column below it, which of
    several lengths is the longest."""
    found = (c for name in wanted for c in reversed(columns) if c == name or (name[-1] == "/" and c.startswith(name)))
    return next(found, columns[0])


def _draw(shown: View, address: dict[str, str]) -> None:
    """Chart, layers and tables for chosen axes."""
    if shown.models:
        sections.chart(shown, address)
        if len(shown.models) == 1:
            st.info("One model alone is its own frontier: a comparison needs two.")
        sections.layer_strips(shown, address)
    else:
        st.warning("No trial has a value on both of these axes. Choose another pair.")
    sections.number_tables(shown, address)
