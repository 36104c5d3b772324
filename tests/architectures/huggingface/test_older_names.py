"""A configuration as it was released, with names that have changed since, reads as what their class makes of it."""

import pytest
from hybridlab.architectures.huggingface.family import family_of
from transformers import AutoConfig

RELEASED = {
    "recurrent_gemma": [
        {"rope_theta": 500.0, "partial_rotary_factor": 0.25, "num_key_value_heads": 1},
        {"block_types": ["attention"], "num_hidden_layers": 2},
    ],
    "qwen3_next": [
        {"rope_theta": 1e7, "partial_rotary_factor": 0.5, "full_attention_interval": 3, "num_hidden_layers": 6},
        {"rope_scaling": {"type": "default", "rope_theta": 300.0}, "decoder_sparse_step": 2, "num_hidden_layers": 4},
    ],
    "olmo_hybrid": [
        {},
        {"rope_theta": 5e5, "num_hidden_layers": 3},
        {"rope_theta": None},
        {"rope_parameters": {"rope_theta": None}},
    ],
    "lfm2": [
        {"block_ff_dim": 96, "tie_embedding": False, "full_attn_idxs": [0, 3], "rope_theta": 5e5},
        {"block_ffn_dim_multiplier": 1.3, "block_multiple_of": 8},
    ],
    "lfm2_moe": [{"tie_embedding": False, "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}],
    "minimax": [{}, {"rope_theta": 1e7, "num_hidden_layers": 3}, {"rope_parameters": {"rope_type": "default"}}],
    "kimi_linear": [
        {},
        {"n_group": 4, "topk_group": 2, "num_local_experts": 64, "num_experts_per_tok": 2, "norm_topk_prob": False},
        {"num_expert_group": 4, "num_experts": 64, "num_experts_per_token": 2, "moe_renormalize": False},
        {"n_shared_experts": 2, "first_k_dense_replace": 3, "num_key_value_heads": None},
        {
            "linear_attn_config": {
                "full_attn_layers": [2, 3], "kda_layers": [1], "head_dim": 12, "num_heads": 3,
                "short_conv_kernel_size": 2,
            },
            "num_hidden_layers": 3,
        },
    ],
    "bailing_hybrid": [
        {},
        {"rope_theta": 500.0, "n_group": 4, "num_local_experts": 64, "first_k_dense_replace": 5},
        {"layer_group_size": 4, "head_dim": 64, "short_conv_kernel_size": 3, "num_attention_heads": 16,
         "num_key_value_heads": 16},
    ],
    "zamba": [
        {},
        {"layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2},
        {"layer_types": ["hybrid", "linear_attention"], "num_hidden_layers": 2},
    ],
    "zamba2": [
        {},
        {"rope_theta": 500.0, "use_mem_rope": True},
        {"layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2},
    ],
}  # fmt: skip
CASES = [(family, given) for family, all_given in RELEASED.items() for given in all_given]


def named(case: tuple[str, dict] | str | dict) -> str:
    return case if isinstance(case, str) else "-".join(case) or "defaults"


@pytest.mark.parametrize("family, given", CASES, ids=named)
def test_a_released_configuration_reads_as_their_class_reads_it(family, given):
    known = family_of(family)
    resolved = AutoConfig.for_model(family, **given).to_dict()
    assert known.read(known.config(given)) == known.read(known.config(resolved))
