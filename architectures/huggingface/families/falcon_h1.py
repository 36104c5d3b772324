"""Falcon-H1 (TII 2025): attention and Mamba-2 side by side on one normed input, summed, then an MLP. Its constant
multipliers (muP) are folded into the weights where they meet a projection, and are options of the model elsewhere.
"""

from collections.abc import Iterator
from typing import Any

import torch

from ...errors import InvalidInput
from ...mixers.attn import AttentionConfig
from ...mixers.mamba2 import Mamba2Config
from ...mixers.mlp import MLPConfig
from ...model_config import ModelConfig
from ..common import around
from ..config import TheirConfig, attention_options, rope_parameters, written_attention
from ..family import Family
from ..rules import Rule, Via, same, stacked, times
from .mamba2 import PREFIXED_DEFAULTS, mixer_rules, prefixed_options, written_prefixed

DEFAULTS = PREFIXED_DEFAULTS | {
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "mamba_d_ssm": 1024,
    "mamba_norm_before_gate": True,
    "mamba_rms_norm": False,
    "projectors_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "lm_head_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "mlp_multipliers": None,
    "key_multiplier": 1.0,
    "attention_out_multiplier": 1.0,
    "attention_in_multiplier": 1.0,
    "ssm_multipliers": None,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
    "tie_word_embeddings": False,
}


def inner_width(theirs: TheirConfig) -> int:
    """Of Mamba-2."""
    return theirs["mamba_d_ssm"] or theirs["mamba_expand"] * theirs["hidden_size"]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    base, _ = theirs.rope()
    out_norm = "none"
    if theirs["mamba_rms_norm"]:
        out_norm = "before_gate" if theirs["mamba_norm_before_gate"] else "gated"
    attn = attention_options(theirs) | {"rope_base": base}
    attn |= {"bias": theirs["attention_bias"], "out_bias": theirs["attention_bias"]}
    mamba2 = prefixed_options(theirs, inner_width(theirs))
    return ModelConfig(
        pattern=f"(attn|mamba2 mlp)*{theirs['num_hidden_layers']}",
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        parallel="sum",
        embedding_scale=float(theirs["embedding_multiplier"]),
        logit_scale=float(theirs["lm_head_multiplier"]),
        layers={
            "mamba2": mamba2 | {"out_norm": out_norm, "out_bias": theirs["projectors_bias"]},
            "attn": attn,
            "mlp": {"hidden": theirs["intermediate_size"], "bias": theirs["mlp_bias"]},
        },
    )


