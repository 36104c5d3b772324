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
        ("mlp", {"hidden": 8, "ratio": 2.0}, "mlp: ratio=2.0 must be left out where hidden=8 is given"),
        ("moe", {"top_k": 9}, "moe: top_k=9 must be from 1 to n_experts=8"),
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
