"""The store as the pages read it: read only, and cached for some seconds, so that a click does not read it again."""

import pandas as pd
import streamlit as st

from ..platform import records

SECONDS = 15


@st.cache_data(ttl=SECONDS, show_spinner=False)
def list_sweeps() -> list[str]:
    """The names of the recorded sweeps."""
    return records.list_sweeps()


@st.cache_data(ttl=SECONDS, show_spinner="Reading the trials …")
def load_frame(sweep: str) -> pd.DataFrame:
    """One row per trial of a sweep."""
    return records.load_frame(sweep)
