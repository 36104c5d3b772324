"""Ling and Ring's hybrid."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "num_local_experts": 16, "num_experts_per_tok": 3,
    "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 12,
    "layer_group_size": 2, "pad_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "mlp_layer_types": ["sparse", "dense", "sparse"], "v_head_dim": 6, "attention_bias": True, "n_group": 4,
        "topk_group": 3, "norm_topk_prob": False, "routed_scaling_factor": 1.5, "n_shared_experts": 2,
        "short_conv_kernel_size": 3, "kda_safe_gate": False, "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "bounded": SMALL | {"num_hidden_layers": 2, "first_k_dense_replace": 1, "kda_lower_bound": -2.0},
}  # fmt: skip
REFUSED = {
    "tied": (SMALL | {"tie_word_embeddings": True}, "bailing_hybrid: tie_word_embeddings=True can only be False"),
}
