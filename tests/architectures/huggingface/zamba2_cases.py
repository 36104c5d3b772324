"""Zamba2."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
    "mamba_d_state": 4, "n_mamba_heads": 4, "adapter_rank": 3, "chunk_size": 8,
    "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid", "linear_attention"],
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 6,
        "layers_block_type": ["hybrid", "linear_attention", *["hybrid"] * 3, "linear_attention"],
        "num_mem_blocks": 2, "use_shared_attention_adapter": True, "use_mem_rope": True, "add_bias_linear": True,
        "mamba_ngroups": 2, "mamba_expand": 1, "mamba_d_conv": 3, "time_step_min": 0.8, "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "grouped": SMALL | {"num_key_value_heads": 2, "intermediate_size": None},
}  # fmt: skip
REFUSED = {
    "adapters": (
        SMALL | {"num_key_value_heads": 2, "use_shared_attention_adapter": True},
        "zamba2: num_key_value_heads=2 can only be 4 or None",
    ),
}
