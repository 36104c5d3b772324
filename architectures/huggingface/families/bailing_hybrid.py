"""Ling and Ring's hybrid (``bailing_hybrid``): Kimi Delta Attention with a bounded decay, and latent attention with
rotated positions and a gate per head; each with experts or, at first, an MLP.
"""

from collections.abc import Iterator
from typing import Any

import torch

from ...mixers.kda import KDAConfig
from ...mixers.mla import MLAConfig
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ..common import NO_TOKENS, also, convolutions, gated_mlp, pattern
from ..config import TheirConfig, blocks, kind, rope_parameters
from ..family import Family
from ..rules import Rule, reordered, same, stacked
from .kimi_linear import DENSE, FULL, LATENT_NORM_EPS, LINEAR, SPARSE, expert_options, experts_of, written_experts

NAME = "bailing_hybrid"
DEFAULTS = {
    "vocab_size": 157184,
    "hidden_size": 2560,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 42,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "num_expert_group": 8,
    "topk_group": 4,
    "num_experts_per_token": 8,
    "first_k_dense_replace": 2,
    "moe_renormalize": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "num_experts": 512,
    "head_dim": 128,
    "short_conv_kernel_size": 4,
    "layer_group_size": 6,
    "kda_safe_gate": True,
    "kda_lower_bound": -5.0,
    "layer_types": None,
    "mlp_layer_types": None,
}
ROPE_BASE = 6e6


def layers_of(theirs: TheirConfig) -> list[tuple[str, str]]:
    """(mixer, what follows it) of every layer, by our names."""
    count, group = theirs["num_hidden_layers"], theirs["layer_group_size"]
    types = theirs["layer_types"] or [FULL if (i + 1) % group == 0 else LINEAR for i in range(count)]
    if len(types) != count or set(types) - {LINEAR, FULL}:
        theirs.refuse("layer_types", f"must be {count} of {LINEAR!r} and {FULL!r}")
    n_dense = theirs["first_k_dense_replace"]
    after = theirs["mlp_layer_types"] or [DENSE if i < n_dense else SPARSE for i in range(count)]
    if len(after) != count or set(after) - {DENSE, SPARSE}:
        theirs.refuse("mlp_layer_types", f"must be {count} of {DENSE!r} and {SPARSE!r}")
    return [
        ("mla" if mixer == FULL else "kda", "mlp" if second == DENSE else "moe")
        for mixer, second in zip(types, after, strict=True)
    ]


def linear_heads(theirs: TheirConfig) -> tuple[int, int]:
    """(heads, width of a head) of the linear layers; their class writes ``head_dim`` under another name."""
    width = theirs.given.get("linear_head_dim", theirs["head_dim"])
    return theirs.given.get("linear_num_heads", theirs["num_attention_heads"]), width


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    theirs.only("tie_word_embeddings", False)
    theirs.only("num_key_value_heads", theirs["num_attention_heads"], None)
    (H, K), each, eps = linear_heads(theirs), layers_of(theirs), theirs["rms_norm_eps"]
    layers: dict[str, dict[str, Any]] = {
        "kda": {
            "n_heads": H,
            "head_dim": K,
            "d_conv": theirs.given.get("linear_conv_kernel_dim", theirs["short_conv_kernel_size"]),
            "rank": 0,
            "decay_bound": float(theirs["kda_lower_bound"]) if theirs["kda_safe_gate"] else None,
            "norm_eps": eps,
        },
        "mla": {
            "n_heads": theirs["num_attention_heads"],
            "head_dim": theirs["qk_nope_head_dim"],
            "value_dim": theirs["v_head_dim"],
            "kv_rank": theirs["kv_lora_rank"],
            "rope_dim": theirs["qk_rope_head_dim"],
            "rope_base": theirs.rope(ROPE_BASE)[0],
            "head_gate": True,
            "bias": theirs["attention_bias"],
            "norm_eps": LATENT_NORM_EPS,
        },
        "mlp": {"hidden": theirs["intermediate_size"]},
        "moe": expert_options(theirs),
    }
    used = {name for pair in each for name in pair}
    return ModelConfig(
        pattern=pattern(f"{mixer} {after}" for mixer, after in each),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=False,
        norm_eps=eps,
        layers={name: options for name, options in layers.items() if name in used},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["kda", "mla"], ["mlp", "moe"])
    linear, full = kind(NAME, each, KDAConfig), kind(NAME, each, MLAConfig)
    mlp, moe = kind(NAME, each, MLPConfig), kind(NAME, each, MoEConfig)
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(each),
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": False,
        "layer_types": [FULL if isinstance(mixer, MLAConfig) else LINEAR for mixer, _ in each],
        "mlp_layer_types": [DENSE if isinstance(after, MLPConfig) else SPARSE for _, after in each],
        "num_mtp_layers": 0,
        **NO_TOKENS,
    }
    if linear is not None:
        H, K = linear.heads(model.d_model)
        written |= {"linear_num_heads": H, "num_attention_heads": H, "linear_head_dim": K, "head_dim": K}
        written |= {"short_conv_kernel_size": linear.d_conv, "kda_safe_gate": linear.decay_bound is not None}
        written |= {} if linear.decay_bound is None else {"kda_lower_bound": linear.decay_bound}
    if full is not None:
        H, K, V, C, R = full.sizes(model.d_model)
        written |= {"num_attention_heads": H, "num_key_value_heads": H, "qk_nope_head_dim": K, "v_head_dim": V}
        written |= {"kv_lora_rank": C, "qk_rope_head_dim": R, "attention_bias": full.bias}
        written["rope_parameters"] = rope_parameters(full.rope_base)
    if mlp is not None:
        written["intermediate_size"] = mlp.width(model.d_model)
    return written if moe is None else written | written_experts(moe, model.d_model)


