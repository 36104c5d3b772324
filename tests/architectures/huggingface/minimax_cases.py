"""MiniMax-Text-01."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 4, "block_size": 8,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 3, "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "head_dim": 12, "rms_norm_eps": 1e-3, "tie_word_embeddings": True, "num_experts_per_tok": 3,
        "sliding_window": 6, "full_attn_alpha_factor": 1.5, "full_attn_beta_factor": 0.7,
        "linear_attn_alpha_factor": 1.25, "linear_attn_beta_factor": 0.8, "mlp_alpha_factor": 1.1,
        "mlp_beta_factor": 0.9, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "minimax: hidden_act='gelu' can only be 'silu'"),
}
