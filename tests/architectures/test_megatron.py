"""Megatron's strings: read, written, and allocated as published."""

import pytest
from hybridlab.architectures.errors import InvalidInput
from hybridlab.architectures.megatron import SYMBOLS, is_megatron, pattern_from_ratios, to_megatron
from hybridlab.architectures.pattern import parse_pattern
from hypothesis import assume, given
from hypothesis import strategies as st

WALEFFE_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
WALEFFE_800M = "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-"


@pytest.mark.parametrize("published, layers", [(WALEFFE_8B, 56), (WALEFFE_800M, 48)], ids=["8B", "800M"])
def test_the_ratios_of_a_published_model_give_its_published_string(published, layers):
    assert pattern_from_ratios(layers, 0.08, 0.5) == published


@pytest.mark.parametrize(
    "layers, attention_ratio, mlp_ratio, expected",
    [(9, 0.0, 0.0, "M" * 9), (4, 1.0, 0.0, "****"), (4, 0.0, 1.0, "----"), (10, 0.2, 0.0, "MMM*MM*MMM")],
)
def test_ratios_at_the_ends_allocate_what_megatron_does(layers, attention_ratio, mlp_ratio, expected):
    assert pattern_from_ratios(layers, attention_ratio, mlp_ratio) == expected


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_ratios_give_the_rounded_counts(layers, attention_ratio, mlp_ratio):
    attention, mlps = round(layers * attention_ratio), round(layers * mlp_ratio)
    assume(attention + mlps <= layers)
    symbols = pattern_from_ratios(layers, attention_ratio, mlp_ratio)
    assert (len(symbols), symbols.count("*"), symbols.count("-")) == (layers, attention, mlps)


@pytest.mark.parametrize("arguments", [(0, 0.1, 0.1), (4, -0.1, 0.0), (4, 0.0, 1.5), (4, 0.8, 0.8)])
def test_impossible_ratios_are_refused(arguments):
    with pytest.raises(InvalidInput):
        pattern_from_ratios(*arguments)


@given(st.text(alphabet=sorted(SYMBOLS), min_size=1, max_size=60))
def test_a_megatron_string_survives_our_language_and_back(symbols):
    pattern = parse_pattern(symbols, check_names=False)
    assert len(pattern) == len(symbols)
    again = parse_pattern(str(pattern), check_names=False)
    assert again == pattern
    assert to_megatron(again) == symbols


def test_pipeline_bars_say_nothing_about_the_model():
    assert parse_pattern("M-M*|-M-M-") == parse_pattern("M-M*-M-M-")


@pytest.mark.parametrize(
    "text, megatron",
    [("M-M*-", True), ("*", True), ("MM", True), ("attn*3", False), ("(M*2)", False), ("attn", False), ("12", False)],
)
def test_a_text_is_megatrons_if_it_has_its_symbols_and_none_of_ours(text, megatron):
    assert is_megatron(text) is megatron


@pytest.mark.parametrize(
    "text, column, why",
    [
        ("M-M*/MM/MM", 5, "multi-token-prediction"),
        ("M[M*]", 2, "groups"),
        ("M-D-", 3, "DeepSeek"),
        ("M-Q-", 3, "'Q' is not one of"),
        ("M*2", 3, "'2' is not one of"),
    ],
)
def test_a_megatron_string_without_counterpart_is_refused_at_its_column(text, column, why):
    with pytest.raises(InvalidInput, match=f"column {column}: .*{why}"):
        parse_pattern(text, check_names=False)


@pytest.mark.parametrize("text", ["attn|mamba2", "attn@a", "attn{n_heads=4}", "mamba2 rwkv6"])
def test_what_megatrons_symbols_cannot_express_is_refused_by_name(text):
    with pytest.raises(InvalidInput, match=r"sublayer \d .* has no symbol"):
        to_megatron(parse_pattern(text, check_names=False))
