"""Bamba."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "attn_layer_indices": [2], "mamba_n_heads": 8, "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "attn_layer_indices": [0, 3], "mamba_n_groups": 2, "mamba_d_conv": 3, "mamba_expand": 3, "rms_norm_eps": 1e-3,
        "mamba_conv_bias": False, "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True,
        "tie_word_embeddings": True, "time_step_limit": (0.3, 0.9),
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default", "partial_rotary_factor": 1.0},
    },
    "wide heads": SMALL | {"head_dim": 16},
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "bamba: hidden_act='gelu' can only be 'silu'"),
    "scaled rotation": (
        SMALL | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
        "bamba: rope_type='linear' can only be 'default'",
    ),
}
