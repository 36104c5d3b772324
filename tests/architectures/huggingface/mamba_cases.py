"""Mamba."""

SMALL = {"vocab_size": 50, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 3}
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "expand": 1, "conv_kernel": 3, "use_bias": True, "use_conv_bias": False, "time_step_rank": 5,
        "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False,
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "gelu"}, "mamba: hidden_act='gelu' can only be 'silu'"),
}
