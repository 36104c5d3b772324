"""Kimi Linear: Kimi Delta Attention and latent attention without positions, each with experts or, at first, an MLP."""

from collections.abc import Iterator
from typing import Any

from ...mixers.kda import KDAConfig
from ...mixers.mla import MLAConfig
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ..common import NO_TOKENS, also, around, convolutions, gated_experts, gated_mlp, named, pattern
from ..config import TheirConfig, blocks, kind
from ..family import Family
from ..rules import Rule, reshaped, same, stacked

NAME = "kimi_linear"
DEFAULTS = {
    "vocab_size": 163840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_shared_experts": 1,
    "routed_scaling_factor": 2.446,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "num_expert_group": 1,
    "topk_group": 1,
    "num_experts_per_token": 8,
    "moe_renormalize": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "num_experts": 256,
    "linear_head_dim": 128,
    "linear_num_heads": 32,
    "linear_conv_kernel_dim": 4,
    "layer_types": None,
    "mlp_layer_types": None,
}
OTHER_NAMES = {
    "num_shared_experts": "n_shared_experts",
    "num_expert_group": "n_group",
    "num_experts_per_token": "num_experts_per_tok",
    "moe_renormalize": "norm_topk_prob",
    "num_experts": "num_local_experts",
}
LINEAR, FULL = "linear_attention", "full_attention"
DENSE, SPARSE = "dense", "sparse"
LATENT_NORM_EPS = 1e-6
"""Of the latents' norms, whatever the configuration says."""


def value(theirs: TheirConfig, name: str) -> Any:
    """A key that has two names."""
    return named(theirs, name, OTHER_NAMES[name])


def linear_value(theirs: TheirConfig, name: str, released: str) -> Any:
    """A key of the linear layers, which released configurations keep in a dictionary of their own."""
    return (theirs.given.get("linear_attn_config") or {}).get(released, theirs[name])


def layers_of(theirs: TheirConfig) -> list[tuple[str, str]]:
    """(mixer, what follows it) of every layer, by our names."""
    count, released = theirs["num_hidden_layers"], theirs.given.get("linear_attn_config") or {}
    types = [FULL if i and i % 4 == 0 else LINEAR for i in range(count)]
    if "full_attn_layers" in released and "kda_layers" in released:  # counted from 1
        types = [FULL if i + 1 in released["full_attn_layers"] else LINEAR for i in range(count)]
    types = theirs["layer_types"] or types
    if len(types) != count or set(types) - {LINEAR, FULL}:
        theirs.refuse("layer_types", f"must be {count} of {LINEAR!r} and {FULL!r}")
    n_dense = theirs.given.get("first_k_dense_replace", 1)
    after = theirs["mlp_layer_types"] or [DENSE if i < n_dense else SPARSE for i in range(count)]
    if len(after) != count or set(after) - {DENSE, SPARSE}:
        theirs.refuse("mlp_layer_types", f"must be {count} of {DENSE!r} and {SPARSE!r}")
    return [
        ("mla" if mixer == FULL else "kda", "mlp" if second == DENSE else "moe")
        for mixer, second in zip(types, after, strict=True)
    ]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    theirs.only("tie_word_embeddings", False)
    theirs.only("num_key_value_heads", theirs["num_attention_heads"], None)
    eps = theirs["rms_norm_eps"]
    each = layers_of(theirs)
    layers: dict[str, dict[str, Any]] = {
        "kda": {
            "n_heads": linear_value(theirs, "linear_num_heads", "num_heads"),
            "head_dim": linear_value(theirs, "linear_head_dim", "head_dim"),
            "d_conv": linear_value(theirs, "linear_conv_kernel_dim", "short_conv_kernel_size"),
            "norm_eps": eps,
        },
        "mla": {
            "n_heads": theirs["num_attention_heads"],
            "head_dim": theirs["qk_nope_head_dim"],
            "value_dim": theirs["v_head_dim"],
            "q_rank": theirs["q_lora_rank"],
            "kv_rank": theirs["kv_lora_rank"],
            "rope_dim": theirs["qk_rope_head_dim"],
            "rope": False,
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


def expert_options(theirs: TheirConfig) -> dict[str, Any]:
    """The experts of Kimi Linear and of Ling."""
    return {
        "n_experts": value(theirs, "num_experts"),
        "top_k": value(theirs, "num_experts_per_token"),
        "hidden": theirs["moe_intermediate_size"],
        "n_shared": value(theirs, "num_shared_experts"),
        "score": "sigmoid",
        "renormalize": value(theirs, "moe_renormalize"),
        "scale": float(theirs["routed_scaling_factor"]),
        "n_groups": value(theirs, "num_expert_group"),
        "top_groups": theirs["topk_group"],
        "balance": "bias",
    }


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
        **NO_TOKENS,
    }
    if linear is not None:
        H, K = linear.heads(model.d_model)
        written |= {"linear_num_heads": H, "linear_head_dim": K, "linear_conv_kernel_dim": linear.d_conv}
    if full is not None:
        H, K, V, C, R = full.sizes(model.d_model)
        written |= {"num_attention_heads": H, "num_key_value_heads": H, "qk_nope_head_dim": K, "v_head_dim": V}
        written |= {"kv_lora_rank": C, "q_lora_rank": full.q_rank, "qk_rope_head_dim": R, "attention_bias": full.bias}
    if mlp is not None:
        written["intermediate_size"] = mlp.width(model.d_model)
    return written if moe is None else written | written_experts(moe, model.d_model)


def written_experts(moe: MoEConfig, d_model: int) -> dict[str, Any]:
    """The inverse of ``expert_options``."""
    return {
        "num_experts": moe.n_experts,
        "num_experts_per_token": moe.top_k,
        "moe_intermediate_size": moe.width(d_model),
        "num_shared_experts": moe.n_shared,
        "moe_renormalize": moe.renormalize,
        "routed_scaling_factor": moe.scale,
        "num_expert_group": moe.n_groups,
        "topk_group": moe.top_groups,
    }


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs)
    for i, (mixer, after) in enumerate(layers_of(theirs)):
        first, second, its = f"layers.{2 * i}", f"layers.{2 * i + 1}", f"model.layers.{i}"
        yield same(f"norms.{2 * i}.weight", f"{its}.input_layernorm.weight")
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.post_attention_layernorm.weight")
        if mixer == "kda":
            yield from delta_attention(first, f"{its}.self_attn", theirs)
        else:
            yield from latent_attention(first, f"{its}.self_attn", theirs)
        if after == "mlp":
            for rule in gated_mlp(second, f"{its}.mlp", theirs["intermediate_size"]):
                yield also(rule, (".mlp.", ".block_sparse_moe."))  # what transformers saves it as
        else:
            for rule in experts_of(second, f"{its}.block_sparse_moe", theirs, ("w1", "w3", "w2")):
                yield also(rule, (".block_sparse_moe.", ".mlp."))


