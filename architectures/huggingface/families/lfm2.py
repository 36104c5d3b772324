"""LFM2: gated short convolutions and attention, each with an MLP."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...layer import LayerConfig
from ...mixers.attn import AttentionConfig
from ...mixers.conv import ConvConfig
from ...mixers.mlp import MLPConfig
from ...model_config import ModelConfig
from ..common import around, attention, gated_mlp, pattern
from ..config import TheirConfig, blocks, kind, rope_parameters
from ..family import Family
from ..rules import Rule, convolution, same

NAME = "lfm2"
AROUND = {
    "vocab_size": 65536,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "conv_bias": False,
    "conv_L_cache": 3,
    "num_hidden_layers": 32,
    "layer_types": None,
}
"""What LFM2 and its mixture of experts have in common."""
DEFAULTS = AROUND | {
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "full_attn_idxs": None,
}
CONV, FULL = "conv", "full_attention"
NAMES = ("w1", "w3", "w2")
"""Gate, up and down."""
ROPE_BASE = 1e6


def types_of(theirs: TheirConfig) -> list[str]:
    """CONV or FULL for every layer."""
    count = theirs["num_hidden_layers"]
    indices = theirs.values.get("full_attn_idxs")
    default = [FULL if indices is None or i in indices else CONV for i in range(count)]
    types = theirs["layer_types"] or default
    if len(types) != count or set(types) - {CONV, FULL}:
        theirs.refuse("layer_types", f"must be {count} of {CONV!r} and {FULL!r}")
    return types


def width(theirs: TheirConfig) -> int:
    """Of the MLPs: two thirds of what the configuration says, rounded up, unless it says that it is as it stands."""
    hidden = theirs.given.get("block_ff_dim", theirs["intermediate_size"])
    if not theirs["block_auto_adjust_ff_dim"]:
        return hidden
    hidden = int(theirs["block_ffn_dim_multiplier"] * int(2 * hidden / 3))
    multiple = theirs["block_multiple_of"]
    return -(-hidden // multiple) * multiple


def tied(theirs: TheirConfig) -> bool:
    """Older configurations have another name for it."""
    return theirs.given.get("tie_embedding", theirs["tie_word_embeddings"])


def mixer_options(theirs: TheirConfig) -> dict[str, dict[str, Any]]:
    """Options of convolutions and attention."""
    H = theirs["num_attention_heads"]
    return {
        "conv": {"d_conv": theirs["conv_L_cache"], "bias": theirs["conv_bias"]},
        "attn": {
            "n_heads": H,
            "head_dim": theirs["hidden_size"] // H,
            "n_kv_heads": theirs["num_key_value_heads"],
            "rope_base": theirs.rope(ROPE_BASE)[0],
            "qk_norm": True,
            "norm_eps": theirs["norm_eps"],
        },
    }


def read(theirs: TheirConfig) -> ModelConfig:
    return ModelConfig(
        pattern=pattern("conv mlp" if name == CONV else "attn mlp" for name in types_of(theirs)),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=tied(theirs),
        norm_eps=theirs["norm_eps"],
        layers=mixer_options(theirs) | {"mlp": {"hidden": width(theirs)}},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["conv", "attn"], ["mlp"])
    mlp = kind(NAME, each, MLPConfig)
    assert mlp is not None
    sizes = {"intermediate_size": mlp.width(model.d_model), "block_auto_adjust_ff_dim": False}
    return written_mixers(NAME, model, each) | sizes


def written_mixers(family: str, model: ModelConfig, each: Sequence[Sequence[LayerConfig]]) -> dict[str, Any]:
    """All keys but those of MLPs and experts."""
    pairs = [tuple(block) for block in each]
    conv, full = kind(family, pairs, ConvConfig), kind(family, pairs, AttentionConfig)
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": len(each),
        "norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "layer_types": [CONV if isinstance(mixer, ConvConfig) else FULL for mixer, _ in each],
    }
    if conv is not None:
        written |= {"conv_L_cache": conv.d_conv, "conv_bias": conv.bias}
    if full is not None:
        H, G, _ = full.heads(model.d_model)
        written |= {"num_attention_heads": H, "num_key_value_heads": G}
        written["rope_parameters"] = rope_parameters(full.rope_base)
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from mixer_tensors(theirs, read(theirs))
    for i in range(theirs["num_hidden_layers"]):
        yield from gated_mlp(f"layers.{2 * i + 1}", f"model.layers.{i}.feed_forward", width(theirs), names=NAMES)


def mixer_tensors(theirs: TheirConfig, model: ModelConfig) -> Iterator[Rule]:
    """All but the MLPs and experts."""
    yield from around(theirs, "model.embedding_norm", tied=tied(theirs))
    for i, sublayer in enumerate(model.sublayers()[::2]):
        ours, its, layer = f"layers.{2 * i}", f"model.layers.{i}", sublayer[0].layer
        yield same(f"norms.{2 * i}.weight", f"{its}.operator_norm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.ffn_norm.weight")
        if isinstance(layer, AttentionConfig):
            norms = ("q_layernorm", "k_layernorm")
            yield from attention(ours, f"{its}.self_attn", layer, model.d_model, out="out_proj", norms=norms)
            continue
        yield from convolution(f"{ours}.conv", f"{its}.conv.conv", theirs["conv_bias"])
        for end in ("weight", "bias") if theirs["conv_bias"] else ("weight",):
            yield same(f"{ours}.in_proj.{end}", f"{its}.conv.in_proj.{end}")
            yield same(f"{ours}.out_proj.{end}", f"{its}.conv.out_proj.{end}")


FAMILY = Family(
    name=NAME,
    architecture="Lfm2ForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
