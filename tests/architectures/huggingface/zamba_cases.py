"""Zamba."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 4, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 4, "layers_block_type": ["hybrid", "linear_attention", "hybrid", "linear_attention"],
        "attention_head_dim": 12, "num_key_value_heads": 2, "n_mamba_heads": 4, "mamba_d_conv": 3, "mamba_expand": 1,
        "mamba_dt_rank": 3, "mamba_conv_bias": False, "mamba_proj_bias": True, "rms_norm_eps": 1e-3,
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "silu"}, "zamba: hidden_act='silu' can only be 'gelu'"),
    "untied": (SMALL | {"tie_word_embeddings": False}, "zamba: tie_word_embeddings=False can only be True"),
}
