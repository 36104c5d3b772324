"""Jamba (Lieber et al. 2024): Mamba with learned inner norms, now and then attention without positions; every mixer is
followed by an MLP or by experts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...errors import InvalidInput
from ...mixers.attn import AttentionConfig
from ...mixers.mamba import MambaConfig
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ...pattern import parse_pattern
from ..common import around, attention, gated_experts, gated_mlp
from ..config import TheirConfig, attention_config, attention_options, blocks, every, kind, written_attention
from ..family import Family
from ..rules import Rule, absent, same
from .mamba import mixer_rules

DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "num_experts_per_tok": 2,
    "num_experts": 16,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "tie_word_embeddings": False,
}


def names(theirs: TheirConfig) -> list[tuple[str, str]]:
    """(mixer, what follows it) of every layer."""
    return [
        (
            "attn" if i % theirs["attn_layer_period"] == theirs["attn_layer_offset"] else "mamba",
            "moe" if _has_experts(theirs, i) else "mlp",
        )
        for i in range(theirs["num_hidden_layers"])
    ]


def _has_experts(theirs: TheirConfig, i: int) -> bool:
    return theirs["num_experts"] > 1 and i % theirs["expert_layer_period"] == theirs["expert_layer_offset"]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    mamba = {
        "d_state": theirs["mamba_d_state"],
        "d_conv": theirs["mamba_d_conv"],
        "expand": float(theirs["mamba_expand"]),
        "bias": theirs["mamba_proj_bias"],
        "conv_bias": theirs["mamba_conv_bias"],
        "out_bias": theirs["mamba_proj_bias"],
        "inner_norm": "learned",
        "norm_eps": theirs["rms_norm_eps"],
    }
    if theirs["mamba_dt_rank"] != "auto":
        mamba["dt_rank"] = theirs["mamba_dt_rank"]
    hidden = theirs["intermediate_size"]
    moe = {
        "n_experts": theirs["num_experts"],
        "top_k": theirs["num_experts_per_tok"],
        "hidden": hidden,
        "renormalize": False,
    }
    layers = {"mamba": mamba, "attn": attention_options(theirs) | {"rope": False}, "mlp": {"hidden": hidden}}
    return ModelConfig(
        pattern=str(parse_pattern(" ".join(f"{mixer} {mlp}" for mixer, mlp in names(theirs)))),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        layers=layers | ({"moe": moe} if theirs["num_experts"] > 1 else {}),
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks("jamba", model, ["mamba", "attn"], ["mlp", "moe"])
    mamba, attn = kind("jamba", each, MambaConfig), kind("jamba", each, AttentionConfig)
    mlp, moe = kind("jamba", each, MLPConfig), kind("jamba", each, MoEConfig)
    widths = {layer.width(model.d_model) for layer in (mlp, moe) if layer is not None}
    if len(widths) > 1:
        raise InvalidInput(f"jamba: mlp and moe differ in width ({', '.join(map(str, sorted(widths)))}); it has one")
    written = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": widths.pop(),
        "num_hidden_layers": len(each),
        "rms_norm_eps": model.norm_eps,
        "num_experts": moe.n_experts if moe else 1,
        "num_experts_per_tok": moe.top_k if moe else 1,
        "tie_word_embeddings": model.tie_embeddings,
        **written_attention(attn, model.d_model),
        **_placed("expert_layer", "moe", [layer.name == "moe" for _, layer in each]),
        **_placed("attn_layer", "attn", [layer.name == "attn" for layer, _ in each]),
    }
    if mamba is not None:
        E, R = mamba.sizes(model.d_model)
        written |= {
            "mamba_d_state": mamba.d_state,
            "mamba_d_conv": mamba.d_conv,
            "mamba_expand": E // model.d_model,
            "mamba_dt_rank": R,
            "mamba_conv_bias": mamba.conv_bias,
            "mamba_proj_bias": mamba.bias,
        }
    return written


def _placed(key: str, name: str, there: Sequence[bool]) -> dict[str, int]:
    indices = [i for i, is_there in enumerate(there) if is_there]
    found = every(indices, len(there))
    if found is None:
        raise InvalidInput(f"jamba: {name} in layers {', '.join(map(str, indices))} is not one in every so many")
    return {f"{key}_period": found[0], f"{key}_offset": found[1]}


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_layernorm")
    attn, n_experts = attention_config(theirs), theirs["num_experts"]
    for i, (mixer, mlp) in enumerate(names(theirs)):
        layer, ours, after = f"model.layers.{i}", f"layers.{2 * i}", f"layers.{2 * i + 1}"
        yield same(f"norms.{2 * i}.weight", f"{layer}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{layer}.pre_ff_layernorm.weight")
        if mixer == "attn":
            yield from attention(ours, f"{layer}.self_attn", attn, theirs["hidden_size"])
        else:
            yield from mixer_rules(ours, f"{layer}.mamba", theirs["mamba_proj_bias"], theirs["mamba_conv_bias"])
            for number, name in enumerate(("dt", "b", "c")):
                yield same(f"{ours}.inner_norms.{number}.weight", f"{layer}.mamba.{name}_layernorm.weight")
        if mlp == "mlp":
            yield from gated_mlp(after, f"{layer}.feed_forward", theirs["intermediate_size"])
        else:
            yield same(f"{after}.router.weight", f"{layer}.feed_forward.router.weight")
            yield absent("jamba", f"{after}.choice_bias", torch.zeros(n_experts))
            yield from gated_experts(after, f"{layer}.feed_forward.experts", n_experts)


FAMILY = Family(
    name="jamba",
    architecture="JambaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
