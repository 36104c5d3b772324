"""Falcon-H1."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "mamba_d_ssm": 48, "mamba_n_heads": 6, "mamba_d_state": 4, "mamba_chunk_size": 8,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "norm before the gate": SMALL
    | {"mamba_rms_norm": True, "mamba_n_groups": 2, "mamba_d_ssm": None, "mamba_n_heads": 8},
    "options": SMALL
    | {
        "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2, "mamba_d_conv": 3,
        "mamba_conv_bias": False, "mamba_proj_bias": True, "projectors_bias": True, "attention_bias": True,
        "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 16, "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "time_step_limit": (0.3, 0.9),
        "lm_head_multiplier": 0.3, "embedding_multiplier": 5.0, "mlp_multipliers": [0.8, 0.4], "key_multiplier": 0.7,
        "attention_out_multiplier": 0.9, "attention_in_multiplier": 1.2, "ssm_in_multiplier": 1.3,
        "ssm_multipliers": [0.3, 0.5, 0.7, 1.1, 1.4], "ssm_out_multiplier": 0.6,
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "falcon_h1: hidden_act='gelu' can only be 'silu'"),
}
