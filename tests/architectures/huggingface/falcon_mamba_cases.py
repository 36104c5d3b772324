"""Falcon Mamba."""

SMALL = {"vocab_size": 50, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 3}
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "expand": 3, "conv_kernel": 2, "use_bias": True, "time_step_rank": 5, "layer_norm_epsilon": 1e-3,
        "mixer_rms_eps": 1e-2, "tie_word_embeddings": False,
    },
}  # fmt: skip
REFUSED = {
    "activation": (SMALL | {"hidden_act": "relu"}, "falcon_mamba: hidden_act='relu' can only be 'silu'"),
}
