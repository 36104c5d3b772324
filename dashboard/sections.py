"""The parts of the frontier page below its choices: the chart, the layers, the tables of a `View`."""

import pandas as pd
import streamlit as st

from . import frontier_chart, layers, readings, tables
from .labels import as_code, describe, plural
from .summary import Trial, View, count_line

Address = dict[str, str]


def chart(view: View, address: Address) -> None:
    """The frontier and what it leaves out."""
    figure = frontier_chart.frontier_figure(view, address["quality_scale"], address["efficiency_scale"])
    st.plotly_chart(figure, key="frontier", alt=readings.spoken(view), config=_picture(address, "frontier"))
    st.caption(count_line(view))


def layer_strips(view: View, address: Address) -> None:
    """Every model's strip of colours, in the order of the table."""
    strips, unreadable = layers.readable([(model.name, model.pattern) for model in view.models])
    st.subheader("Layers", anchor=False)
    if strips:
        figure = layers.strips_figure(strips)
        st.plotly_chart(figure, key="layers", alt=layers.spoken(strips), config=_picture(address, "layers"))
    for name in unreadable:
        st.caption(f"{as_code(name)} is not drawn: its pattern cannot be read.")


def number_tables(view: View, address: Address) -> None:
    """Models, trials and what is excluded, each sortable and to take away."""
    models, trials, excluded = st.tabs(["Models", "Trials", f"Excluded ({len(view.excluded)})"])
    with models:
        st.caption("Mean, least and greatest over the trials of a model. Open marks in the chart: a trial is missing.")
        table(tables.model_table(view), address, "models")
    with trials:
        table(tables.trial_table(view.trials), address, "trials")
    with excluded:
        excluded_table(view.excluded, address)


def excluded_table(excluded: list[Trial], address: Address) -> None:
    """The trials that no chart shows, each with its reason."""
    if excluded:
        table(pd.DataFrame(excluded), address, "excluded")
    else:
        st.caption("Every trial of this task is shown.")


def table(rows: pd.DataFrame, address: Address, kind: str) -> None:
    """A sortable table with its two downloads."""
    st.dataframe(
        rows,
        hide_index=True,
        key=f"table_{kind}",
        column_config={column: _column(column) for column in rows},
        alt=f"Table of {plural(len(rows), 'row')}: {kind}",
    )
    with st.container(horizontal=True):
        for ending, mime, write in (("csv", "text/csv", tables.as_csv), ("json", "application/json", tables.as_json)):
            st.download_button(
                f"Download {kind} as {ending.upper()}",
                write(rows),
                tables.file_name(address["sweep"], address["task"], kind, ending=ending),
                mime,
                key=f"{kind}_{ending}",
                on_click="ignore",
                icon=":material/download:",
            )


def _column(column: str):
    """How a table heads and writes one column: titles for metrics, short numbers, sorting by the full value."""
    plain = {"frontier": st.column_config.CheckboxColumn("Frontier", width="small")}
    if "/" not in column and not column.startswith(("parameters", "active_parameters")):
        return plain.get(column, column.capitalize())
    name, _, part = column.partition(" ")
    axis = describe(name)
    title = f"{axis.title}{f', {part}' if part in ('min', 'max') else ''}{f' ({axis.unit})' if axis.unit else ''}"
    return st.column_config.NumberColumn(title, format="localized" if axis.log else "%.4g")


def _picture(address: Address, kind: str) -> dict:
    """Plotly's own buttons: a picture of the chart as SVG, under a name that tells what it shows."""
    name = tables.file_name(address["sweep"], address["task"], kind, ending="svg").removesuffix(".svg")
    return {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "filename": name}}
