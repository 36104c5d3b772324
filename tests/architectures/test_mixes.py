"""Mixes: the counts, places and experts they promise, and the published patterns they generate."""

import itertools
from fractions import Fraction

import pytest
import torch
from hybridlab.architectures import (
    HybridModel,
    InvalidInput,
    ModelConfig,
    bill,
    layer_config,
    layer_names,
    parse_pattern,
)
from hybridlab.architectures.mixes import PLACEMENTS, Mix, place, share
from hypothesis import given
from hypothesis import strategies as st

depths = st.integers(1, 100)
shares = st.one_of(
    st.floats(0, 1),
    st.builds(lambda part, others: f"{part}:{others}", st.integers(0, 9), st.integers(1, 30)),
    st.builds(lambda part, more: f"{part}/{part + more}", st.integers(0, 9), st.integers(1, 30)),
)


@given(st.sampled_from(PLACEMENTS), st.integers(0, 100), depths)
def test_every_placement_gives_exactly_its_count_of_ascending_indices(placement, count, depth):
    count = min(count, depth)
    indices = place(placement, count, depth)
    assert len(indices) == count
    assert list(indices) == sorted(set(indices))
    assert all(0 <= i < depth for i in indices)


@given(st.integers(1, 50), st.integers(1, 50))
def test_even_placement_differs_by_at_most_one_between_gaps_and_is_not_first(count, more):
    depth = 2 * count + more - 1
    indices = place("even", count, depth)
    gaps = [after - before for before, after in itertools.pairwise(indices)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert indices[0] > 0


@given(depths, shares, st.sampled_from(PLACEMENTS), st.booleans())
def test_the_pattern_holds_the_rounded_count_of_attention(depth, ratio, placement, parallel):
    mix = Mix(depth=depth, ratio=ratio, placement=placement, parallel=parallel, mlp=None)
    mixers = [[use.name for use in sublayer.branches] for sublayer in mix.pattern().sublayers]
    part = share(ratio, "ratio")
    count = sum("attn" in names for names in mixers)
    assert len(mixers) == depth
    assert [i for i, names in enumerate(mixers) if "attn" in names] == list(mix.attention_indices)
    assert abs(count - part * depth) <= Fraction(1, 2) or (count == 1 and 0 < part * depth < Fraction(1, 2))
    assert all(names == (["attn", "mamba2"] if parallel else ["attn"]) for names in mixers if "attn" in names)


@given(depths, shares, st.integers(1, 5), st.data())
def test_mlps_and_experts_stand_where_they_are_asked_for(depth, mlp_share, moe_every, data):
    offset = data.draw(st.one_of(st.none(), st.integers(0, moe_every - 1)))
    mix = Mix(depth=depth, mlp_share=mlp_share, moe_every=moe_every, moe_offset=offset)
    found = [use.name for use in mix.pattern().uses]
    mlps = [name for name in found if name != "mamba2"]
    part = share(mlp_share, "mlp_share")
    assert abs(len(mlps) - part * depth) <= Fraction(1, 2) or len(mlps) == 1
    assert found[-1] in ("mlp", "moe") or not mlps
    assert all(found[i - 1] == "mamba2" for i, name in enumerate(found) if name != "mamba2")
    expected = moe_every - 1 if offset is None else offset
    assert [i for i, name in enumerate(mlps) if name == "moe"] == list(range(len(mlps)))[expected::moe_every]


@given(depths, shares, st.sampled_from(PLACEMENTS), st.integers(0, 4))
def test_the_expansion_is_canonical(depth, ratio, placement, moe_every):
    pattern = Mix(depth=depth, ratio=ratio, placement=placement, moe_every=moe_every).pattern()
    assert parse_pattern(str(pattern)) == pattern
    assert str(parse_pattern(str(pattern))) == str(pattern)


@pytest.mark.parametrize(
    "mix, indices",
    [
        (Mix(depth=32, ratio="1:7"), (4, 12, 20, 28)),  # Jamba
        (Mix(depth=48, ratio="1:3", placement="last"), tuple(range(3, 48, 4))),  # Qwen3-Next
        (Mix(depth=80, ratio=0.125, placement="last"), tuple(range(7, 80, 8))),  # MiniMax-01
        (Mix(depth=40, ratio="1:9"), (5, 15, 25, 35)),  # Granite 4.0 H
        (Mix(depth=12, ratio="1/2", placement="last"), (1, 3, 5, 7, 9, 11)),  # Samba
    ],
    ids=["jamba", "qwen3-next", "minimax-01", "granite-4.0-h", "samba"],
)
def test_a_published_placement_is_one_of_ours(mix, indices):
    assert mix.attention_indices == indices


@pytest.mark.parametrize(
    "placement, indices",
    [("front", (0, 1, 2)), ("back", (5, 6, 7)), ("middle", (3, 4, 5)), ("sandwich", (0, 1, 7)), ("even", (1, 4, 6)),
     ("last", (1, 4, 7)), ("6, 1,3", (1, 3, 6)), ([6, 1, 3], (1, 3, 6))],
)  # fmt: skip
def test_three_of_eight_stand_where_the_table_says(placement, indices):
    assert Mix(depth=8, ratio="3/8", placement=placement).attention_indices == indices


@pytest.mark.parametrize(
    "mix, line",
    [
        (Mix(depth=8, ratio="1:7", placement="4", moe_every=2),
         "(mamba2 mlp mamba2 moe)*2 attn mlp mamba2 moe mamba2 mlp mamba2 moe"),
        (Mix(depth=4, ratio=1, parallel=True), "(attn|mamba2 mlp)*4"),
        (Mix(depth=3, mlp=None, placement=[1]), "mamba2 attn mamba2"),
        (Mix(depth=3, mlp=None, placement=[]), "mamba2*3"),
        (Mix(depth=8, mixer="mamba2 gla", attention="attn@a attn@b", ratio="1:3", placement="last", mlp=None),
         "mamba2 gla mamba2 attn@a gla mamba2 gla attn@b"),
        (Mix(depth=4, mlp_share=0.5, mlp="mlp{hidden=64}"), "(mamba2*2 mlp{hidden=64})*2"),
        (Mix(depth=4, ratio=0.01, placement="back"), "(mamba2 mlp)*3 attn mlp"),
    ],
)  # fmt: skip
def test_a_mix_expands_to_its_line(mix, line):
    assert str(mix.pattern()) == line


@pytest.mark.parametrize("text", ["1:7", "1/8", "0.125", "0.5:3.5", " 1:7 "])
def test_a_share_is_read_however_it_is_written(text):
    assert share(text, "ratio") == share(0.125, "ratio") == Fraction(1, 8)


@pytest.mark.parametrize(
    "values, named",
    [
        ({}, "depth is missing"),
        ({"depth": 0}, "depth=0"),
        ({"depth": 10**6}, "depth=1000000"),
        ({"depth": 4, "ratio": 1.5}, "ratio=1.5"),
        ({"depth": 4, "ratio": "0:0"}, "ratio='0:0'"),
        ({"depth": 4, "ratio": "1e999999999"}, "ratio='1e9"),
        ({"depth": 4, "ratio": float("nan")}, "ratio=nan"),
        ({"depth": 4, "ratio": "many"}, "ratio='many'"),
        ({"depth": 4, "placement": "evne"}, "did you mean 'even'"),
        ({"depth": 4, "placement": [4]}, "between 0 and 3"),
        ({"depth": 4, "placement": "1,1"}, "twice"),
        ({"depth": 4, "placement": [1], "ratio": 0.5}, "placement lists 1"),
        ({"depth": 4, "mlp_share": 2}, "mlp_share=2"),
        ({"depth": 4, "moe_every": 2, "moe_offset": 2}, "moe_offset=2"),
        ({"depth": 4, "moe_every": 2, "mlp": None}, "moe_every=2"),
        ({"depth": 4, "mixers": "gla"}, "did you mean 'mixer'"),
        ({"depth": "4"}, "depth='4'"),
        ({"depth": 4, "parallel": "yes"}, "parallel='yes'"),
        ({"depth": 4, "mixer": None}, "mixer=None"),
        ({"depth": 4, "ratio": True}, "ratio=True"),
        ({"depth": 4, "placement": 3}, "placement=3"),
        ({"depth": 4, "moe_every": 2, "moe_offset": "0"}, "moe_offset='0'"),
    ],
)
def test_an_impossible_mix_is_refused_in_one_line_with_the_value(values, named):
    with pytest.raises(InvalidInput) as error:
        Mix.from_dict(values)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_layer_of_a_mix_is_named():
    with pytest.raises(InvalidInput, match="unknown layer 'mamba9'"):
        Mix(depth=2, mixer="mamba9").pattern()


MIXERS = [name for name in layer_names() if layer_config(name).role == "mixer" and not layer_config(name).reads]


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_is_built_at_every_share_place_depth_and_slot_of_experts(mixer):
    """The bill of each is that of the model that is built."""
    layers = {"moe": {"n_experts": 2, "top_k": 1, "hidden": 8}}
    last = {"adds_to": "stream"} if layer_config(mixer).adds_to != "stream" else {}
    axes = itertools.product(["0", "1:2", "1:1"], ["even", "sandwich"], [2, 3], [1.0, 0.5], [0, 2])
    for ratio, placement, depth, mlp_share, moe_every in axes:
        mix = Mix(depth=depth, mixer=mixer, ratio=ratio, placement=placement, mlp_share=mlp_share, moe_every=moe_every)
        config = ModelConfig(
            pattern=str(mix.pattern()),
            d_model=32,
            vocab_size=8,
            layers={**layers, mixer: {**layers.get(mixer, {}), **last}},
        )
        with torch.device("meta"):
            model = HybridModel(config)
        assert bill(config).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("ratio", ["1:3", "1:1", "3:1"])
def test_one_shared_cache_serves_any_share_of_attention(ratio):
    """YOCO as a mix: the first attention makes the cache, however many there are."""
    attention = "attn{keys_values=share} (attn{keys_values=read})*11"
    pattern = Mix(depth=12, mixer="gated_retention", attention=attention, ratio=ratio, placement="back").pattern()
    config = ModelConfig(pattern=str(pattern), d_model=32, vocab_size=8)
    kept = [place.layer.state_bytes(32, 100) for sublayer in config.sublayers() for place in sublayer]
    attentions = [n for n, sublayer in zip(kept, config.sublayers(), strict=True) if sublayer[0].layer.name == "attn"]
    assert attentions[0] > 0
    assert sum(attentions[1:]) == 0
