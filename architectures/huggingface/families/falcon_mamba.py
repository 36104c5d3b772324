"""Falcon Mamba (Zuo et al. 2024): Mamba whose step, B and C are normalised, without weights."""

from typing import Any

from ...mixers.mamba import MambaConfig
from ...model_config import ModelConfig
from ..config import TheirConfig
from ..family import Family
from . import mamba

DEFAULTS = mamba.DEFAULTS | {"mixer_rms_eps": 1e-6}


def read(theirs: TheirConfig) -> ModelConfig:
    return mamba.read_as(theirs, inner_norm="plain", norm_eps=theirs["mixer_rms_eps"])


def write(model: ModelConfig) -> dict[str, Any]:
    written = mamba.write_as("falcon_mamba", model)
    mixer = model.sublayers()[0][0].layer
    assert isinstance(mixer, MambaConfig)
    return written | {"mixer_rms_eps": mixer.norm_eps}


FAMILY = Family(
    name="falcon_mamba",
    architecture="FalconMambaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=mamba.tensors,
    ignored=mamba.FAMILY.ignored,
)