def write(model: ModelConfig) -> dict[str, Any]:
    attn, mamba2, mlp, n_layers = _block(model)
    E, _, _ = mamba2.sizes(model.d_model)
    written = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": mlp.width(model.d_model),
        "num_hidden_layers": n_layers,
        "rms_norm_eps": model.norm_eps,
        "mamba_d_ssm": E,
        "mamba_rms_norm": mamba2.out_norm != "none",
        "mamba_norm_before_gate": mamba2.out_norm == "before_gate",
        "projectors_bias": mamba2.out_bias,
        "attention_bias": attn.bias,
        "mlp_bias": mlp.bias,
        "embedding_multiplier": model.embedding_scale,
        "lm_head_multiplier": model.logit_scale,
        "rope_parameters": rope_parameters(attn.rope_base),
        "tie_word_embeddings": model.tie_embeddings,
        **written_attention(attn, model.d_model),
        **written_prefixed(mamba2, model.d_model),
    }
    return written | {"mamba_expand": max(1, E // model.d_model)}


def _block(model: ModelConfig) -> tuple[AttentionConfig, Mamba2Config, MLPConfig, int]:
    """The layers of a block, and how many blocks there are; InvalidInput if the blocks are not these, or differ."""
    sublayers = model.sublayers()
    found = ["|".join(sorted(place.layer.name for place in sublayer)) for sublayer in sublayers]
    if found != ["attn|mamba2", "mlp"] * (len(found) // 2) or any(p.label for s in sublayers for p in s):
        raise InvalidInput("falcon_h1: its blocks are attn|mamba2, then mlp, with weights of their own")
    layers = {place.layer.name: place.layer for sublayer in sublayers[:2] for place in sublayer}
    for sublayer in sublayers:
        for place in sublayer:
            if place.layer != layers[place.layer.name]:
                raise InvalidInput(f"falcon_h1: {place.layer.name} layers differ in their options; its are all alike")
    attn, mamba2, mlp = layers["attn"], layers["mamba2"], layers["mlp"]
    assert isinstance(attn, AttentionConfig)
    assert isinstance(mamba2, Mamba2Config)
    assert isinstance(mlp, MLPConfig)
    return attn, mamba2, mlp, len(found) // 2


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_layernorm")
    for i in range(theirs["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield same(f"norms.{2 * i}.weight", f"{layer}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{layer}.pre_ff_layernorm.weight")
        yield from _attention(theirs, f"layers.{3 * i}", f"{layer}.self_attn")
        yield from _mamba2(theirs, f"layers.{3 * i + 1}", f"{layer}.mamba")
        yield from _mlp(theirs, f"layers.{3 * i + 2}", f"{layer}.feed_forward")


def _attention(theirs: TheirConfig, ours: str, name: str) -> Iterator[Rule]:
    """Its input's multiplier meets the matrices, not the biases; the keys' meets both."""
    options = attention_options(theirs)
    H, G, K = options["n_heads"], options["n_kv_heads"], options["head_dim"]
    into, key, out = (theirs[f"{which}_multiplier"] for which in ("attention_in", "key", "attention_out"))
    for end in ["weight"] + ["bias"] * theirs["attention_bias"]:
        factor = into if end == "weight" else 1.0
        q, k, v = (f"{name}.{which}_proj.{end}" for which in "qkv")
        vias = {q: times(factor), k: times(factor * key), v: times(factor)}
        yield stacked(f"{ours}.qkv_proj.{end}", {q: H * K, k: G * K, v: G * K}, vias)
        yield same(f"{ours}.out_proj.{end}", f"{name}.o_proj.{end}", times(out))


def _mamba2(theirs: TheirConfig, ours: str, name: str) -> Iterator[Rule]:
    """Multipliers of z, x, B, C and the step meet the rows of the input projection, its input's the matrix alone."""
    E, GN = inner_width(theirs), theirs["mamba_n_groups"] * theirs["mamba_d_state"]
    rows = _rows(theirs["ssm_multipliers"], [E, E, GN, GN, theirs["mamba_n_heads"]])
    yield from mixer_rules(
        ours,
        name,
        bias=theirs["mamba_proj_bias"],
        out_bias=theirs["projectors_bias"],
        conv_bias=theirs["mamba_conv_bias"],
        norm=theirs["mamba_rms_norm"],
        into=times(rows[:, None] * theirs["ssm_in_multiplier"]),
        into_bias=times(rows),
        out=times(theirs["ssm_out_multiplier"]),
    )


def _rows(multipliers: list[float] | None, sizes: list[int]) -> torch.Tensor:
    return torch.tensor(multipliers or [1.0] * len(sizes)).repeat_interleave(torch.tensor(sizes))


def _mlp(theirs: TheirConfig, ours: str, name: str) -> Iterator[Rule]:
    gate, down = theirs["mlp_multipliers"] or (1.0, 1.0)
    width = theirs["intermediate_size"]
    for end in ["weight"] + ["bias"] * theirs["mlp_bias"]:
        sizes = {f"{name}.gate_proj.{end}": width, f"{name}.up_proj.{end}": width}
        vias: dict[str, Via] = {f"{name}.gate_proj.{end}": times(gate)}
        yield stacked(f"{ours}.in_proj.{end}", sizes, vias)
        yield same(f"{ours}.out_proj.{end}", f"{name}.down_proj.{end}", times(down))


FAMILY = Family(
    name="falcon_h1",
    architecture="FalconH1ForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight", r".*\.mup_vector"],
)
