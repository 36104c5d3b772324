"""RecurrentGemma."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 1, "attention_window_size": 6,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_attention_heads": 2, "num_key_value_heads": None, "lru_width": 48, "conv1d_width": 3,
        "logits_soft_cap": 2.0, "rms_norm_eps": 1e-3, "block_types": ["attention", "recurrent"], "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25},
    },
}  # fmt: skip
REFUSED = {
    "activation": (
        SMALL | {"hidden_activation": "relu"},
        "recurrent_gemma: hidden_activation='relu' can only be 'gelu_pytorch_tanh'",
    ),
    "block": (
        SMALL | {"block_types": ["recurrent", "mamba"]},
        "recurrent_gemma: block_types=['recurrent', 'mamba'] can only be of 'recurrent' and 'attention'",
    ),
    "rotation": (
        SMALL | {"partial_rotary_factor": 0.4},
        "recurrent_gemma: partial_rotary_factor=0.4 of heads of 8 rotates 3 channels, which must be even",
    ),
}