IN_MEMORY = (
    (".attention.dense.", ".self_attn.o_proj."),
    (".attention.", ".self_attn."),
    (".f_proj.", ".forget_gate.f_proj."),
    (".A_log", ".forget_gate.A_log"),
    (".dt_bias", ".forget_gate.dt_bias"),
)


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield also(same("embedding.weight", "model.word_embeddings.weight"), ("word_embeddings", "embed_tokens"))
    yield same("final_norm.weight", "model.norm.weight")
    yield same("head.weight", "lm_head.weight")
    for i, (mixer, after) in enumerate(layers_of(theirs)):
        first, second, its = f"layers.{2 * i}", f"layers.{2 * i + 1}", f"model.layers.{i}"
        yield same(f"norms.{2 * i}.weight", f"{its}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.post_attention_layernorm.weight")
        rules = delta_attention if mixer == "kda" else latent_attention
        for rule in rules(first, f"{its}.attention", theirs):
            yield also(rule, *IN_MEMORY)
        if after == "mlp":
            yield from gated_mlp(second, f"{its}.mlp", theirs["intermediate_size"])
        else:
            names = ("gate_proj", "up_proj", "down_proj")
            for rule in experts_of(second, f"{its}.mlp", theirs, names, choice_bias="expert_bias"):
                yield also(rule, ("gate.expert_bias", "gate.e_score_correction_bias"))


def delta_attention(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    H, K = linear_heads(theirs)
    rows = {"q_proj": H * K, "k_proj": H * K, "v_proj": H * K, "b_proj": H, "f_proj": H * K, "g_proj": H * K}
    yield stacked(f"{ours}.in_proj.weight", {f"{its}.{name}.weight": size for name, size in rows.items()})
    yield convolutions(f"{ours}.conv.weight", its, {"q": H * K, "k": H * K, "v": H * K})
    yield same(f"{ours}.decay_bias", f"{its}.dt_bias")
    yield same(f"{ours}.A_log", f"{its}.A_log")
    yield same(f"{ours}.norm.weight", f"{its}.o_norm.weight")
    yield same(f"{ours}.out_proj.weight", f"{its}.dense.weight")


def latent_attention(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """Theirs rotates neighbouring channels, ours those half a head apart."""
    H, K = theirs["num_attention_heads"], theirs["qk_nope_head_dim"]
    R, C = theirs["qk_rope_head_dim"], theirs["kv_lora_rank"]
    halves = torch.arange(R).view(-1, 2).T.flatten()
    of_head = torch.cat([torch.arange(K), K + halves])
    queries = reordered((torch.arange(H)[:, None] * (K + R) + of_head).flatten())
    latents = reordered(torch.cat([torch.arange(C), C + halves]))
    yield same(f"{ours}.q_proj.weight", f"{its}.q_proj.weight", queries)
    for mine, name in (("latent_norm", "kv_a_layernorm"), ("expand_proj", "kv_b_proj"), ("gate_proj", "g_proj")):
        yield same(f"{ours}.{mine}.weight", f"{its}.{name}.weight")
    for end in ("weight", "bias") if theirs["attention_bias"] else ("weight",):
        yield same(f"{ours}.latent_proj.{end}", f"{its}.kv_a_proj_with_mqa.{end}", latents)
        yield same(f"{ours}.out_proj.{end}", f"{its}.dense.{end}")


FAMILY = Family(
    name=NAME,
    architecture="BailingHybridForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"model\.layers\.42\..*"],
)
