"""What a metric column means: its title, its unit, which direction is better, and how its numbers are written.

Titles, like every name in a store, are data: `as_code` and `for_plotly` hand them to Markdown and to Plotly so that
they are shown letter by letter and never interpreted.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from ..platform.frontier import smaller_is_better

Group = Literal["Test", "Validation", "lm-eval", "Efficiency", "Size", "Training", "Other"]


@dataclass(frozen=True)
class Measure:
    """A kind of number, whatever it was measured on."""

    title: str
    unit: str = ""
    log: bool = False
    """Drawn on a logarithmic axis unless the reader says otherwise: it spans orders of magnitude."""


@dataclass(frozen=True)
class Axis:
    """One metric column of a sweep's frame, described."""

    column: str
    title: str
    unit: str
    smaller_is_better: bool
    log: bool
    group: Group


MEASURES = {
    "parameters": Measure("Parameters", log=True),
    "active_parameters": Measure("Active parameters", log=True),
    "loss": Measure("loss", "nats per target"),
    "perplexity": Measure("perplexity", log=True),
    "bits_per_byte": Measure("bits per byte", "bits"),
    "accuracy": Measure("accuracy"),
    "train_tokens_per_second": Measure("Training speed", "tokens/s", log=True),
    "prefill_tokens_per_second": Measure("Prefill speed", "tokens/s", log=True),
    "decode_tokens_per_second": Measure("Decoding speed", "tokens/s", log=True),
    "state_bytes": Measure("Decoding state", "bytes", log=True),
    "peak_memory_bytes": Measure("Peak memory", "bytes", log=True),
    "flops_per_token": Measure("FLOPs per token", "FLOPs", log=True),
    "training_flops_per_token": Measure("Training FLOPs per token", "FLOPs", log=True),
}

GROUPS: dict[str, Group] = {
    "test": "Test",
    "validation": "Validation",
    "lm_eval": "lm-eval",
    "efficiency": "Efficiency",
    "bill": "Size",
    "parameters": "Size",
    "active_parameters": "Size",
    "train": "Training",
}

QUALITY_GROUPS: tuple[Group, ...] = ("Test", "Validation", "lm-eval", "Training", "Other", "Efficiency", "Size")
EFFICIENCY_GROUPS: tuple[Group, ...] = ("Efficiency", "Size", "Training", "Other", "Test", "Validation", "lm-eval")


def measure(name: str) -> Measure:
    """The known measure called ``name``, or one that is called as it is written."""
    return MEASURES.get(name, Measure(name.replace("_", " ")))


def describe(column: str) -> Axis:
    """The axis that a metric column such as ``efficiency/state_bytes/1024`` or ``lm_eval/<task>/<metric>`` draws."""
    room, *rest = column.split("/")
    group = GROUPS.get(room, "Other")
    if group == "lm-eval" and len(rest) >= 2:
        metric = "/".join(rest[1:]).removesuffix(",none")
        known = measure(metric)
        title = f"{rest[0]} {metric.replace('_', ' ')}"
    else:
        known = measure(rest[0] if rest else room)
        title = _title(room, rest, known)
    return Axis(column, title, known.unit, smaller_is_better(column), known.log, group)


def _title(room: str, rest: list[str], known: Measure) -> str:
    """`Test accuracy`, `Decoding state at 1,024 tokens (computed)`; parts that are not understood stay as written."""
    lead = f"{room.capitalize()} " if room in ("test", "validation", "train") else ""
    tail = "".join(f" at {int(part):,} tokens" if part.isdecimal() else f" {part}" for part in rest[1:])
    return f"{lead}{known.title}{tail}{' (computed)' if room == 'bill' else ''}"


def option_label(column: str) -> str:
    """How a column is called in a list to choose from."""
    axis = describe(column)
    return f"{'lm-eval: ' if axis.group == 'lm-eval' else ''}{axis.title}{f' ({axis.unit})' if axis.unit else ''}"


def axis_title(axis: Axis, log: bool) -> str:
    """The title under a chart's axis: what it is, its unit, its scale and which way is better."""
    notes = [axis.unit, "log scale" if log else "", f"{'smaller' if axis.smaller_is_better else 'larger'} is better"]
    return f"{axis.title} ({', '.join(note for note in notes if note)})"


def order_axes(columns: list[str], groups: tuple[Group, ...]) -> list[str]:
    """The columns with those of the first group first; in a group, as `1024` before `16384`."""
    return sorted(columns, key=lambda column: (groups.index(describe(column).group), _natural(column)))


def _natural(column: str) -> list[tuple[int, int, str]]:
    """A sort key in which digits count as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", column) if part]


def quantity(value: float, unit: str = "") -> str:
    """A number as a person reads it: 0.9134, 12.4k tokens/s, 1.31 MB."""
    if not math.isfinite(value):
        return "none"
    step = min(4, int(math.log10(abs(value)) // 3)) if abs(value) >= 1000 else 0
    short, prefix = f"{value / 1000**step:.{3 if step else 4}g}", ("", "k", "M", "G", "T")[step]
    if unit == "bytes":
        return f"{short} {prefix}B"
    return f"{short}{prefix}{f' {unit}' if unit else ''}"


def as_code(text: object) -> str:
    """``text`` as a Markdown code span, in which Markdown, HTML, LaTeX and Streamlit's directives are only letters."""
    line = " ".join(str(text).split()) or "(empty)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}"


def for_plotly(text: object) -> str:
    """``text`` for a Plotly label, where tags would be formatting and dollar signs LaTeX."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;", "{": "&#123;"}
    return "".join(entities.get(letter, letter) for letter in str(text))


def shorten(text: str, length: int = 34) -> str:
    """``text`` with its middle left out where it is longer than ``length``: patterns differ at both ends."""
    keep = (length - 1) // 2
    return text if len(text) <= length else f"{text[:keep]}…{text[-keep:]}"


def plural(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
