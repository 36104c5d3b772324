"""Zamba2: Mamba-2, and before some of its layers one of a few shared blocks, taking turns; each use has adapters."""

from collections.abc import Iterator
from typing import Any

from ...mixers.mamba2 import Mamba2Config
from ...model_config import ModelConfig
from ..common import around, pattern
from ..config import TheirConfig, alike, rope_parameters
from ..family import Family
from ..rules import Rule, same
from .mamba2 import mixer_rules
from .zamba import HYBRID, LINEAR, Use, attention_rules, pairs, spots, types_of, written_around, written_block

NAME = "zamba2"
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 2560,
    "num_hidden_layers": 54,
    "layers_block_type": None,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_ngroups": 1,
    "time_step_min": 0.001,
    "n_mamba_heads": 8,
    "add_bias_linear": False,
    "intermediate_size": None,
    "hidden_act": "gelu",
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "num_mem_blocks": 1,
    "use_shared_attention_adapter": False,
    "adapter_rank": 128,
    "use_mem_rope": False,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
DEFAULT_TYPES = [LINEAR, *([LINEAR] * 5 + [HYBRID]) * 7, *[LINEAR] * 4, HYBRID, *[LINEAR] * 3, HYBRID, *[LINEAR] * 2]
NORM_EPS = 1e-5
"""Of the mixers' norm, whatever the configuration says."""


def width(theirs: TheirConfig) -> int:
    """Of the shared blocks' MLP."""
    return theirs["intermediate_size"] or 4 * theirs["hidden_size"]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "gelu")
    theirs.only("tie_word_embeddings", True)  # without, their class does not tie the shared blocks either
    D, H = theirs["hidden_size"], theirs["num_attention_heads"]
    E, heads = int(theirs["mamba_expand"] * D), theirs["n_mamba_heads"]
    if theirs["use_shared_attention_adapter"]:
        theirs.only("num_key_value_heads", H, None)
    types, uses = [], 0
    for name in types_of(theirs, DEFAULT_TYPES):
        types.append("mamba2" if name == LINEAR else f"shared_block@block{uses % theirs['num_mem_blocks']} mamba2")
        uses += name == HYBRID
    return ModelConfig(
        pattern=pattern(types),
        d_model=D,
        vocab_size=theirs["vocab_size"],
        tie_embeddings=True,
        norm_eps=theirs["rms_norm_eps"],
        layers={
            "mamba2": {
                "d_state": theirs["mamba_d_state"],
                "expand": E / D,
                "n_heads": heads,
                "head_dim": E // heads,
                "n_groups": theirs["mamba_ngroups"],
                "d_conv": theirs["mamba_d_conv"],
                "dt_low": float(theirs["time_step_min"]),
                "norm_eps": NORM_EPS,
                "bias": theirs["add_bias_linear"],
                "out_bias": theirs["add_bias_linear"],
            },
            "shared_block": {
                "n_heads": H,
                "head_dim": 2 * D // H,
                "n_kv_heads": theirs["num_key_value_heads"] or H,
                "rope": theirs["use_mem_rope"],
                "rope_base": theirs.rope()[0],
                "hidden": width(theirs),
                "adapter_rank": theirs["adapter_rank"],
                "attention_adapters": theirs["use_shared_attention_adapter"],
                "bias": theirs["add_bias_linear"],
                "norm_eps": theirs["rms_norm_eps"],
            },
        },
    )


def write(model: ModelConfig) -> dict[str, Any]:
    types, mixers, shared = pairs(NAME, model, "mamba2")
    mamba2 = alike(NAME, mixers)
    assert isinstance(mamba2, Mamba2Config)
    E, H, _ = mamba2.sizes(model.d_model)
    places = [sublayer[0] for sublayer in model.sublayers() if sublayer[0].layer.name == "shared_block"]
    blocks = {place.label or str(number) for number, place in enumerate(places)}
    written = {
        "mamba_d_state": mamba2.d_state,
        "mamba_d_conv": mamba2.d_conv,
        "mamba_expand": E // model.d_model,
        "mamba_ngroups": mamba2.n_groups,
        "n_mamba_heads": H,
        "time_step_min": mamba2.dt_low,
        "add_bias_linear": mamba2.bias,
        "num_mem_blocks": len(blocks),
        "use_shared_attention_adapter": shared.attention_adapters,
        "adapter_rank": shared.adapter_rank,
        "use_mem_rope": shared.rope,
        "rope_parameters": rope_parameters(shared.rope_base),
        **written_around(model, types),
        **written_block(shared, model.d_model),
    }
    del written["attention_head_dim"]  # it follows from the number of heads
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_layernorm")
    bias = theirs["add_bias_linear"]
    for i, spot in spots(types_of(theirs, DEFAULT_TYPES), theirs["num_mem_blocks"]):
        yield same(spot.norm, f"{spot.theirs}.input_layernorm.weight")
        yield from mixer_rules(spot.ours, f"{spot.theirs}.mamba", bias=bias, conv_bias=True)
        if spot.use is not None:
            yield same(f"per_use.{spot.use.place}.out_proj.weight", f"model.layers.{i}.linear.weight")
            yield from adapters(spot.use, theirs)
            if spot.use.is_first:
                yield from block_rules(spot.use.ours, f"model.layers.{i}.shared_transformer", theirs)


def block_rules(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """What the uses of a block share."""
    yield from attention_rules(ours, its, theirs, 2 * theirs["hidden_size"] // theirs["num_attention_heads"])
    for end in ("weight", "bias") if theirs["add_bias_linear"] else ("weight",):
        yield same(f"{ours}.mlp.in_proj.{end}", f"{its}.feed_forward.gate_up_proj.{end}")
        yield same(f"{ours}.mlp.out_proj.{end}", f"{its}.feed_forward.down_proj.{end}")


def adapters(use: Use, theirs: TheirConfig) -> Iterator[Rule]:
    """A use's own, which theirs keeps in the block, numbered over all uses of all blocks."""
    block, own = f"model.layers.{use.first}.shared_transformer", f"per_use.{use.place}"
    pairs_of = {"mlp": f"{block}.feed_forward.gate_up_proj_adapter_list"}
    for number, name in enumerate("qkv" if theirs["use_shared_attention_adapter"] else ""):
        pairs_of[f"attention.{number}"] = f"{block}.self_attn.linear_{name}_adapter_list"
    for mine, its in pairs_of.items():
        yield same(f"{own}.{mine}.down_proj.weight", f"{its}.{use.number}.0.weight")
        yield same(f"{own}.{mine}.up_proj.weight", f"{its}.{use.number}.1.weight")


FAMILY = Family(
    name=NAME,
    architecture="Zamba2ForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight", r"model\.layers\.\d+\.shared_transformer\..*"],
)
