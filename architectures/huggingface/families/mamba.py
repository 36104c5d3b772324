"""Mamba (Gu and Dao 2023): ``mamba`` sublayers and nothing else."""

from collections.abc import Iterator
from typing import Any

from ...layer import Scalar
from ...mixers.mamba import MambaConfig
from ...model_config import ModelConfig
from ..config import TheirConfig, alike, blocks
from ..family import Family
from ..rules import Rule, convolution, same

DEFAULTS = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}


def read(theirs: TheirConfig) -> ModelConfig:
    return read_as(theirs)


def read_as(theirs: TheirConfig, **options: Scalar) -> ModelConfig:
    """A Mamba model with these options of its layers besides those that its configuration gives."""
    theirs.only("hidden_act", "silu", "swish")
    mixer = {
        "d_state": theirs["state_size"],
        "expand": float(theirs["expand"]),
        "d_conv": theirs["conv_kernel"],
        "bias": theirs["use_bias"],
        "conv_bias": theirs["use_conv_bias"],
        "out_bias": theirs["use_bias"],
    }
    if theirs["time_step_rank"] != "auto":
        mixer["dt_rank"] = theirs["time_step_rank"]
    return ModelConfig(
        pattern=f"mamba*{theirs['num_hidden_layers']}",
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["layer_norm_epsilon"],
        layers={"mamba": mixer | options},
    )


def write(model: ModelConfig) -> dict[str, Any]:
    return write_as("mamba", model)


def write_as(family: str, model: ModelConfig) -> dict[str, Any]:
    """The keys that Mamba and Falcon Mamba have in common."""
    each = blocks(family, model, ["mamba"])
    mixer = alike(family, [layer for (layer,) in each])
    assert isinstance(mixer, MambaConfig)
    E, R = mixer.sizes(model.d_model)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "state_size": mixer.d_state,
        "num_hidden_layers": len(each),
        "layer_norm_epsilon": model.norm_eps,
        "expand": E // model.d_model,
        "intermediate_size": E,
        "conv_kernel": mixer.d_conv,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
        "time_step_rank": R,
        "tie_word_embeddings": model.tie_embeddings,
    }


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield same("embedding.weight", "backbone.embeddings.weight")
    yield same("final_norm.weight", "backbone.norm_f.weight")
    if not theirs["tie_word_embeddings"]:
        yield same("head.weight", "lm_head.weight")
    for i in range(theirs["num_hidden_layers"]):
        yield same(f"norms.{i}.weight", f"backbone.layers.{i}.norm.weight")
        yield from mixer_rules(f"layers.{i}", f"backbone.layers.{i}.mixer", theirs["use_bias"], theirs["use_conv_bias"])


def mixer_rules(ours: str, theirs: str, bias: bool, conv_bias: bool) -> Iterator[Rule]:
    """One Mamba layer, as every family that has it names its tensors."""
    names = ["in_proj.weight", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D", "out_proj.weight"]
    for name in names + ["in_proj.bias", "out_proj.bias"] * bias:
        yield same(f"{ours}.{name}", f"{theirs}.{name}")
    yield from convolution(f"{ours}.conv", f"{theirs}.conv1d", conv_bias)


FAMILY = Family(
    name="mamba",
    architecture="MambaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
