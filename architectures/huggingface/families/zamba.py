"""Zamba: Mamba in heads, and before some of its layers one shared block whose output only they read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import InvalidInput
from ...layer import LayerConfig
from ...mixers.mamba import MambaConfig
from ...mixers.shared_block import SharedBlockConfig
from ...model_config import ModelConfig
from ..common import around, gated_mlp, pattern
from ..config import TheirConfig, alike
from ..family import Family
from ..rules import Rule, convolution, reordered, reshaped, same, stacked

NAME = "zamba"
DEFAULTS = {
    "vocab_size": 32000,
    "tie_word_embeddings": True,
    "hidden_size": 3712,
    "attention_hidden_size": None,
    "intermediate_size": 14848,
    "num_hidden_layers": 76,
    "num_attention_heads": 16,
    "attention_head_dim": None,
    "num_key_value_heads": 16,
    "n_mamba_heads": 2,
    "hidden_act": "gelu",
    "hidden_mamba_act": "silu",
    "rms_norm_eps": 1e-5,
    "attn_layer_period": 6,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "layers_block_type": None,
}
LINEAR, HYBRID = "linear_attention", "hybrid"
OLDER = {"mamba": LINEAR}
"""What older configurations call it."""


def types_of(theirs: TheirConfig, default: Sequence[str]) -> list[str]:
    """LINEAR or HYBRID for every layer."""
    given = theirs["layers_block_type"] or theirs.given.get("layer_types") or default
    types = [OLDER.get(name, name) for name in given]
    if len(types) != theirs["num_hidden_layers"] or set(types) - {LINEAR, HYBRID}:
        theirs.refuse("layers_block_type", f"must be {theirs['num_hidden_layers']} of {LINEAR!r} and {HYBRID!r}")
    return types


def default_types(theirs: TheirConfig) -> list[str]:
    """The first three layers, and the period of the others."""
    period, offset = theirs["attn_layer_period"], theirs["attn_layer_offset"]
    rest = [HYBRID if i % period == offset else LINEAR for i in range(theirs["num_hidden_layers"] - 3)]
    return [LINEAR, LINEAR, HYBRID, *rest]


def head_dim(theirs: TheirConfig) -> int:
    """Of the shared block's attention."""
    return theirs["attention_head_dim"] or 2 * theirs["hidden_size"] // theirs["num_attention_heads"]


def dt_rank(theirs: TheirConfig) -> int:
    """Of the projection of the mixers' steps."""
    rank = theirs["mamba_dt_rank"]
    return -(-theirs["hidden_size"] // 16) if rank == "auto" else rank


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "gelu")
    theirs.only("tie_word_embeddings", True)  # without, their class does not tie the shared blocks either
    theirs.only("hidden_mamba_act", "silu", "swish")
    theirs.only("attention_hidden_size", 2 * theirs["hidden_size"], None)
    mamba: dict[str, Any] = {
        "d_state": theirs["mamba_d_state"],
        "expand": float(theirs["mamba_expand"]),
        "n_heads": theirs["n_mamba_heads"],
        "d_conv": theirs["mamba_d_conv"],
        "bias": theirs["mamba_proj_bias"],
        "conv_bias": theirs["mamba_conv_bias"],
        "out_bias": theirs["mamba_proj_bias"],
        "dt_rank": dt_rank(theirs),
    }
    of_type = {LINEAR: "mamba", HYBRID: "shared_block@block mamba"}
    return ModelConfig(
        pattern=pattern(of_type[name] for name in types_of(theirs, default_types(theirs))),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=True,
        norm_eps=theirs["rms_norm_eps"],
        layers={
            "mamba": mamba,
            "shared_block": {
                "n_heads": theirs["num_attention_heads"],
                "head_dim": head_dim(theirs),
                "n_kv_heads": theirs["num_key_value_heads"],
                "hidden": theirs["intermediate_size"],
                "norm_eps": theirs["rms_norm_eps"],
            },
        },
    )


def pairs(family: str, model: ModelConfig, mixer: str) -> tuple[list[str], list[LayerConfig], SharedBlockConfig]:
    """(LINEAR or HYBRID for every layer, all its mixers, the shared blocks' one config)."""
    types: list[str] = []
    mixers, shared = [], []
    before = ""
    for number, sublayer in enumerate(model.sublayers()):
        layer, name = sublayer[0].layer, "|".join(place.layer.name for place in sublayer)
        if name == mixer and sublayer[0].label is None:
            types.append(HYBRID if before == "shared_block" else LINEAR)
            mixers.append(layer)
        elif name == "shared_block" and before != name:
            shared.append(layer)
        else:
            raise InvalidInput(f"{family}: sublayer {number} is {name!r}; it has {mixer}, and shared_block before some")
        before = name
    one = alike(family, shared)
    if not isinstance(one, SharedBlockConfig):
        raise InvalidInput(f"{family}: a model of it has a shared_block")
    return types, mixers, one


def write(model: ModelConfig) -> dict[str, Any]:
    types, mixers, shared = pairs(NAME, model, "mamba")
    mamba = alike(NAME, mixers)
    assert isinstance(mamba, MambaConfig)
    E, R = mamba.sizes(model.d_model)
    return {
        "n_mamba_heads": mamba.n_heads,
        "mamba_d_state": mamba.d_state,
        "mamba_d_conv": mamba.d_conv,
        "mamba_expand": E // model.d_model,
        "mamba_dt_rank": R,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.bias,
        **written_around(model, types),
        **written_block(shared, model.d_model),
    }


