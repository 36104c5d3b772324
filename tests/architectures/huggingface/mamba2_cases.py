"""Mamba-2."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8,
    "n_groups": 1, "chunk_size": 8,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "groups": SMALL | {"n_groups": 2, "tie_word_embeddings": True, "conv_kernel": 3},
    "options": SMALL
    | {
        "expand": 1, "num_heads": 4, "use_bias": True, "use_conv_bias": False, "layer_norm_epsilon": 1e-3,
        "time_step_limit": (0.3, 0.9),
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "mamba2: hidden_act='gelu' can only be 'silu'"),
}
