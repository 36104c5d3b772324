"""Qwen3-Next: gated DeltaNet and gated attention, each with experts, or with an MLP where the configuration says so."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...mixers.attn import AttentionConfig
from ...mixers.gated_deltanet import GatedDeltaNetConfig
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ..common import around, even_rotation, gated_experts, gated_mlp, pattern
from ..config import TheirConfig, blocks, kind, rope_parameters
from ..family import Family
from ..rules import PLUS_ONE, Form, Rule, absent, convolution, same

NAME = "qwen3_next"
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "norm_topk_prob": True,
    "mlp_only_layers": None,
    "layer_types": None,
}
LINEAR, FULL = "linear_attention", "full_attention"


def layers_of(theirs: TheirConfig) -> list[tuple[str, str]]:
    """(mixer, what follows it) of every layer, by our names."""
    count = theirs["num_hidden_layers"]
    period = theirs.given.get("full_attention_interval", 4)
    types = theirs["layer_types"] or [FULL if i % period == period - 1 else LINEAR for i in range(count)]
    known = {LINEAR: "gated_deltanet", FULL: "attn"}
    if len(types) != count or set(types) - set(known):
        theirs.refuse("layer_types", f"must be {count} of {LINEAR!r} and {FULL!r}")
    return [(known[name], "moe" if _has_experts(theirs, i) else "mlp") for i, name in enumerate(types)]


def _has_experts(theirs: TheirConfig, i: int) -> bool:
    dense = i in (theirs["mlp_only_layers"] or ()) or theirs["num_experts"] == 0
    return not dense and (i + 1) % theirs["decoder_sparse_step"] == 0


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    base, fraction = theirs.rope(fraction=0.25)
    even_rotation(theirs, theirs["head_dim"], fraction)
    each, eps = layers_of(theirs), theirs["rms_norm_eps"]
    layers: dict[str, dict[str, Any]] = {
        "gated_deltanet": {
            "n_heads": theirs["linear_num_value_heads"],
            "head_dim": theirs["linear_value_head_dim"],
            "expand": theirs["linear_num_value_heads"] * theirs["linear_value_head_dim"] / theirs["hidden_size"],
            "n_key_heads": theirs["linear_num_key_heads"],
            "d_state": theirs["linear_key_head_dim"],
            "d_conv": theirs["linear_conv_kernel_dim"],
            "norm_eps": eps,
        },
        "attn": {
            "n_heads": theirs["num_attention_heads"],
            "head_dim": theirs["head_dim"],
            "n_kv_heads": theirs["num_key_value_heads"],
            "rope_base": base,
            "rope_fraction": fraction,
            "qk_norm": True,
            "norm_eps": eps,
            "output_gate": True,
            "bias": theirs["attention_bias"],
            "out_bias": theirs["attention_bias"],
        },
        "mlp": {"hidden": theirs["intermediate_size"]},
        "moe": {
            "n_experts": theirs["num_experts"],
            "top_k": theirs["num_experts_per_tok"],
            "hidden": theirs["moe_intermediate_size"],
            "n_shared": 1,
            "shared_hidden": theirs["shared_expert_intermediate_size"],
            "shared_gate": True,
            "renormalize": theirs["norm_topk_prob"],
        },
    }
    used = {name for pair in each for name in pair}
    return ModelConfig(
        pattern=pattern(f"{mixer} {after}" for mixer, after in each),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=eps,
        layers={name: options for name, options in layers.items() if name in used},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["gated_deltanet", "attn"], ["mlp", "moe"])
    delta, full = kind(NAME, each, GatedDeltaNetConfig), kind(NAME, each, AttentionConfig)
    mlp, moe = kind(NAME, each, MLPConfig), kind(NAME, each, MoEConfig)
    D = model.d_model
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": D,
        "num_hidden_layers": len(each),
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "layer_types": [FULL if isinstance(mixer, AttentionConfig) else LINEAR for mixer, _ in each],
        "mlp_only_layers": [i for i, (_, after) in enumerate(each) if isinstance(after, MLPConfig)],
    }
    if delta is not None:
        H, G, K, V = delta.heads(D)
        written |= {"linear_num_value_heads": H, "linear_num_key_heads": G, "linear_conv_kernel_dim": delta.d_conv}
        written |= {"linear_value_head_dim": V, "linear_key_head_dim": K}
    if full is not None:
        H, G, K = full.heads(D)
        written |= {"num_attention_heads": H, "num_key_value_heads": G, "head_dim": K, "attention_bias": full.bias}
        written["rope_parameters"] = rope_parameters(full.rope_base, full.rotated_channels(K) / K)
    if mlp is not None:
        written["intermediate_size"] = mlp.width(D)
    if moe is not None:
        written |= {"num_experts": moe.n_experts, "num_experts_per_tok": moe.top_k, "norm_topk_prob": moe.renormalize}
        written |= {"moe_intermediate_size": moe.width(D), "shared_expert_intermediate_size": moe.shared_width(D)}
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, via=PLUS_ONE)
    for i, (mixer, after) in enumerate(layers_of(theirs)):
        its, first, second = f"model.layers.{i}", f"layers.{2 * i}", f"layers.{2 * i + 1}"
        yield same(f"norms.{2 * i}.weight", f"{its}.input_layernorm.weight", PLUS_ONE)
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.post_attention_layernorm.weight", PLUS_ONE)
        mixer_rules = delta_net if mixer == "gated_deltanet" else gated_attention
        yield from mixer_rules(first, f"{its}.linear_attn" if mixer == "gated_deltanet" else f"{its}.self_attn", theirs)
        if after == "mlp":
            yield from gated_mlp(second, f"{its}.mlp", theirs["intermediate_size"])
        else:
            yield from experts_of(second, f"{its}.mlp", theirs)


def delta_net(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """Theirs keeps the rows of one key head together: its query, its key, and the values and gates that it serves."""
    G, r = theirs["linear_num_key_heads"], theirs["linear_num_value_heads"] // theirs["linear_num_key_heads"]
    K, V = theirs["linear_key_head_dim"], theirs["linear_value_head_dim"]
    n_qkvz, n_ba = 2 * G * (K + r * V), 2 * G * r
    q, k, v, z = torch.arange(n_qkvz).view(G, -1).split([K, K, r * V, r * V], dim=1)
    b, a = (n_qkvz + torch.arange(n_ba)).view(G, -1).split([r, r], dim=1)
    order = torch.cat([rows.flatten() for rows in (q, k, v, z, b, a)])
    back = order.argsort()
    form = Form(
        (f"{its}.in_proj_qkvz.weight", f"{its}.in_proj_ba.weight"),
        lambda ts: [torch.cat(list(ts))[order]],
        lambda ts: ts[0][back].split([n_qkvz, n_ba]),
    )
    yield Rule((f"{ours}.in_proj.weight",), (form,))
    yield from convolution(f"{ours}.conv", f"{its}.conv1d", bias=False)
    for mine, name in (("norm_weight", "norm.weight"), ("out_proj.weight", "out_proj.weight")):
        yield same(f"{ours}.{mine}", f"{its}.{name}")
    for name in ("A_log", "dt_bias"):
        yield same(f"{ours}.{name}", f"{its}.{name}")


def gated_attention(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """Their queries' projection holds each head's gate after its query."""
    H, G, K = theirs["num_attention_heads"], theirs["num_key_value_heads"], theirs["head_dim"]

    def read_heads(ts: Sequence[Tensor]) -> list[Tensor]:
        q, gate = (rows.flatten(0, 1) for rows in ts[0].unflatten(0, (H, 2, K)).unbind(1))
        return [torch.cat([q, ts[1], ts[2]]), gate]

    def write_heads(ts: Sequence[Tensor]) -> list[Tensor]:
        q, k, v = ts[0].split([H * K, G * K, G * K])
        both = torch.stack([rows.unflatten(0, (H, K)) for rows in (q, ts[1])], dim=1)
        return [both.flatten(0, 2), k, v]

    for end in ("weight", "bias") if theirs["attention_bias"] else ("weight",):
        names = tuple(f"{its}.{name}_proj.{end}" for name in "qkv")
        yield Rule((f"{ours}.qkv_proj.{end}", f"{ours}.gate_proj.{end}"), (Form(names, read_heads, write_heads),))
        yield same(f"{ours}.out_proj.{end}", f"{its}.o_proj.{end}")
    for name in ("q_norm", "k_norm"):
        yield same(f"{ours}.{name}.weight", f"{its}.{name}.weight", PLUS_ONE)


def experts_of(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    X = theirs["num_experts"]
    yield same(f"{ours}.router.weight", f"{its}.gate.weight")
    yield absent(NAME, f"{ours}.choice_bias", torch.zeros(X))
    yield from gated_experts(ours, f"{its}.experts", X)
    yield from gated_mlp(f"{ours}.shared", f"{its}.shared_expert", theirs["shared_expert_intermediate_size"])
    yield same(f"{ours}.shared_gate.weight", f"{its}.shared_expert_gate.weight")


FAMILY = Family(
    name=NAME,
    architecture="Qwen3NextForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight", r"mtp\..*"],
)
