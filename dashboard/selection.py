"""What the reader has chosen lives whole in the page's address: a link shows the same page when defaults have changed.

Streamlit's own binding of widgets to the address is not used: it leaves out defaults, which here depend on the store,
and writes labels instead of column names.
"""

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from .labels import as_code

SCALES = ("auto", "linear", "log")


def resolve(asked: str | None, options: Sequence[str], default: str) -> tuple[str, bool]:
    """The option that a link's ``asked`` selects, and whether it asked for one that is not there."""
    if asked is not None and asked in options:
        return asked, False
    return default, asked is not None


def choose(
    where: DeltaGenerator,
    label: str,
    key: str,
    options: Sequence[str],
    default: str,
    show: Callable[[str], str] = str,
) -> str:
    """A select box for the address's parameter ``key``; says so where the address names nothing that exists."""
    value, missing = resolve(st.query_params.get(key), options, default)
    st.session_state[key] = value
    if missing:
        st.warning(f"{label} {as_code(st.query_params[key])} is not recorded here: {as_code(show(value))} is shown.")
    return where.selectbox(label, options, key=key, format_func=show, on_change=_remember, args=(key,))


def choose_sweep(where: DeltaGenerator, sweeps: Sequence[str], default: str) -> str | None:
    """The sweep of the address; None, with nothing chosen, where the address names one that does not exist."""
    if st.query_params.get("sweep", default) in sweeps:
        return choose(where, "Sweep", "sweep", sweeps, default)
    st.session_state["sweep"] = None
    return where.selectbox("Sweep", sweeps, index=None, key="sweep", on_change=_remember, args=("sweep",))


def choose_scale(where: DeltaGenerator, axis: str) -> str:
    """auto, linear or log for one axis."""
    key = f"{axis}_scale"
    st.session_state[key] = resolve(st.query_params.get(key), SCALES, "auto")[0]
    label = f"{axis.capitalize()} axis"
    return where.segmented_control(label, SCALES, key=key, on_change=_remember, args=(key,)) or "auto"


def write_address(selection: dict[str, str]) -> None:
    """Put the whole selection into the page's address, if it is not there already."""
    if st.query_params.to_dict() != selection:
        st.query_params.from_dict(selection)


def _remember(key: str) -> None:
    """A widget was changed: the address follows, and the next run reads it from there."""
    value = st.session_state[key]
    if value is not None:
        st.query_params[key] = value
