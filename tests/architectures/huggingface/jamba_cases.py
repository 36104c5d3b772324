"""Jamba."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "mamba_d_state": 4, "num_experts": 4, "attn_layer_period": 4, "attn_layer_offset": 2,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "dense": SMALL | {"num_experts": 1, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "options": SMALL
    | {
        "num_experts_per_tok": 3, "expert_layer_period": 3, "expert_layer_offset": 0, "mamba_d_conv": 3,
        "mamba_expand": 1, "mamba_dt_rank": 5, "mamba_conv_bias": False, "mamba_proj_bias": True, "rms_norm_eps": 1e-3,
    },
    "no attention": SMALL | {"attn_layer_period": 9, "attn_layer_offset": 8},
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "jamba: hidden_act='gelu' can only be 'silu'"),
}
