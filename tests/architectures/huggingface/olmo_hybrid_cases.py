"""OLMo-Hybrid."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "num_key_value_heads": 2, "attention_bias": True, "rms_norm_eps": 1e-3, "tie_word_embeddings": True,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
        "linear_conv_kernel_dim": 3, "linear_allow_neg_eigval": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "unrotated": SMALL | {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "olmo_hybrid: hidden_act='gelu' can only be 'silu'"),
}
