"""LFM2."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "block_multiple_of": 16, "full_attn_idxs": [1],
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "layer_types": ["full_attention", "conv", "conv"], "conv_bias": True, "conv_L_cache": 4, "norm_eps": 1e-3,
        "tie_word_embeddings": False, "block_ffn_dim_multiplier": 1.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "width-as-it-stands": SMALL | {"block_auto_adjust_ff_dim": False},
}  # fmt: skip
REFUSED = {
    "layers": (
        SMALL | {"layer_types": ["conv", "sliding_attention", "conv"]},
        "lfm2: layer_types=['conv', 'sliding_attention', 'conv'] must be 3 of 'conv' and 'full_attention'",
    ),
}