def delta_attention(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    H = linear_value(theirs, "linear_num_heads", "num_heads")
    K = linear_value(theirs, "linear_head_dim", "head_dim")
    forget = ((".f_", ".forget_gate.f_"), (".A_log", ".forget_gate.A_log"), (".dt_bias", ".forget_gate.dt_bias"))
    rows = {"q_proj": H * K, "k_proj": H * K, "v_proj": H * K, "b_proj": H, "f_a_proj": K, "g_a_proj": K}
    yield also(stacked(f"{ours}.in_proj.weight", {f"{its}.{n}.weight": size for n, size in rows.items()}), *forget)
    yield convolutions(f"{ours}.conv.weight", its, {"q": H * K, "k": H * K, "v": H * K})
    yield also(same(f"{ours}.decay_proj.weight", f"{its}.f_b_proj.weight"), *forget)
    yield also(same(f"{ours}.decay_bias", f"{its}.dt_bias"), *forget)
    yield also(same(f"{ours}.A_log", f"{its}.A_log", reshaped((H,), (1, 1, H, 1))), *forget)
    for mine, name in (("gate_proj", "g_b_proj"), ("norm", "o_norm"), ("out_proj", "o_proj")):
        yield same(f"{ours}.{mine}.weight", f"{its}.{name}.weight")


def latent_attention(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    names = {"latent_norm": "kv_a_layernorm", "expand_proj": "kv_b_proj"}
    biased = {"latent_proj": "kv_a_proj_with_mqa", "out_proj": "o_proj"}
    if theirs["q_lora_rank"] is None:
        names["q_proj"] = "q_proj"
    else:
        names |= {"q_latent_norm": "q_a_layernorm", "q_proj": "q_b_proj"}
        biased["q_latent_proj"] = "q_a_proj"
    for mine, name in (names | biased).items():
        yield same(f"{ours}.{mine}.weight", f"{its}.{name}.weight")
    for mine, name in biased.items() if theirs["attention_bias"] else ():
        yield same(f"{ours}.{mine}.bias", f"{its}.{name}.bias")


def experts_of(
    ours: str,
    its: str,
    theirs: TheirConfig,
    names: tuple[str, str, str],
    choice_bias: str = "e_score_correction_bias",
) -> Iterator[Rule]:
    """The experts of Kimi Linear and of Ling."""
    yield same(f"{ours}.router.weight", f"{its}.gate.weight")
    yield same(f"{ours}.choice_bias", f"{its}.gate.{choice_bias}")
    yield from gated_experts(ours, f"{its}.experts", value(theirs, "num_experts"), names=names)
    width = theirs["moe_intermediate_size"] * value(theirs, "num_shared_experts")
    yield from gated_mlp(f"{ours}.shared", f"{its}.shared_experts", width)


FAMILY = Family(
    name=NAME,
    architecture="KimiLinearForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
)
