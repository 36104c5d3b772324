"""Rules that many families have in common: what stands around the layers, attention, MLPs and experts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InvalidInput
from ..mixers.attn import AttentionConfig
from ..pattern import parse_pattern
from .config import TheirConfig
from .rules import CONVOLUTION, SAME, Form, Rule, Via, experts, same, stacked

NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
"""What we know of them; a family's defaults may lie beyond the vocabulary, which their embeddings refuse."""


def pattern(sublayers: Iterable[str]) -> str:
    """The pattern of these texts of sublayers, repetitions factored."""
    return str(parse_pattern(" ".join(sublayers)))


def named(theirs: TheirConfig, name: str, other: str) -> Any:
    """The value of ``name``, which their class knows by an ``other`` name too."""
    return theirs.given[other] if name not in theirs.given and other in theirs.given else theirs[name]


def around(
    theirs: TheirConfig, final_norm: str = "model.norm", via: Via = SAME, *, tied: bool | None = None
) -> Iterator[Rule]:
    """Embedding, final norm and an untied head, as most families name them; ``via`` is for norms. ``tied``: whether
    the head is the embedding, where ``tie_word_embeddings`` does not say it."""
    yield same("embedding.weight", "model.embed_tokens.weight")
    yield same("final_norm.weight", f"{final_norm}.weight", via)
    if not (theirs["tie_word_embeddings"] if tied is None else tied):
        yield same("head.weight", "lm_head.weight")


def also(rule: Rule, *names: tuple[str, str]) -> Rule:
    """The rule, reading as well what has other names: every first text of a pair replaced by the second.

    Checkpoints and models in memory differ so where transformers renames while it loads.
    """
    renamed = tuple(Form(tuple(_replaced(n, names) for n in f.theirs), f.read, f.write) for f in rule.forms)
    return Rule(rule.ours, rule.forms + renamed)


def _replaced(name: str, names: Sequence[tuple[str, str]]) -> str:
    for old, new in names:
        name = name.replace(old, new)
    return name


def attention(
    ours: str,
    theirs: str,
    config: AttentionConfig,
    d_model: int,
    *,
    out: str = "o_proj",
    norms: tuple[str, str] = ("q_norm", "k_norm"),
    via: Via = SAME,
    out_via: Via = SAME,
) -> Iterator[Rule]:
    """Queries, keys and values apart in theirs; ``via`` is for the norms of queries and keys."""
    H, G, K = config.heads(d_model)
    for end in ("weight", "bias") if config.bias else ("weight",):
        sizes = {f"{theirs}.q_proj.{end}": H * K, f"{theirs}.k_proj.{end}": G * K, f"{theirs}.v_proj.{end}": G * K}
        yield stacked(f"{ours}.qkv_proj.{end}", sizes)
    for end in ("weight", "bias") if config.out_bias else ("weight",):
        yield same(f"{ours}.out_proj.{end}", f"{theirs}.{out}.{end}", out_via)
    for mine, its in zip(("q_norm", "k_norm"), norms, strict=True) if config.qk_norm else ():
        yield same(f"{ours}.{mine}.weight", f"{theirs}.{its}.weight", via)


def convolutions(ours: str, theirs: str, widths: Mapping[str, int]) -> Rule:
    """Short convolutions of queries, keys and values (``q``, ``k``, ``v``): apart in checkpoints, one in memory."""
    apart = stacked(ours, {f"{theirs}.{name}_conv1d.weight": width for name, width in widths.items()}, CONVOLUTION)
    return Rule((ours,), apart.forms + same(ours, f"{theirs}.conv1d.weight", CONVOLUTION).forms)


def gated_mlp(
    ours: str,
    theirs: str,
    width: int,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Iterator[Rule]:
    """Gate and up apart in theirs, and down."""
    gate, up, down = (f"{theirs}.{name}" for name in names)
    for end in ("weight", "bias") if bias else ("weight",):
        yield stacked(f"{ours}.in_proj.{end}", {f"{gate}.{end}": width, f"{up}.{end}": width})
        yield same(f"{ours}.out_proj.{end}", f"{down}.{end}")


def gated_experts(
    ours: str,
    theirs: str,
    n_experts: int,
    *,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Iterator[Rule]:
    """Experts apart in checkpoints (``theirs.{expert}.name``), fused in memory."""
    gate, up, down = (f"{theirs}.{{}}.{name}.weight" for name in names)
    yield experts(f"{ours}.in_proj", f"{theirs}.gate_up_proj", [gate, up], n_experts)
    yield experts(f"{ours}.out_proj", f"{theirs}.down_proj", [down], n_experts)


def even_rotation(theirs: TheirConfig, head_dim: int, fraction: float) -> None:
    """InvalidInput unless an even number of a head's channels, at least 2, is rotated."""
    rotated = int(head_dim * fraction)
    if rotated < 2 or rotated % 2:
        raise InvalidInput(
            f"{theirs.family}: partial_rotary_factor={fraction} of heads of {head_dim} rotates {rotated} channels, "
            f"which must be even and at least 2"
        )
