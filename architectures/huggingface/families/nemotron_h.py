"""Nemotron-H and Nemotron 3 (NVIDIA 2025): Mamba-2, attention without positions, squared-ReLU MLPs and experts, in any
order, each a sublayer of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import InvalidInput
from ...mixers.attn import AttentionConfig
from ...mixers.mamba2 import Mamba2Config
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ...pattern import parse_pattern
from ..common import also, attention
from ..config import TheirConfig, attention_config, attention_options, blocks, kind
from ..family import Family
from ..rules import Rule, experts, same
from .mamba2 import mixer_rules

DEFAULTS = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "layers_block_type": None,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 21504,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "mamba_hidden_act": "silu",
    "n_groups": 8,
    "conv_kernel": 4,
    "time_step_min": 0.001,
    "use_conv_bias": True,
    "use_bias": False,
    "n_routed_experts": 8,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "moe_latent_size": None,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
LAYERS = {"linear_attention": "mamba2", "full_attention": "attn", "mlp": "mlp", "moe": "moe"}
DEFAULT_TYPES = ("linear_attention", "moe", "full_attention", "mlp")
SYMBOLS = {"M": "mamba2", "*": "attn", "-": "mlp", "E": "moe"}
OLDER = {"mamba": "mamba2", "attention": "attn"}


def names(theirs: TheirConfig) -> list[str]:
    """Our layers, in order."""
    pattern = theirs.given.get("hybrid_override_pattern")
    if theirs["layers_block_type"] is None and pattern is not None:
        return [SYMBOLS[symbol] for symbol in pattern]
    types: Sequence[str] = theirs["layers_block_type"] or DEFAULT_TYPES
    return [(LAYERS | OLDER)[name] for name in types]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("mamba_hidden_act", "silu", "swish")
    theirs.only("mlp_hidden_act", "relu2", "gelu")
    theirs.only("tie_word_embeddings", False)
    layers = names(theirs)
    if theirs["mlp_bias"] and "moe" in layers:
        theirs.refuse("mlp_bias", "has no form here where there are experts")
    activation = theirs["mlp_hidden_act"]
    moe = {
        "n_experts": theirs["n_routed_experts"],
        "top_k": theirs["num_experts_per_tok"],
        "hidden": theirs["moe_intermediate_size"],
        "activation": activation,
        "n_shared": 1,
        "shared_hidden": theirs["moe_shared_expert_intermediate_size"],
        "score": "sigmoid",
        "renormalize": theirs["norm_topk_prob"],
        "scale": float(theirs["routed_scaling_factor"]),
        "latent": theirs["moe_latent_size"],
        "n_groups": theirs["n_group"],
        "top_groups": theirs["topk_group"],
        "balance": "bias",
    }
    H, P = theirs["mamba_num_heads"], theirs["mamba_head_dim"]
    mamba2 = {
        "d_state": theirs["ssm_state_size"],
        "n_heads": H,
        "head_dim": P,
        "expand": H * P / theirs["hidden_size"],
        "n_groups": theirs["n_groups"],
        "d_conv": theirs["conv_kernel"],
        "norm_eps": theirs["layer_norm_epsilon"],
        "dt_low": float(theirs["time_step_min"]),
        "bias": theirs["use_bias"],
        "conv_bias": theirs["use_conv_bias"],
        "out_bias": theirs["use_bias"],
    }
    mlp = {"activation": activation, "hidden": theirs["intermediate_size"], "bias": theirs["mlp_bias"]}
    return ModelConfig(
        pattern=str(parse_pattern(" ".join(layers))),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=False,
        norm_eps=theirs["layer_norm_epsilon"],
        layers={"mamba2": mamba2, "attn": attention_options(theirs) | {"rope": False}, "mlp": mlp}
        | ({"moe": moe} if "moe" in layers else {}),
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks("nemotron_h", model, ["mamba2", "attn", "mlp", "moe"])
    mamba2, attn = kind("nemotron_h", each, Mamba2Config), kind("nemotron_h", each, AttentionConfig)
    mlp, moe = kind("nemotron_h", each, MLPConfig), kind("nemotron_h", each, MoEConfig)
    theirs = {ours: name for name, ours in LAYERS.items()}
    written = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "layers_block_type": [theirs[layer.name] for (layer,) in each],
        "layer_norm_epsilon": model.norm_eps,
        "tie_word_embeddings": False,
    }
    if attn is not None:
        H, G, K = attn.heads(model.d_model)
        written |= {"num_attention_heads": H, "num_key_value_heads": G, "head_dim": K}
    if mamba2 is not None:
        _, H, P = mamba2.sizes(model.d_model)
        written |= {
            "ssm_state_size": mamba2.d_state,
            "mamba_num_heads": H,
            "mamba_head_dim": P,
            "n_groups": mamba2.n_groups,
            "conv_kernel": mamba2.d_conv,
            "time_step_min": mamba2.dt_low,
            "use_bias": mamba2.bias,
            "use_conv_bias": mamba2.conv_bias,
        }
    if mlp is not None and moe is not None and mlp.activation != moe.activation:
        raise InvalidInput("nemotron_h: mlp and moe differ in their activation; it has one")
    if mlp is not None:
        written |= {"intermediate_size": mlp.width(model.d_model), "mlp_bias": mlp.bias}
        written |= {"mlp_hidden_act": mlp.activation}
    if moe is not None:
        written |= {
            "mlp_hidden_act": moe.activation,
            "n_routed_experts": moe.n_experts,
            "num_experts_per_tok": moe.top_k,
            "moe_intermediate_size": moe.width(model.d_model),
            "moe_latent_size": moe.latent,
            "moe_shared_expert_intermediate_size": moe.shared_width(model.d_model),
            "routed_scaling_factor": moe.scale,
            "norm_topk_prob": moe.renormalize,
            "n_group": moe.n_groups,
            "topk_group": moe.top_groups,
        }
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    """Checkpoints say ``backbone.`` and ``experts.{expert}.``; models in memory ``model.``, their experts in one."""
    for rule in _as_stored(theirs):
        yield also(rule, ("backbone.", "model."))


def _as_stored(theirs: TheirConfig) -> Iterator[Rule]:
    yield same("embedding.weight", "backbone.embeddings.weight")
    yield same("final_norm.weight", "backbone.norm_f.weight")
    yield same("head.weight", "lm_head.weight")
    attn, bias = attention_config(theirs), theirs["use_bias"]
    for i, name in enumerate(names(theirs)):
        ours, mixer = f"layers.{i}", f"backbone.layers.{i}.mixer"
        yield same(f"norms.{i}.weight", f"backbone.layers.{i}.norm.weight")
        if name == "mamba2":
            yield from mixer_rules(ours, mixer, bias=bias, conv_bias=theirs["use_conv_bias"])
        elif name == "attn":
            yield from attention(ours, mixer, attn, theirs["hidden_size"])
        elif name == "mlp":
            yield from _mlp(ours, mixer, theirs["mlp_bias"])
        else:
            yield from _experts(ours, mixer, theirs["n_routed_experts"], latent=theirs["moe_latent_size"] is not None)


def _mlp(ours: str, theirs: str, bias: bool) -> Iterator[Rule]:
    for end in ("weight", "bias") if bias else ("weight",):
        yield same(f"{ours}.in_proj.{end}", f"{theirs}.up_proj.{end}")
        yield same(f"{ours}.out_proj.{end}", f"{theirs}.down_proj.{end}")


def _experts(ours: str, theirs: str, n: int, *, latent: bool) -> Iterator[Rule]:
    if latent:
        yield same(f"{ours}.to_latent.weight", f"{theirs}.fc1_latent_proj.weight")
        yield same(f"{ours}.from_latent.weight", f"{theirs}.fc2_latent_proj.weight")
    yield same(f"{ours}.router.weight", f"{theirs}.gate.weight")
    yield same(f"{ours}.choice_bias", f"{theirs}.gate.e_score_correction_bias")
    for mine, its in (("in_proj", "up_proj"), ("out_proj", "down_proj")):
        yield experts(f"{ours}.{mine}", f"{theirs}.experts.{its}", [f"{theirs}.experts.{{}}.{its}.weight"], n)
    yield from _mlp(f"{ours}.shared", f"{theirs}.shared_experts", False)


FAMILY = Family(
    name="nemotron_h",
    architecture="NemotronHForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"mtp\..*"],
    older={
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
        "mamba_conv_bias": "use_conv_bias",
        "mamba_dt_min": "time_step_min",
    },
)
