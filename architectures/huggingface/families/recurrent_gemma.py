"""RecurrentGemma (Griffin; De et al. 2024): recurrent blocks and local attention, each with an MLP gated by GELU."""

from collections.abc import Iterator
from typing import Any

import torch

from ...mixers.mlp import MLPConfig
from ...mixers.rglru import RGLRUConfig
from ...mixers.swa import SlidingWindowConfig
from ...model_config import ModelConfig
from ..common import around, attention, even_rotation, gated_mlp, pattern
from ..config import TheirConfig, blocks, kind, rope_parameters
from ..family import Family
from ..rules import CONVOLUTION, PLUS_ONE, Rule, Via, reshaped, same, stacked

NAME = "recurrent_gemma"
DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 2560,
    "intermediate_size": 7680,
    "num_hidden_layers": 26,
    "num_attention_heads": 10,
    "num_key_value_heads": None,
    "lru_width": None,
    "attention_window_size": 2048,
    "conv1d_width": 4,
    "logits_soft_cap": 30.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "block_types": ("recurrent", "recurrent", "attention"),
    "attention_bias": False,
    "tie_word_embeddings": True,
}


def embedding_scale(d_model: int) -> float:
    """sqrt(d_model), which they keep in bfloat16 whatever the model's dtype."""
    return torch.tensor(d_model**0.5, dtype=torch.bfloat16).item()


def mixers(theirs: TheirConfig) -> list[str]:
    """``rglru`` or ``swa`` for every layer."""
    known = {"recurrent": "rglru", "attention": "swa"}
    if not theirs["block_types"] or set(theirs["block_types"]) - set(known):
        theirs.refuse("block_types", "can only be of 'recurrent' and 'attention'")
    repeated = list(theirs["block_types"]) * theirs["num_hidden_layers"]
    return [known[kind] for kind in repeated[: theirs["num_hidden_layers"]]]


def read(theirs: TheirConfig) -> ModelConfig:
    theirs.only("hidden_activation", "gelu_pytorch_tanh")
    base, fraction = theirs.rope(fraction=0.5)
    D, H = theirs["hidden_size"], theirs["num_attention_heads"]
    even_rotation(theirs, D // H, fraction)
    return ModelConfig(
        pattern=pattern(f"{mixer} mlp" for mixer in mixers(theirs)),
        d_model=D,
        vocab_size=theirs["vocab_size"],
        tie_embeddings=theirs["tie_word_embeddings"],
        norm_eps=theirs["rms_norm_eps"],
        embedding_scale=embedding_scale(D),
        logit_cap=theirs["logits_soft_cap"],
        layers={
            "rglru": {"expand": (theirs["lru_width"] or D) / D, "n_heads": H, "d_conv": theirs["conv1d_width"]},
            "swa": {
                "window": theirs["attention_window_size"],
                "n_heads": H,
                "head_dim": D // H,
                "n_kv_heads": theirs["num_key_value_heads"] or H,
                "rope_fraction": fraction,
                "rope_base": base,
                "bias": theirs["attention_bias"],
                "out_bias": True,
            },
            "mlp": {"activation": "geglu_tanh", "hidden": theirs["intermediate_size"] // 2, "bias": True},
        },
    )


def write(model: ModelConfig) -> dict[str, Any]:
    each = blocks(NAME, model, ["rglru", "swa"], ["mlp"])
    recurrent, local = kind(NAME, each, RGLRUConfig), kind(NAME, each, SlidingWindowConfig)
    mlp = kind(NAME, each, MLPConfig)
    assert mlp is not None
    written: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": 2 * mlp.width(model.d_model),
        "num_hidden_layers": len(each),
        "logits_soft_cap": model.logit_cap,
        "rms_norm_eps": model.norm_eps,
        "block_types": ["attention" if isinstance(m, SlidingWindowConfig) else "recurrent" for m, _ in each],
        "tie_word_embeddings": model.tie_embeddings,
    }
    if recurrent is not None:
        E, H, _ = recurrent.sizes(model.d_model)
        written |= {"lru_width": E, "num_attention_heads": H, "conv1d_width": recurrent.d_conv}
    if local is not None:
        H, G, K = local.heads(model.d_model)
        written |= {
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "attention_window_size": local.window,
            "attention_bias": local.bias,
            "rope_parameters": rope_parameters(local.rope_base, local.rotated_channels(K) / K),
        }
    return written


def tensors(theirs: TheirConfig) -> Iterator[Rule]:
    yield from around(theirs, "model.final_norm", PLUS_ONE)
    model = read(theirs)
    for i, mixer in enumerate(mixers(theirs)):
        ours, its = f"layers.{2 * i}", f"model.layers.{i}"
        yield same(f"norms.{2 * i}.weight", f"{its}.temporal_pre_norm.weight", PLUS_ONE)
        yield same(f"norms.{2 * i + 1}.weight", f"{its}.channel_pre_norm.weight", PLUS_ONE)
        layer = model.sublayers()[2 * i][0].layer
        if isinstance(layer, SlidingWindowConfig):
            yield from attention(ours, f"{its}.temporal_block", layer, model.d_model)
        else:
            assert mixer == "rglru"
            yield from recurrent_block(ours, f"{its}.temporal_block", theirs)
        width = theirs["intermediate_size"] // 2
        yield from gated_mlp(f"layers.{2 * i + 1}", f"{its}.mlp_block", width, bias=True)


def recurrent_block(ours: str, its: str, theirs: TheirConfig) -> Iterator[Rule]:
    """Both inputs in one matrix of ours, both gates in one tensor."""
    E, H = theirs["lru_width"] or theirs["hidden_size"], theirs["num_attention_heads"]
    for end in ("weight", "bias"):
        yield stacked(f"{ours}.in_proj.{end}", {f"{its}.linear_y.{end}": E, f"{its}.linear_x.{end}": E})
        yield same(f"{ours}.out_proj.{end}", f"{its}.linear_out.{end}")
    yield same(f"{ours}.conv.weight", f"{its}.conv_1d.weight", CONVOLUTION)
    yield same(f"{ours}.conv.bias", f"{its}.conv_1d.bias")
    yield same(f"{ours}.decay", f"{its}.rg_lru.recurrent_param")
    gates = [f"{its}.rg_lru.{gate}_gate" for gate in ("input", "recurrent")]
    one = Via(lambda t: t.unsqueeze(0), lambda t: t.squeeze(0))
    yield stacked(f"{ours}.gate_weight", {f"{gate}_weight": 1 for gate in gates}, one)
    yield stacked(f"{ours}.gate_bias", {f"{gate}_bias": 1 for gate in gates}, reshaped((1, E), (H, E // H)))


FAMILY = Family(
    name=NAME,
    architecture="RecurrentGemmaForCausalLM",
    defaults=DEFAULTS,
    read=read,
    write=write,
    tensors=tensors,
    ignored=[r"lm_head\.weight"],
)
