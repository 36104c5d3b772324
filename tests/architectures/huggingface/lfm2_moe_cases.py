"""LFM2's mixture of experts."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "moe_intermediate_size": 16, "num_experts": 6, "num_experts_per_tok": 2,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 3, "layer_types": ["full_attention", "conv", "full_attention"], "conv_bias": True,
        "conv_L_cache": 4, "norm_eps": 1e-3, "tie_word_embeddings": False, "num_dense_layers": 1,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "routed_scaling_factor": 1.7, "use_expert_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
}  # fmt: skip
REFUSED = {
    "layers": (SMALL | {"layer_types": None}, "lfm2_moe: layer_types=None must say what every layer is"),
}
