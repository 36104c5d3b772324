"""Granite 4 (IBM 2025): Mamba-2 and now and then attention, each followed by experts with a shared one, or by an MLP
alone; embeddings, residuals, attention and logits have constant multipliers.
"""

from collections.abc import Iterator
from typing import Any

import torch

from ...errors import InvalidInput
from ...mixers.attn import AttentionConfig
from ...mixers.mamba2 import Mamba2Config
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ...pattern import parse_pattern
from ..common import also, around, attention
from ..config import (
    TheirConfig,
    attention_config,
    attention_options,
    blocks,
    kind,
    rope_parameters,
    written_attention,
)
from ..family import Family
from ..rules import TRANSPOSED, Rule, absent, same
from .mamba2 import PREFIXED_DEFAULTS, mixer_rules, prefixed_options, written_prefixed

DEFAULTS = PREFIXED_DEFAULTS | {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "shared_intermediate_size": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "layer_types": None,
    "position_embedding_type": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
ATTENTION = ("full_attention", "attention")
"""How ``layer_types`` names it, now and in older files."""


def mixers(theirs: TheirConfig) -> list[str]:
    """The mixer of every layer."""
    types = theirs["layer_types"] or theirs.given.get("layers_block_type")
    types = types or ["linear_attention"] * theirs["num_hidden_layers"]
    return ["attn" if name in ATTENTION else "mamba2" for name in types]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    theirs.only("position_embedding_type", None, "rope", "nope")
    rope = theirs["position_embedding_type"] == "rope"
    base, _ = theirs.rope()
    bias, shared = theirs["attention_bias"], theirs["shared_intermediate_size"]
    attn = attention_options(theirs) | {"rope": rope, "bias": bias, "out_bias": bias}
    attn |= {"scale": float(theirs["attention_multiplier"])} | ({"rope_base": base} if rope else {})
    mlp = {"hidden": shared}
    if theirs["num_local_experts"]:
        mlp = {
            "n_experts": theirs["num_local_experts"],
            "top_k": theirs["num_experts_per_tok"],
            "hidden": theirs["intermediate_size"],
            "n_shared": 1,
            "shared_hidden": shared,
        }
    name = "moe" if theirs["num_local_experts"] else "mlp"
    return ModelConfig(
        pattern=str(parse_pattern(" ".join(f"{mixer} {name}" for mixer in mixers(theirs)))),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        embedding_scale=float(theirs["embedding_multiplier"]),
        residual_scale=float(theirs["residual_multiplier"]),
        logit_scale=1 / theirs["logits_scaling"],
        layers={"mamba2": prefixed_options(theirs), "attn": attn, name: mlp},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks("granitemoehybrid", model, ["mamba2", "attn"], ["mlp", "moe"])
    mamba2, attn = kind("granitemoehybrid", each, Mamba2Config), kind("granitemoehybrid", each, AttentionConfig)
    mlp, moe = kind("granitemoehybrid", each, MLPConfig), kind("granitemoehybrid", each, MoEConfig)
    if mlp and moe:
        raise InvalidInput("granitemoehybrid: layers with mlp and layers with moe; all of its are alike")
    written = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(each),
        "layer_types": ["full_attention" if mixer.name == "attn" else "linear_attention" for mixer, _ in each],
        "rms_norm_eps": model.norm_eps,
        "embedding_multiplier": model.embedding_scale,
        "residual_multiplier": model.residual_scale,
        "logits_scaling": 1 / model.logit_scale,
        "tie_word_embeddings": model.tie_embeddings,
        **written_attention(attn, model.d_model),
        **written_prefixed(mamba2, model.d_model),
    }
    if attn is not None:
        _, _, K = attn.heads(model.d_model)
        written |= {"attention_bias": attn.bias, "attention_multiplier": K**-0.5 if attn.scale is None else attn.scale}
        if attn.rope:
            written |= {"position_embedding_type": "rope", "rope_parameters": rope_parameters(attn.rope_base)}
    if moe is not None:
        if not moe.n_shared:
            raise InvalidInput("granitemoehybrid: moe: n_shared=0; its experts have a shared one beside them")
        return written | {
            "num_local_experts": moe.n_experts,
            "num_experts_per_tok": moe.top_k,
            "intermediate_size": moe.width(model.d_model),
            "shared_intermediate_size": moe.shared_width(model.d_model),
        }
    assert mlp is not None
    width = mlp.width(model.d_model)
    return written | {"num_local_experts": 0, "intermediate_size": width, "shared_intermediate_size": width}


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs)
    bias = theirs["attention_bias"]
    attn = attention_config(theirs, bias=bias, out_bias=bias)
    for i, mixer in enumerate(mixers(theirs)):
        layer, ours, mlp = f"model.layers.{i}", f"layers.{2 * i}", f"layers.{2 * i + 1}"
        yield same(f"norms.{2 * i}.weight", f"{layer}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{layer}.post_attention_layernorm.weight")
        if mixer == "attn":
            yield from attention(ours, f"{layer}.self_attn", attn, theirs["hidden_size"])
        else:
            into, conv = theirs["mamba_proj_bias"], theirs["mamba_conv_bias"]
            yield from mixer_rules(ours, f"{layer}.mamba", bias=into, conv_bias=conv)
        experts = theirs["num_local_experts"]
        shared = f"{mlp}.shared" if experts else mlp
        yield same(f"{shared}.in_proj.weight", f"{layer}.shared_mlp.input_linear.weight")
        yield same(f"{shared}.out_proj.weight", f"{layer}.shared_mlp.output_linear.weight")
        if experts:
            yield from _experts(mlp, f"{layer}.block_sparse_moe", experts)


def _experts(ours: str, theirs: str, n_experts: int) -> Iterator[Rule]:
    """Checkpoints and models in memory name them differently."""
    yield absent("granitemoehybrid", f"{ours}.choice_bias", torch.zeros(n_experts))
    yield also(
        same(f"{ours}.router.weight", f"{theirs}.router.layer.weight"),
        ("router.layer.weight", "router.weight"),
    )
    for mine, stored, held in (
        ("in_proj", "input_linear.weight", "experts.gate_up_proj"),
        ("out_proj", "output_linear.weight", "experts.down_proj"),
    ):
        yield also(same(f"{ours}.{mine}", f"{theirs}.{stored}", TRANSPOSED), (stored, held))


FAMILY = Family(
    name="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
