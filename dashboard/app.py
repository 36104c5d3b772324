"""The script that Streamlit runs; it is no module of the package, hence the absolute imports."""

import streamlit as st
from hybridlab.dashboard import frontier_page, store  # pyright: ignore[reportMissingImports]

st.set_page_config(page_title="hybridlab", page_icon=":material/stacked_line_chart:", layout="wide")
frontier_page.show(store.list_sweeps, store.load_frame)
