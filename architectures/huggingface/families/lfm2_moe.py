"""LFM2's mixture of experts: as LFM2, with experts in place of MLPs after the first layers."""

from collections.abc import Iterator
from typing import Any

import torch

from ...errors import InvalidInput
from ...mixers.mlp import MLPConfig
from ...mixers.moe import MoEConfig
from ...model_config import ModelConfig
from ..common import gated_experts, gated_mlp, pattern
from ..config import TheirConfig, blocks, kind
from ..family import Family
from ..rules import Rule, absent, same
from .lfm2 import AROUND, CONV, NAMES, mixer_options, mixer_tensors, tied, types_of, written_mixers

NAME = "lfm2_moe"
DEFAULTS = AROUND | {
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts_per_tok": 4,
    "num_experts": 32,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
}


def read(theirs: TheirConfig) -> ModelConfig:
    if theirs["layer_types"] is None:
        theirs.refuse("layer_types", "must say what every layer is")
    dense = theirs["num_dense_layers"]
    each = [("conv" if t == CONV else "attn", "mlp" if i < dense else "moe") for i, t in enumerate(types_of(theirs))]
    after = {
        "mlp": {"hidden": theirs["intermediate_size"]},
        "moe": {
            "n_experts": theirs["num_experts"],
            "top_k": theirs["num_experts_per_tok"],
            "hidden": theirs["moe_intermediate_size"],
            "score": "sigmoid",
            "renormalize": theirs["norm_topk_prob"],
            "scale": float(theirs["routed_scaling_factor"]),
            "balance": "bias" if theirs["use_expert_bias"] else "none",
        },
    }
    return ModelConfig(
        pattern=pattern(f"{mixer} {second}" for mixer, second in each),
        d_model=theirs["hidden_size"],
        vocab_size=theirs["vocab_size"],
        tie_embeddings=tied(theirs),
        norm_eps=theirs["norm_eps"],
        layers=mixer_options(theirs) | after,
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["conv", "attn"], ["mlp", "moe"])
    mlp, moe = kind(NAME, each, MLPConfig), kind(NAME, each, MoEConfig)
    dense = sum(isinstance(after, MLPConfig) for _, after in each)
    if moe is None or any(isinstance(after, MoEConfig) for _, after in each[:dense]):
        raise InvalidInput(f"{NAME}: MLPs can only come before experts, of which there must be some")
    written = written_mixers(NAME, model, each) | {
        "num_dense_layers": dense,
        "num_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.width(model.d_model),
        "norm_topk_prob": moe.renormalize,
        "routed_scaling_factor": moe.scale,
    }
    return written if mlp is None else written | {"intermediate_size": mlp.width(model.d_model)}


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from mixer_tensors(theirs, read(theirs))
    X = theirs["num_experts"]
    for i in range(theirs["num_hidden_layers"]):
        ours, its = f"layers.{2 * i + 1}", f"model.layers.{i}.feed_forward"
        if i < theirs["num_dense_layers"]:
            yield from gated_mlp(ours, its, theirs["intermediate_size"], names=NAMES)
            continue
        yield same(f"{ours}.router.weight", f"{its}.gate.weight")
        yield from gated_experts(ours, f"{its}.experts", X, names=NAMES)
        if theirs["use_expert_bias"]:
            yield same(f"{ours}.choice_bias", f"{its}.expert_bias")
        else:
            yield absent(NAME, f"{ours}.choice_bias", torch.zeros(X))


FAMILY = Family(
    name=NAME,
    architecture="Lfm2MoeForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
