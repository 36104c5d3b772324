"""What is trained here in a published shape can be served elsewhere: its family of transformers can express it."""

import pytest
import torch
from hybridlab.architectures import InvalidInput, ModelConfig, bill, load_published, published_names
from hybridlab.architectures.huggingface.family import all_families, family_of
from hybridlab.architectures.published import read_published
from transformers import AutoConfig, AutoModelForCausalLM

FAMILY_OF = {
    "bailing-hybrid": "bailing_hybrid",
    "bamba-9b": "bamba",
    "falcon-h1-0.5b": "falcon_h1",
    "falcon-h1-7b": "falcon_h1",
    "granite-4.0-h-1b": "granitemoehybrid",
    "granite-4.0-h-350m": "granitemoehybrid",
    "granite-4.0-h-small": "granitemoehybrid",
    "jamba-1.5-large": "jamba",
    "jamba-v0.1": "jamba",
    "kimi-linear-48b-a3b": "kimi_linear",
    "lfm2-1.2b": "lfm2",
    "lfm2-2.6b": "lfm2",
    "mamba-2.8b": "mamba",
    "mamba2-2.7b": "mamba2",
    "nemotron-3-nano-30b-a3b": "nemotron_h",
    "nemotron-h-8b": "nemotron_h",
    "nemotron-nano-9b-v2": "nemotron_h",
    "olmo-hybrid-7b": "olmo_hybrid",
    "qwen3-next-80b-a3b": "qwen3_next",
    "recurrentgemma-2b": "recurrent_gemma",
    "recurrentgemma-9b": "recurrent_gemma",
    "zamba-7b": "zamba",
    "zamba2-1.2b": "zamba2",
    "zamba2-2.7b": "zamba2",
}


@pytest.mark.parametrize("name", FAMILY_OF)
def test_a_published_shape_is_one_that_its_family_can_express(name):
    """And their class has as many parameters at the configuration that we write."""
    published, family = load_published(name), FAMILY_OF[name]
    model = published.config
    written = family_of(family).express(model)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **written))
    assert theirs.num_parameters() == bill(model).parameters == published.parameters


def refusal_of(family: str, model: ModelConfig) -> str | None:
    """The line with which it refuses the model; None if it can express it."""
    try:
        family_of(family).express(model)
    except InvalidInput as refused:
        return str(refused)
    return None


@pytest.mark.parametrize("name", [name for name in published_names() if not read_published(name).missing])
def test_no_other_family_takes_a_published_shape_for_its_own(name):
    expected = {FAMILY_OF[name]} if name in FAMILY_OF else {"nemotron_h"} if name.startswith("mamba2-hybrid") else set()
    refusals = {family: refusal_of(family, load_published(name).config) for family in all_families()}
    assert {family for family, said in refusals.items() if said is None} == expected
    assert all(said.startswith(family) and "\n" not in said for family, said in refusals.items() if said is not None)


def model(pattern: str, **layers) -> ModelConfig:
    return ModelConfig(pattern=pattern, d_model=32, vocab_size=50, layers=layers)


BLOCK = {"shared_block": {"n_heads": 4}}
EXPERTS = {"moe": {"hidden": 16, "n_experts": 4}}


@pytest.mark.parametrize(
    "family, config, said",
    [
        (
            "zamba",
            model("mamba shared_block@a mamba mlp", **BLOCK),
            "zamba: sublayer 3 is 'mlp'; it has mamba, and shared_block before some",
        ),
        ("zamba", model("mamba*3"), "zamba: a model of it has a shared_block"),
        (
            "zamba",
            model("(shared_block@a mamba)*2 shared_block@b mamba", **BLOCK),
            "zamba cannot express the weights that its layers share",
        ),
        (
            "zamba2",
            model("(shared_block@a mamba2)*2 shared_block@b mamba2", **BLOCK, mamba2={"dt_low": 0.001}),
            "zamba2 cannot express the weights that its layers share",
        ),
        ("lfm2_moe", model("conv moe attn mlp", **EXPERTS), "lfm2_moe: MLPs can only come before experts"),
        ("olmo_hybrid", model("gated_deltanet mlp attn mlp"), "olmo_hybrid cannot express"),
        ("minimax", model("(lightning moe)*2", **EXPERTS), "minimax cannot express lightning: norm='pre'"),
        ("kimi_linear", model("kda mlp mla{rope=true} mlp"), "kimi_linear cannot express"),
        ("recurrent_gemma", model("rglru mlp"), "recurrent_gemma cannot express"),
    ],
)
def test_what_would_be_lost_is_named(family, config, said):
    assert said in (refusal_of(family, config) or "")