def written_around(model: ModelConfig, types: list[str]) -> dict[str, Any]:
    """Keys of the model, of Zamba and of Zamba2."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(types),
        "layers_block_type": types,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
    }


def written_block(shared: SharedBlockConfig, d_model: int) -> dict[str, Any]:
    """Keys of the shared block, of Zamba and of Zamba2."""
    H, G, K = shared.attention(d_model).heads(d_model)
    width = shared.width(d_model)
    return {
        "num_attention_heads": H,
        "num_key_value_heads": G,
        "attention_head_dim": K,
        "intermediate_size": width,
    }


@dataclass(frozen=True)
class Use:
    """One use of a shared block."""

    number: int
    """Among all uses, from 0."""
    place: int
    """Among our places."""
    ours: str
    """Our layer."""
    first: int
    """The layer of theirs that has the block's weights; the others are tied to it."""
    is_first: bool


@dataclass(frozen=True)
class Spot:
    """One layer of theirs: a mixer of ours, and before it perhaps a shared block."""

    norm: str
    """The norm of the mixer."""
    ours: str
    """The mixer."""
    theirs: str
    """The layer that has both."""
    use: Use | None


def spots(types: Sequence[str], n_blocks: int = 1) -> Iterator[tuple[int, Spot]]:
    """Every layer with its number; blocks take turns."""
    unique = place = uses = 0
    owners: dict[int, tuple[str, int]] = {}
    for i, name in enumerate(types):
        use = None
        if name == HYBRID:
            is_first = uses < n_blocks
            if is_first:
                owners[uses] = (f"layers.{unique}", i)
                unique += 1
            ours, first = owners[uses % n_blocks]
            use = Use(uses, place, ours, first, is_first)
            uses, place = uses + 1, place + 1
        inner = f"model.layers.{i}.mamba_decoder" if use is not None else f"model.layers.{i}"
        yield i, Spot(f"norms.{place}.weight", f"layers.{unique}", inner, use)
        unique, place = unique + 1, place + 1


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_layernorm")
    for i, spot in spots(types_of(theirs, default_types(theirs))):
        yield same(spot.norm, f"{spot.theirs}.input_layernorm.weight")
        yield from mixer_rules(spot.ours, f"{spot.theirs}.mamba", theirs)
        if spot.use is not None:
            its = f"model.layers.{i}.shared_transf"
            yield same(f"per_use.{spot.use.place}.out_proj.weight", f"model.layers.{i}.linear.weight")
            if spot.use.is_first:
                yield from attention_rules(spot.use.ours, its, theirs, head_dim(theirs))
                yield from gated_mlp(f"{spot.use.ours}.mlp", f"{its}.feed_forward", theirs["intermediate_size"])


def mixer_rules(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """Theirs interleaves the layer's inner channels with their gates, and has an axis of heads."""
    H, N, R = theirs["n_mamba_heads"], theirs["mamba_d_state"], dt_rank(theirs)
    E = theirs["mamba_expand"] * theirs["hidden_size"]
    apart = reordered(torch.arange(2 * E).view(E, 2).T.flatten())
    for end in ("weight", "bias") if theirs["mamba_proj_bias"] else ("weight",):
        yield same(f"{ours}.in_proj.{end}", f"{its}.in_proj.{end}", apart)
        yield same(f"{ours}.out_proj.{end}", f"{its}.out_proj.{end}")
    yield from convolution(f"{ours}.conv", f"{its}.conv1d", theirs["mamba_conv_bias"])
    shapes = {
        "x_proj.weight": ("x_proj_weight", (H * (R + 2 * N), E // H), (H, R + 2 * N, E // H)),
        "dt_proj.weight": ("dt_proj_weight", (E, R), (H, E // H, R)),
        "dt_proj.bias": ("dt_proj_bias", (E,), (H, E // H)),
        "A_log": ("A_log", (E, N), (H, E // H, N)),
        "D": ("D", (E,), (H, E // H)),
    }
    for mine, (name, flat, by_head) in shapes.items():
        yield same(f"{ours}.{mine}", f"{its}.{name}", reshaped(flat, by_head))


def attention_rules(ours: str, its: str, theirs: TheirConfig, K: int) -> Iterator[Rule]:
    """The shared block's attention and norms, of Zamba and of Zamba2."""
    H = theirs["num_attention_heads"]
    G = theirs["num_key_value_heads"] or H
    sizes = {f"{its}.self_attn.{name}_proj.weight": n * K for name, n in (("q", H), ("k", G), ("v", G))}
    yield stacked(f"{ours}.attention.qkv_proj.weight", sizes)
    yield same(f"{ours}.attention.out_proj.weight", f"{its}.self_attn.o_proj.weight")
    yield same(f"{ours}.norm.weight", f"{its}.input_layernorm.weight")
    yield same(f"{ours}.mlp_norm.weight", f"{its}.pre_ff_layernorm.weight")


FAMILY = Family(
    name=NAME,
    architecture="ZambaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight", r"model\.layers\.\d+\.shared_transf\..*"],
)
