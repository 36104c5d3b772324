"""The page's tables as frames, and as files to take away: pure, nothing here draws."""

import re
from collections.abc import Sequence

import pandas as pd

from .summary import IDENTITY, SIZES, Trial, View, number


def model_table(view: View) -> pd.DataFrame:
    """One row per model in the view's order; metric columns are called `<column> mean`, `… min` and `… max`."""
    rows = []
    for model in view.models:
        row: dict[str, object] = {"frontier": model.frontier, "name": model.name, "pattern": model.pattern}
        for axis, spread in ((view.quality, model.quality), (view.efficiency, model.efficiency)):
            row |= {f"{axis.column} mean": spread.mean}
            row |= {f"{axis.column} min": spread.least, f"{axis.column} max": spread.greatest}
        row |= {"parameters": model.parameters, "active_parameters": model.active_parameters}
        rows.append(row | {"seeds": model.seeds, "trials": model.trials, "shown": model.shown})
    return pd.DataFrame(rows)


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial with all that is recorded: identity first, then the metrics that any of them has."""
    rows = sorted(trials, key=lambda trial: (str(trial["name"]), number(trial, "seed") or 0))
    told = [column for column in rows[0] if any(not pd.isna(row[column]) for row in rows)]
    lead = [column for column in (*IDENTITY, "axes", "selected", *SIZES) if column in told]
    return pd.DataFrame(rows, columns=[*lead, *(column for column in told if column not in lead)])


def as_csv(table: pd.DataFrame) -> bytes:
    """Comma-separated values with a header, UTF-8, numbers in full precision."""
    return table.to_csv(index=False).encode()


def as_json(table: pd.DataFrame) -> bytes:
    """A list of objects, UTF-8; what is no number is null."""
    return (table.to_json(orient="records", double_precision=15, force_ascii=False, indent=2) or "[]").encode()


def file_name(*parts: str, ending: str) -> str:
    """A file's name from words that a store holds: letters, digits, dots and dashes only, never a path."""
    words = [re.sub(r"[^\w.-]+", "-", part).strip("-.") for part in parts]
    return "_".join(word[:60] for word in words if word) + f".{ending}"
