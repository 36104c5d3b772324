"""What is seen: Streamlit pages over what platform/ has recorded. Nothing is handed on: `serve` runs as a program."""
