"""One mark for each kind of layer, a colour and perhaps a hatching: the same everywhere, apart under colour blindness.

The ten plain colours were searched so that every two differ (by 14 or more in CIELAB) as seen with normal, protan,
deutan and tritan vision (Machado, Oliveira and Fernandes 2009). MLPs are greys: mixes differ in their mixers. Kinds
beyond the ten have a relative's colour under a hatching.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple


class Mark(NamedTuple):
    """How a kind of layer is filled; ``hatch`` is a Plotly pattern shape, empty for a plain colour."""

    colour: str
    hatch: str = ""


PLAIN = {
    "attn": "#D9600A",
    "swa": "#F9CB3C",
    "mamba": "#2B5FD9",
    "mamba2": "#7DBDFA",
    "linear": "#17C98B",
    "gla": "#3F591C",
    "retnet": "#9C2F6B",
    "rwkv6": "#4B1F7F",
    "mlp": "#D6DADF",
    "moe": "#868E99",
}

MARKS = {name: Mark(colour) for name, colour in PLAIN.items()} | {
    "rwkv7": Mark(PLAIN["rwkv6"], "/"),
    "deltanet": Mark(PLAIN["linear"], "/"),
    "gated_deltanet": Mark(PLAIN["linear"], "x"),
    "kda": Mark(PLAIN["linear"], "."),
    "s4": Mark(PLAIN["mamba"], "/"),
    "s4d": Mark(PLAIN["mamba"], "x"),
    "h3": Mark(PLAIN["mamba2"], "/"),
    "hyena": Mark(PLAIN["retnet"], "/"),
    "conv": Mark(PLAIN["retnet"], "x"),
    "rglru": Mark(PLAIN["gla"], "/"),
}

FREE = [
    mark
    for hatch in ("-", "|", "\\", "+")
    for colour in PLAIN.values()
    if (mark := Mark(colour, hatch)) not in MARKS.values()
]


def marks(kinds: Iterable[str]) -> dict[str, Mark]:
    """A mark for each kind, all different, in the order of MARKS and then of names.

    A kind without a mark of its own gets a free one by its name, so that it has the same one on every page.
    """
    order = list(MARKS)
    chosen: dict[str, Mark] = {}
    for kind in sorted(set(kinds), key=lambda kind: (order.index(kind) if kind in MARKS else len(order), kind)):
        start = zlib.crc32(kind.encode())
        rest = (FREE[(start + step) % len(FREE)] for step in range(len(FREE)))
        free = (mark for mark in rest if mark not in chosen.values())
        chosen[kind] = MARKS[kind] if kind in MARKS else next(free, FREE[start % len(FREE)])
    return chosen
