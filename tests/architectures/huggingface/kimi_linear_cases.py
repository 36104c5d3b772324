"""Kimi Linear."""

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "num_local_experts": 8, "num_experts_per_tok": 3,
    "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "linear_head_dim": 8,
    "linear_num_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CASES = {
    "plain": SMALL,
    "options": SMALL
    | {
        "num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "mlp_layer_types": ["sparse", "dense", "sparse"], "q_lora_rank": 10, "v_head_dim": 6, "attention_bias": True,
        "n_group": 4, "topk_group": 2, "norm_topk_prob": False, "routed_scaling_factor": 1.5, "n_shared_experts": 2,
        "linear_conv_kernel_dim": 3, "rms_norm_eps": 1e-3,
    },
    "as-released": SMALL
    | {
        "num_hidden_layers": 4, "first_k_dense_replace": 2,
        "linear_attn_config": {
            "full_attn_layers": [2, 4], "kda_layers": [1, 3], "head_dim": 12, "num_heads": 3,
            "short_conv_kernel_size": 2,
        },
    },
}  # fmt: skip
REFUSED = {
    "tied": (SMALL | {"tie_word_embeddings": True}, "kimi_linear: tie_word_embeddings=True can only be False"),
}
