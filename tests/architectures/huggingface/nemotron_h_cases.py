"""Nemotron-H and Nemotron 3."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"], "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2,
    "ssm_state_size": 4, "chunk_size": 8, "n_routed_experts": 4, "moe_intermediate_size": 12,
    "moe_shared_expert_intermediate_size": 20,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "experts": SMALL | {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe", "mlp"]},
    "options": SMALL
    | {
        "layers_block_type": ["moe", "full_attention", "linear_attention", "linear_attention"],
        "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "norm_topk_prob": False,
        "routed_scaling_factor": 2.5, "mlp_hidden_act": "gelu", "conv_kernel": 3, "use_conv_bias": False,
        "use_bias": True, "layer_norm_epsilon": 1e-3, "time_step_min": 0.5,
    },
    "biases": SMALL | {"mlp_bias": True},
    "latent experts": SMALL | {"layers_block_type": ["linear_attention", "moe"], "moe_latent_size": 20},
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"mlp_hidden_act": "silu"}, "nemotron_h: mlp_hidden_act='silu' can only be 'relu2'"),
    "biases of experts": (
        SMALL | {"mlp_bias": True, "layers_block_type": ["moe"]},
        "nemotron_h: mlp_bias=True has no form here where there are experts",
    ),
}
