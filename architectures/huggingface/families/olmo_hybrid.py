"""OLMo-Hybrid: gated DeltaNet under norms before the layers, and attention under norms after them, each with an MLP."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from ...mixers.attn import AttentionConfig
from ...mixers.gated_deltanet import GatedDeltaNetConfig
from ...mixers.mlp import MLPConfig
from ...model_config import ModelConfig
from ..common import NO_TOKENS, also, around, attention, convolutions, gated_mlp, pattern
from ..config import TheirConfig, alike, blocks, kind, rope_parameters
from ..family import Family
from ..rules import Rule, same, stacked

NAME = "olmo_hybrid"
DEFAULTS = {
    "vocab_size": 100352,
    "hidden_size": 3840,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 30,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "layer_types": None,
    "linear_num_key_heads": None,
    "linear_num_value_heads": None,
    "linear_key_head_dim": None,
    "linear_value_head_dim": None,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
}
LINEAR, FULL = "linear_attention", "full_attention"
NORM_EPS = 1e-5
"""Of the DeltaNet's output norm, whatever the configuration says."""


def types_of(theirs: TheirConfig) -> list[str]:
    """LINEAR or FULL for every layer."""
    count = theirs["num_hidden_layers"]
    default = [FULL if i % 4 == 3 else LINEAR for i in range(count)]
    if FULL not in default:
        default[-1] = FULL
    types = theirs["layer_types"] or default
    if len(types) != count or set(types) != {LINEAR, FULL}:
        theirs.refuse("layer_types", f"must be {count} of both {LINEAR!r} and {FULL!r}")
    return types


def heads_of(theirs: TheirConfig) -> tuple[int, int, int, int]:
    """(value heads, key heads, width of a key, of a value) of the DeltaNet."""
    H = theirs["linear_num_value_heads"] or theirs["num_attention_heads"]
    G = theirs["linear_num_key_heads"] or theirs["num_attention_heads"]
    K = theirs["linear_key_head_dim"] or int(0.75 * theirs["hidden_size"] / G)
    return H, G, K, theirs["linear_value_head_dim"] or 2 * K


def rope_base(theirs: TheirConfig) -> float | None:
    """None where the base is given as null: the released models have been rid of their rotation so."""
    given = theirs.given
    parameters = given.get("rope_scaling") or given.get("rope_parameters") or {}
    where = parameters if "rope_theta" in parameters else given
    return None if "rope_theta" in where and where["rope_theta"] is None else theirs.rope()[0]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    (H, G, K, V), base, eps = heads_of(theirs), rope_base(theirs), theirs["rms_norm_eps"]
    positions = {"rope": False} if base is None else {"rope_base": base}
    of_type = {LINEAR: "gated_deltanet mlp", FULL: "attn mlp{norm=post}"}
    return ModelConfig(
        pattern=pattern(of_type[name] for name in types_of(theirs)),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=eps,
        layers={
            "gated_deltanet": {
                "n_heads": H,
                "head_dim": V,
                "expand": H * V / theirs["hidden_size"],
                "n_key_heads": G,
                "d_state": K,
                "d_conv": theirs["linear_conv_kernel_dim"],
                "negative_eigenvalues": theirs["linear_allow_neg_eigval"],
                "norm_eps": NORM_EPS,
            },
            "attn": {
                "norm": "post",
                "n_heads": theirs["num_attention_heads"],
                "head_dim": theirs["hidden_size"] // theirs["num_attention_heads"],
                "n_kv_heads": theirs["num_key_value_heads"] or theirs["num_attention_heads"],
                "qk_norm": True,
                "qk_norm_over": "all",
                "norm_eps": eps,
                "bias": theirs["attention_bias"],
                "out_bias": theirs["attention_bias"],
                **positions,
            },
            "mlp": {"hidden": theirs["intermediate_size"]},
        },
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["gated_deltanet", "attn"], ["mlp"])
    delta, full = kind(NAME, each, GatedDeltaNetConfig), kind(NAME, each, AttentionConfig)
    mlp = alike(NAME, [dataclasses.replace(mlp, norm="pre") for _, mlp in each])
    assert isinstance(mlp, MLPConfig)
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": mlp.width(model.d_model),
        "num_hidden_layers": len(each),
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "layer_types": [FULL if isinstance(mixer, AttentionConfig) else LINEAR for mixer, _ in each],
        **NO_TOKENS,
    }
    if delta is not None:
        H, G, K, V = delta.heads(model.d_model)
        written |= {"linear_num_value_heads": H, "linear_num_key_heads": G}
        written |= {"linear_key_head_dim": K, "linear_value_head_dim": V, "linear_conv_kernel_dim": delta.d_conv}
        written["linear_allow_neg_eigval"] = delta.negative_eigenvalues
    if full is not None:
        H, G, _ = full.heads(model.d_model)
        written |= {"num_attention_heads": H, "num_key_value_heads": G, "attention_bias": full.bias}
        written["rope_parameters"] = rope_parameters(full.rope_base) | ({} if full.rope else {"rope_theta": None})
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs)
    model = read(theirs)
    for i, name in enumerate(types_of(theirs)):
        ours, its = f"layers.{2 * i}", f"model.layers.{i}"
        if name == LINEAR:
            norms = f"{its}.attention_layer_norm.weight", f"{its}.feedforward_layer_norm.weight"
            in_memory = (
                ("attention_layer_norm", "input_layernorm"),
                ("feedforward_layer_norm", "post_attention_layernorm"),
            )
            yield from delta_net(ours, f"{its}.linear_attn", theirs)
        else:
            norms = f"{its}.post_attention_layernorm.weight", f"{its}.post_feedforward_layernorm.weight"
            in_memory = (("post_attention_layernorm", "feedforward_layer_norm"),)  # what transformers saves it as
            layer = model.sublayers()[2 * i][0].layer
            assert isinstance(layer, AttentionConfig)
            yield from attention(ours, f"{its}.self_attn", layer, model.d_model)
        yield also(same(f"norms.{2 * i}.weight", norms[0]), *in_memory)
        yield also(same(f"norms.{2 * i + 1}.weight", norms[1]), *in_memory)
        yield from gated_mlp(f"layers.{2 * i + 1}", f"{its}.mlp", theirs["intermediate_size"])


def delta_net(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    H, G, K, V = heads_of(theirs)
    widths = {"q": G * K, "k": G * K, "v": H * V}
    projections = widths | {"g": H * V, "b": H, "a": H}
    yield stacked(f"{ours}.in_proj.weight", {f"{its}.{name}_proj.weight": width for name, width in projections.items()})
    yield convolutions(f"{ours}.conv.weight", its, widths)
    for mine, name in (("norm_weight", "o_norm.weight"), ("out_proj.weight", "o_proj.weight")):
        yield same(f"{ours}.{mine}", f"{its}.{name}")
    for name in ("A_log", "dt_bias"):
        yield same(f"{ours}.{name}", f"{its}.{name}")


FAMILY = Family(
    name=NAME,
    architecture="OlmoHybridForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
