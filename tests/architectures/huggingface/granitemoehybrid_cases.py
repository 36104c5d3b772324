"""Granite 4."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "shared_intermediate_size": 20,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_n_heads": 8, "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "dense": SMALL | {"num_local_experts": 0, "position_embedding_type": "rope", "num_key_value_heads": None},
    "options": SMALL
    | {
        "embedding_multiplier": 3, "logits_scaling": 6.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1,
        "num_experts_per_tok": 3, "mamba_n_groups": 2, "mamba_d_conv": 3, "mamba_expand": 3, "rms_norm_eps": 1e-3,
        "mamba_conv_bias": False, "mamba_proj_bias": True, "attention_bias": True, "tie_word_embeddings": True,
        "position_embedding_type": "rope", "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "granitemoehybrid: hidden_act='gelu' can only be 'silu'"),
    "positions": (
        SMALL | {"position_embedding_type": "alibi"},
        "granitemoehybrid: position_embedding_type='alibi' can only be None or 'rope'",
    ),
}
