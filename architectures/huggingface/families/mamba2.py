"""Mamba-2 (Dao and Gu 2024): ``mamba2`` sublayers and nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...layer import Scalar
from ...mixers.mamba2 import Mamba2Config
from ...model_config import ModelConfig
from ..config import TheirConfig, alike, blocks
from ..family import Family
from ..rules import SAME, Rule, Via, convolution, same

DEFAULTS = {
    "vocab_size": 32768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_limit": (0.0, float("inf")),
    "tie_word_embeddings": False,
}


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_act", "silu", "swish")
    mixer = {
        "d_state": theirs["state_size"],
        "n_heads": theirs["num_heads"],
        "head_dim": theirs["head_dim"],
        "n_groups": theirs["n_groups"],
        "expand": theirs["num_heads"] * theirs["head_dim"] / theirs["hidden_size"],
        "d_conv": theirs["conv_kernel"],
        "norm_eps": theirs["layer_norm_epsilon"],
        "bias": theirs["use_bias"],
        "conv_bias": theirs["use_conv_bias"],
        "out_bias": theirs["use_bias"],
    }
    return ModelConfig(
        pattern=f"mamba2*{theirs['num_hidden_layers']}",
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["layer_norm_epsilon"],
        layers={"mamba2": mixer | step_limits(theirs["time_step_limit"])},
    )


def step_limits(limits: Sequence[float] | None) -> dict[str, float]:
    """``time_step_limit`` as options of ``mamba2``."""
    low, high = limits or (0.0, float("inf"))
    options = {"dt_low": float(low)} if low > 0 else {}
    return options if high == float("inf") else options | {"dt_high": float(high)}


def written_limits(mixer: Mamba2Config) -> list[float]:
    """``time_step_limit`` of a mixer."""
    return [mixer.dt_low, float("inf") if mixer.dt_high is None else mixer.dt_high]


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks("mamba2", model, ["mamba2"])
    mixer = alike("mamba2", [layer for (layer,) in each])
    assert isinstance(mixer, Mamba2Config)
    E, H, P = mixer.sizes(model.d_model)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "state_size": mixer.d_state,
        "num_hidden_layers": len(each),
        "num_heads": H,
        "head_dim": P,
        "n_groups": mixer.n_groups,
        "layer_norm_epsilon": model.norm_eps,
        "expand": E // model.d_model,
        "conv_kernel": mixer.d_conv,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
        "time_step_limit": written_limits(mixer),
        "tie_word_embeddings": model.tie_embeddings,
    }


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield same("embedding.weight", "backbone.embeddings.weight")
    yield same("final_norm.weight", "backbone.norm_f.weight")
    if not theirs["tie_word_embeddings"]:
        yield same("head.weight", "lm_head.weight")
    bias, conv_bias = theirs["use_bias"], theirs["use_conv_bias"]
    for i in range(theirs["num_hidden_layers"]):
        yield same(f"norms.{i}.weight", f"backbone.layers.{i}.norm.weight")
        yield from mixer_rules(f"layers.{i}", f"backbone.layers.{i}.mixer", bias=bias, conv_bias=conv_bias)


PREFIXED_DEFAULTS = {
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": (0.0, float("inf")),
}
"""The keys, with their defaults, that describe Mamba-2 in Bamba, Granite 4 and Falcon-H1."""


def prefixed_options(theirs: TheirConfig, inner: int | None = None) -> dict[str, Scalar]:
    """Options of ``mamba2`` from those keys; ``inner`` is the inner width where ``mamba_expand`` does not say it."""
    E, H = inner or theirs["mamba_expand"] * theirs["hidden_size"], theirs["mamba_n_heads"]
    return {
        "d_state": theirs["mamba_d_state"],
        "n_heads": H,
        "head_dim": E // H if theirs["mamba_d_head"] == "auto" else theirs["mamba_d_head"],
        "n_groups": theirs["mamba_n_groups"],
        "expand": E / theirs["hidden_size"],
        "d_conv": theirs["mamba_d_conv"],
        "norm_eps": theirs["rms_norm_eps"],
        "bias": theirs["mamba_proj_bias"],
        "conv_bias": theirs["mamba_conv_bias"],
        "out_bias": theirs["mamba_proj_bias"],
        **step_limits(theirs["time_step_limit"]),
    }


def written_prefixed(mixer: Mamba2Config | None, d_model: int) -> dict[str, Any]:
    """Those keys; of a model without Mamba-2 one head of one width, which nothing uses."""
    if mixer is None:
        return {"mamba_expand": 1, "mamba_n_heads": 1, "mamba_d_head": d_model}
    E, H, P = mixer.sizes(d_model)
    return {
        "mamba_n_heads": H,
        "mamba_n_groups": mixer.n_groups,
        "mamba_d_state": mixer.d_state,
        "mamba_d_head": P,
        "mamba_d_conv": mixer.d_conv,
        "mamba_expand": E // d_model,
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": mixer.bias,
        "time_step_limit": written_limits(mixer),
    }


def mixer_rules(
    ours: str,
    theirs: str,
    *,
    bias: bool,
    conv_bias: bool,
    out_bias: bool | None = None,
    norm: bool = True,
    into: Via = SAME,
    into_bias: Via = SAME,
    out: Via = SAME,
) -> Iterator[Rule]:
    """One Mamba-2 layer, as every family that has it names its tensors; what multipliers do to its projections goes
    into ``into``, ``into_bias`` and ``out``. ``out_bias`` left out: as ``bias``."""
    yield same(f"{ours}.in_proj.weight", f"{theirs}.in_proj.weight", into)
    yield same(f"{ours}.out_proj.weight", f"{theirs}.out_proj.weight", out)
    if bias:
        yield same(f"{ours}.in_proj.bias", f"{theirs}.in_proj.bias", into_bias)
    if bias if out_bias is None else out_bias:
        yield same(f"{ours}.out_proj.bias", f"{theirs}.out_proj.bias", out)
    if norm:
        yield same(f"{ours}.norm_weight", f"{theirs}.norm.weight")
    for name in ("dt_bias", "A_log", "D"):
        yield same(f"{ours}.{name}", f"{theirs}.{name}")
    yield from convolution(f"{ours}.conv", f"{theirs}.conv1d", conv_bias)


FAMILY = Family(
    name="mamba2",
    architecture="Mamba2ForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
