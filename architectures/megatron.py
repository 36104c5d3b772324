"""Megatron-LM's hybrid layer strings (``M-M-M--M-M*-``), one letter a sublayer.

Source: NVIDIA/Megatron-LM, ``megatron/core/models/hybrid/hybrid_layer_allocation.py``. What is read:

* a text is taken for Megatron's if it has one of the symbols below and no lower-case letter, parenthesis or brace
  (the names of our own language are lower case, so no text is both);
* ``|`` marks a pipeline stage, which says nothing about the model, and is skipped;
* ``/`` begins the multi-token-prediction layers, ``[M*]`` is a group with one residual connection, and ``C D H W``
  are attention variants of DeepSeek models: none of them has a counterpart here, so they are refused.
"""

from typing import TYPE_CHECKING

from .errors import InvalidInput

if TYPE_CHECKING:
    from .pattern import Pattern

SYMBOLS = {"M": "mamba2", "*": "attn", "-": "mlp", "E": "moe", "G": "gated_deltanet", "+": "mla"}
"""Megatron's symbol for each of our layer names."""

REFUSED = {
    "/": "multi-token-prediction layers (after '/') have no counterpart here; give the main pattern only",
    "[": "layer groups in brackets have no counterpart here",
    "]": "layer groups in brackets have no counterpart here",
    "C": "compressed sparse attention has no counterpart here",
    "D": "DeepSeek sparse attention has no counterpart here",
    "H": "heavily compressed attention has no counterpart here",
    "W": "Megatron's window attention has no counterpart here; write swa in the pattern language",
}


def is_megatron(text: str) -> bool:
    """Whether ``text`` is one of Megatron's strings rather than of the pattern language (see the module's rule)."""
    foreign = any(c.islower() or c in "(){}@" for c in text)
    return not foreign and any(c in SYMBOLS or c in REFUSED for c in text)


def read_megatron(text: str) -> list[tuple[int, str]]:
    """The layers of a Megatron string as (column, our layer name), columns from 1; InvalidInput at a bad symbol."""
    layers = []
    for column, symbol in enumerate(text, start=1):
        if symbol in SYMBOLS:
            layers.append((column, SYMBOLS[symbol]))
        elif symbol != "|" and not symbol.isspace():
            why = REFUSED.get(symbol, f"{symbol!r} is not one of Megatron's symbols {' '.join(SYMBOLS)} |")
            raise InvalidInput(f"pattern {text!r}: column {column}: {why}")
    if not layers:
        raise InvalidInput(f"pattern {text!r}: no layer in it")
    return layers


def to_megatron(pattern: "Pattern") -> str:
    """``pattern`` in Megatron's symbols; InvalidInput names the first sublayer that they cannot express.

    Options, labels and parallel branches have no place in the string: Megatron takes a layer's sizes from its flags.
    """
    symbol_of = {name: symbol for symbol, name in SYMBOLS.items()}
    symbols = []
    for index, sublayer in enumerate(pattern.sublayers):
        symbol = symbol_of.get(str(sublayer))
        if symbol is None:
            known = ", ".join(symbol_of)
            raise InvalidInput(f"sublayer {index} ({sublayer}) has no symbol in Megatron's strings, only plain {known}")
        symbols.append(symbol)
    return "".join(symbols)


def pattern_from_ratios(layers: int, attention_ratio: float = 0.0, mlp_ratio: float = 0.0) -> str:
    """The string Megatron allocates for ratios of *all* layers: the generator of Waleffe et al., arXiv:2406.07887.

    Attention cuts the stack into sections of equal length, beginning and ending with Mamba-2; then the MLPs take the
    places of Mamba-2 layers at an even rate, as late as that rate allows. ``(56, .08, .5)`` is the published 8B model.
    """
    if layers < 1:
        raise InvalidInput(f"layers={layers}: a pattern has 1 layer or more")
    for name, ratio in (("attention_ratio", attention_ratio), ("mlp_ratio", mlp_ratio)):
        if not 0 <= ratio <= 1:
            raise InvalidInput(f"{name}={ratio}: a ratio lies between 0 and 1")
    attention, mlps = round(layers * attention_ratio), round(layers * mlp_ratio)
    if attention + mlps > layers:
        raise InvalidInput(f"attention_ratio={attention_ratio} and mlp_ratio={mlp_ratio}: together at most 1")
    symbols = ["M"] * layers
    _spend(symbols, "*", (layers - attention) / (attention + 1))
    if mlps:
        _spend(symbols, "-", (layers - attention - mlps) / mlps)
    return "".join(symbols)


def _spend(symbols: list[str], symbol: str, gap: float) -> None:
    """Replace, in place, the ``M`` that follows every ``gap`` others by ``symbol``, carrying the rounding along."""
    left = gap
    for i, old in enumerate(symbols):
        if old != "M":
            continue
        if left < 0.5:
            symbols[i] = symbol
            left += gap
        else:
            left -= 1
