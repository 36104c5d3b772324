"""Bamba (IBM 2024): Mamba-2 and, at given layers, attention with half of its channels rotated; each with an MLP."""

from collections.abc import Iterator
from typing import Any

from ...mixers.attn import AttentionConfig
from ...mixers.mamba2 import Mamba2Config
from ...mixers.mlp import MLPConfig
from ...model_config import ModelConfig
from ...pattern import parse_pattern
from ..common import around, attention, even_rotation, gated_mlp
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
from ..rules import Rule, same
from .mamba2 import PREFIXED_DEFAULTS, mixer_rules, prefixed_options, written_prefixed

DEFAULTS = PREFIXED_DEFAULTS | {
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attn_layer_indices": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
ROTATED = 0.5


def mixers(theirs: TheirConfig) -> list[str]:
    """The mixer of every layer."""
    attn = theirs["attn_layer_indices"] or ()
    return ["attn" if i in attn else "mamba2" for i in range(theirs["num_hidden_layers"])]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    base, fraction = theirs.rope(fraction=ROTATED)
    attn = attention_options(theirs)
    even_rotation(theirs, attn["head_dim"], fraction)
    bias = theirs["attention_bias"]
    return ModelConfig(
        pattern=str(parse_pattern(" ".join(f"{mixer} mlp" for mixer in mixers(theirs)))),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        layers={
            "mamba2": prefixed_options(theirs),
            "attn": attn | {"rope_base": base, "rope_fraction": fraction, "bias": bias, "out_bias": bias},
            "mlp": {"hidden": theirs["intermediate_size"], "bias": theirs["mlp_bias"]},
        },
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks("bamba", model, ["mamba2", "attn"], ["mlp"])
    mamba2, attn = kind("bamba", each, Mamba2Config), kind("bamba", each, AttentionConfig)
    mlp = kind("bamba", each, MLPConfig)
    assert mlp is not None
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": mlp.width(model.d_model),
        "num_hidden_layers": len(each),
        "attn_layer_indices": [i for i, (mixer, _) in enumerate(each) if mixer.name == "attn"],
        "rms_norm_eps": model.norm_eps,
        "attention_bias": attn.bias if attn else False,
        "mlp_bias": mlp.bias,
        "rope_parameters": rope_parameters(attn.rope_base, attn.rope_fraction) if attn else None,
        "tie_word_embeddings": model.tie_embeddings,
        **written_attention(attn, model.d_model),
        **written_prefixed(mamba2, model.d_model),
    }


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_layernorm")
    bias = theirs["attention_bias"]
    attn = attention_config(theirs, bias=bias, out_bias=bias)
    for i, mixer in enumerate(mixers(theirs)):
        layer, ours, mlp = f"model.layers.{i}", f"layers.{2 * i}", f"layers.{2 * i + 1}"
        yield same(f"norms.{2 * i}.weight", f"{layer}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{layer}.pre_ff_layernorm.weight")
        if mixer == "attn":
            yield from attention(ours, f"{layer}.self_attn", attn, theirs["hidden_size"])
        else:
            into, conv = theirs["mamba_proj_bias"], theirs["mamba_conv_bias"]
            yield from mixer_rules(ours, f"{layer}.mamba", bias=into, conv_bias=conv)
        yield from gated_mlp(mlp, f"{layer}.feed_forward", theirs["intermediate_size"], bias=theirs["mlp_bias"])


FAMILY = Family(
    name="bamba",
    architecture="BambaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
