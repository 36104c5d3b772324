"""MiniMax-Text-01: lightning attention and softmax attention, each with experts; the residual is the normed stream."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...layer import LayerConfig
from ...mixers.attn import AttentionConfig
from ...mixers.lightning import LightningConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ..common import also, around, attention, gated_experts, pattern
from ..config import TheirConfig, alike, blocks, kind, rope_parameters
from ..family import Family
from ..rules import Rule, Via, absent, derived, same, times

NAME = "minimax"
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "layer_types": None,
    "block_size": 256,
    "full_attn_alpha_factor": 1,
    "full_attn_beta_factor": 1,
    "linear_attn_alpha_factor": 1,
    "linear_attn_beta_factor": 1,
    "mlp_alpha_factor": 1,
    "mlp_beta_factor": 1,
}
LINEAR, FULL = "linear_attention", "full_attention"
ROPE_BASE = 1e6
NORM_EPS = 1e-6
"""Of lightning attention's norm, whatever the configuration says."""


def types_of(theirs: TheirConfig) -> list[str]:
    """LINEAR or FULL for every layer."""
    count = theirs["num_hidden_layers"]
    types = theirs["layer_types"] or [FULL if i % 2 == 0 else LINEAR for i in range(count)]
    if len(types) != count or set(types) - {LINEAR, FULL}:
        theirs.refuse("layer_types", f"must be {count} of {LINEAR!r} and {FULL!r}")
    return types


def decay_factor(layer: int, count: int) -> float:
    """By which the slopes are scaled, from 1 at the first layer to almost 0 at the last."""
    return 1 - layer / (count - 1 + 1e-5) + 1e-5


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    types, H = types_of(theirs), theirs["num_attention_heads"]
    K = theirs["head_dim"] or theirs["hidden_size"] // H
    full = "attn" if theirs["sliding_window"] is None else "swa"
    softmax = {
        "residual_weight": float(theirs["full_attn_alpha_factor"]),
        "n_heads": H,
        "head_dim": K,
        "n_kv_heads": theirs["num_key_value_heads"],
        "rope_base": theirs.rope(ROPE_BASE)[0],
    }
    layers: dict[str, dict[str, Any]] = {
        "lightning": {
            "residual_weight": float(theirs["linear_attn_alpha_factor"]),
            "n_heads": H,
            "head_dim": K,
            "norm_eps": NORM_EPS,
        },
        full: softmax if full == "attn" else softmax | {"window": theirs["sliding_window"]},
        "moe": {
            "residual_weight": float(theirs["mlp_alpha_factor"]),
            "n_experts": theirs["num_local_experts"],
            "top_k": theirs["num_experts_per_tok"],
            "hidden": theirs["intermediate_size"],
            "scale": float(theirs["mlp_beta_factor"]),
        },
    }
    mixers = [
        full if name == FULL else f"lightning{{decay_factor={decay_factor(i, len(types))}}}"
        for i, name in enumerate(types)
    ]
    return ModelConfig(
        pattern=pattern(f"{mixer} moe" for mixer in mixers),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        layers={name: {"norm": "stream", **options} for name, options in layers.items()},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["lightning", "attn", "swa"], ["moe"])
    linear = alike(NAME, [_undecayed(mixer) for mixer, _ in each if isinstance(mixer, LightningConfig)])
    full = alike(NAME, [mixer for mixer, _ in each if isinstance(mixer, AttentionConfig)])
    moe = kind(NAME, each, MoEConfig)
    assert moe is not None
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": moe.width(model.d_model),
        "num_hidden_layers": len(each),
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "num_experts_per_tok": moe.top_k,
        "num_local_experts": moe.n_experts,
        "layer_types": [LINEAR if isinstance(mixer, LightningConfig) else FULL for mixer, _ in each],
        "mlp_alpha_factor": moe.residual_weight,
        "mlp_beta_factor": moe.scale,
    }
    if isinstance(linear, LightningConfig):
        H, K = linear.heads(model.d_model)
        written |= {"num_attention_heads": H, "head_dim": K, "num_key_value_heads": H}
        written["linear_attn_alpha_factor"] = linear.residual_weight
    if isinstance(full, AttentionConfig):
        H, G, K = full.heads(model.d_model)
        written |= {"num_attention_heads": H, "head_dim": K, "num_key_value_heads": G, "sliding_window": full.window}
        written |= {"rope_parameters": rope_parameters(full.rope_base), "full_attn_alpha_factor": full.residual_weight}
    return written


