"""What a user gets wrong in a layer's options is one line that names the layer, the value and what would be right."""

import pytest
from hybridlab.architectures import InvalidInput, layer_config

D_MODEL = 64


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("mambo", {}, "unknown layer 'mambo': did you mean 'mamba'?"),
        ("attn", {"n_head": 4}, "attn: unknown option 'n_head': did you mean 'n_heads'?"),
        ("attn", {"n_heads": 4.0}, "attn: n_heads=4.0 must be int or none"),
        ("attn", {"n_heads": True}, "attn: n_heads=True must be int or none"),
        ("attn", {"rope": "yes"}, "attn: rope='yes' must be bool"),
        ("attn", {"rope_fraction": 1.5}, "attn: rope_fraction=1.5 must be above 0 and at most 1"),
        ("swa", {"window": 0}, "swa: window=0 must be at least 1"),
        ("linear", {"feature_map": "rela"}, "linear: feature_map='rela': did you mean 'relu'?"),
        ("linear", {"feature_map": "relu"}, "linear: feature_map='relu' must be elu1 or taylor where normalize=True"),
        ("mamba2", {"dt_min": 0.5}, "mamba2: dt_min=0.5 must be above 0 and at most dt_max=0.1"),
        ("mlp", {"hidden": 0}, "mlp: hidden=0 must be at least 1"),
        ("s4", {"d_state": 5}, "s4: d_state=5 must be even, from 2"),
        ("s4", {"discretization": "bilinaer"}, "s4: discretization='bilinaer': did you mean 'bilinear'?"),
        ("hyena", {"order": 1}, "hyena: order=1 must be at least 2"),
        ("hyena", {"order": 3, "head_width": 4}, "hyena: order=3 must be 2 where heads are wider than 1"),
        ("hyena", {"filter_features": 4}, "hyena: filter_features=4 must be odd, from 3"),
        ("hyena_li", {"poles": "reel"}, "hyena_li: poles='reel': did you mean 'real'?"),
        ("hyena_se", {"filter_length": 0}, "hyena_se: filter_length=0 must be at least 1"),
        ("base_conv", {"expand": 0}, "base_conv: expand=0.0 must be above 0"),
        ("sparse_attn", {"top_k": 0}, "sparse_attn: top_k=0 must be at least 1"),
        ("hymba", {"window": 0}, "hymba: window=0 must be at least 1"),
        ("mlp", {"hidden": 8, "ratio": 2.0}, "mlp: ratio=2.0 must be left out where hidden=8 is given"),
        ("moe", {"top_k": 9}, "moe: top_k=9 must be from 1 to n_experts=8"),
        ("moe", {"shared_gate": True}, "moe: shared_gate=True must be false where n_shared=0"),
        ("moe", {"n_groups": 3}, "moe: n_groups=3 does not divide n_experts=8; the nearest that does is 2"),
        ("moe", {"n_groups": 4, "top_k": 3}, "moe: top_k=3 must be at most 2, the experts of 1 groups"),
        ("kda", {"decay_bound": 1.0}, "kda: decay_bound=1.0 must be below 0"),
        ("mla", {"q_rank": 0}, "mla: q_rank=0 must be at least 1"),
    ],
)
def test_an_impossible_option_is_refused_in_one_line(name, options, said):
    with pytest.raises(InvalidInput) as caught:
        layer_config(name, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, options, said",
    [
        (
            "attn",
            {"n_heads": 5},
            "attn: n_heads=5 does not cut the width 64 into even heads; the nearest that does is 4",
        ),
        ("attn", {"head_dim": 24}, "attn: head_dim=24 does not divide the width 64; the nearest that does is 16"),
        ("attn", {"head_dim": 1}, "attn: head_dim=1 is odd, which rope does not allow; the nearest that does is 2"),
        ("attn", {"n_heads": 0}, "attn: n_heads=0 must be at least 1"),
        (
            "attn",
            {"n_heads": 8, "n_kv_heads": 3},
            "attn: n_kv_heads=3 does not divide n_heads=8; the nearest that does is 2",
        ),
        ("mamba2", {"head_dim": 48}, "mamba2: head_dim=48 does not divide the width 128; the nearest that does is 32"),
        (
            "mamba2",
            {"head_dim": 16, "n_groups": 3},
            "mamba2: n_groups=3 does not divide heads=8; the nearest that does is 2",
        ),
        ("hyena", {"head_width": 5}, "hyena: head_width=5 does not divide d_model=64; the nearest that does is 4"),
        ("hymba", {"n_heads": 2, "n_kv_heads": 3}, "hymba: n_kv_heads=3 does not divide n_heads=2"),
        ("rwkv6", {"n_heads": 2, "head_dim": 16}, "rwkv6: n_heads=2 times head_dim=16 is not the width 64"),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_the_nearest_that_do(name, options, said):
    config = layer_config(name, options)
    for use in (config.build, config.num_parameters, lambda d: config.state_bytes(d, 10)):
        with pytest.raises(InvalidInput) as caught:
            use(D_MODEL)
        assert said in str(caught.value)


def test_a_whole_number_serves_where_a_decimal_is_wanted():
    assert layer_config("mamba2", {"expand": 1}) == layer_config("mamba2", {"expand": 1.0})