def _undecayed(layer: LightningConfig) -> LayerConfig:
    return dataclasses.replace(layer, decay_factor=1.0)


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs)
    model, X = read(theirs), theirs["num_local_experts"]
    for i, sublayer in enumerate(model.sublayers()[::2]):
        ours, after, its, mixer = f"layers.{2 * i}", f"layers.{2 * i + 1}", f"model.layers.{i}", sublayer[0].layer
        yield same(f"norms.{2 * i}.weight", f"{its}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.post_attention_layernorm.weight")
        if isinstance(mixer, AttentionConfig):
            beta = times(theirs["full_attn_beta_factor"])
            yield from attention(ours, f"{its}.self_attn", mixer, model.d_model, out_via=beta)
        else:
            assert isinstance(mixer, LightningConfig)
            yield from lightning(ours, f"{its}.self_attn", mixer, model.d_model, theirs)
        moe, in_memory = f"{its}.block_sparse_moe", (".block_sparse_moe.", ".mlp.")
        yield also(same(f"{after}.router.weight", f"{moe}.gate.weight"), in_memory)
        yield absent(NAME, f"{after}.choice_bias", torch.zeros(X))
        for rule in gated_experts(after, f"{moe}.experts", X, names=("w1", "w3", "w2")):
            yield also(rule, in_memory)


def lightning(ours: str, its: str, config: LightningConfig, d_model: int, theirs: TheirConfig) -> Iterator[Rule]:
    """Theirs keeps the query, key and value of one head together, and what its blocks multiply by."""
    H, K = config.heads(d_model)
    by_kind = Via(
        lambda t: t.unflatten(0, (H, 3, K)).transpose(0, 1).flatten(0, 2),
        lambda t: t.unflatten(0, (3, H, K)).transpose(0, 1).flatten(0, 2),
    )
    yield same(f"{ours}.qkv_proj.weight", f"{its}.qkv_proj.weight", by_kind)
    yield same(f"{ours}.gate_proj.weight", f"{its}.output_gate.weight")
    yield same(f"{ours}.norm.weight", f"{its}.norm.weight")
    yield same(f"{ours}.out_proj.weight", f"{its}.out_proj.weight", times(theirs["linear_attn_beta_factor"]))
    names = tuple(f"{its}.{name}" for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay"))
    for number, name in enumerate(names):
        yield derived(name, lambda number=number: decays(H, config.decay_factor, theirs["block_size"])[number])


def decays(n_heads: int, factor: float, block: int) -> tuple[Tensor, ...]:
    """(slopes [H,1,1], and what queries [H,B,1], keys [H,B,1] and scores [1,H,B,B] of a block are multiplied by)."""
    slope_H11 = (2 ** (-8 * (torch.arange(n_heads) + 1) / n_heads) * factor)[:, None, None]
    position_B = torch.arange(block) + 1
    age_BB = position_B[:, None] - position_B
    scores = torch.where(age_BB >= 0, -slope_H11 * age_BB, -torch.inf).exp()[None]
    return (
        slope_H11,
        (-slope_H11 * position_B[:, None]).exp(),
        (-slope_H11 * (block - position_B[:, None])).exp(),
        scores,
    )


FAMILY = Family(
    name=NAME,
    architecture="MiniMaxForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
