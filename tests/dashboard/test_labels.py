import pytest
from hybridlab.dashboard.labels import (
    EFFICIENCY_GROUPS,
    QUALITY_GROUPS,
    as_code,
    axis_title,
    describe,
    for_plotly,
    order_axes,
    quantity,
    shorten,
)


@pytest.mark.parametrize(
    ("column", "title", "unit", "smaller", "log"),
    [
        ("test/accuracy", "Test accuracy", "", False, False),
        ("validation/loss", "Validation loss", "nats per target", True, False),
        ("test/bits_per_byte", "Test bits per byte", "bits", True, False),
        ("efficiency/state_bytes/16384", "Decoding state at 16,384 tokens", "bytes", True, True),
        ("efficiency/decode_tokens_per_second/1024", "Decoding speed at 1,024 tokens", "tokens/s", False, True),
        ("bill/state_bytes/1024", "Decoding state at 1,024 tokens (computed)", "bytes", True, True),
        ("bill/flops_per_token", "FLOPs per token (computed)", "FLOPs", True, True),
        ("parameters", "Parameters", "", True, True),
        ("lm_eval/niah_single_1/4096", "niah_single_1 4096", "", False, False),
        ("lm_eval/wikitext/word_perplexity,none", "wikitext word perplexity", "", True, False),
        ("validation/expert_overflow_error", "Validation expert overflow error", "", True, False),
    ],
)
def test_a_metric_column_says_what_it_is_and_which_way_is_better(column, title, unit, smaller, log):
    axis = describe(column)
    assert (axis.title, axis.unit, axis.smaller_is_better, axis.log) == (title, unit, smaller, log)


def test_an_axis_title_carries_unit_scale_and_direction():
    state, accuracy = describe("efficiency/state_bytes/1024"), describe("test/accuracy")
    assert axis_title(state, log=True) == "Decoding state at 1,024 tokens (bytes, log scale, smaller is better)"
    assert axis_title(accuracy, log=False) == "Test accuracy (larger is better)"


def test_each_choice_begins_with_its_own_group_and_counts_lengths_as_numbers():
    columns = ["parameters", "efficiency/state_bytes/16384", "test/loss", "efficiency/state_bytes/1024"]
    assert order_axes(columns, QUALITY_GROUPS)[0] == "test/loss"
    lengths = ["efficiency/state_bytes/1024", "efficiency/state_bytes/16384"]
    assert order_axes(columns, EFFICIENCY_GROUPS)[:2] == lengths


def test_both_choices_offer_every_group():
    assert set(QUALITY_GROUPS) == set(EFFICIENCY_GROUPS)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.91344, "", "0.9134"),
        (999.0, "bytes", "999 B"),
        (1_310_720, "bytes", "1.31 MB"),
        (12_400, "tokens/s", "12.4k tokens/s"),
        (-2_500, "", "-2.5k"),
        (0, "", "0"),
        (1e18, "", "1e+06T"),
        (float("nan"), "bytes", "none"),
    ],
)
def test_a_quantity_reads_as_a_person_writes_it(value, unit, text):
    assert quantity(value, unit) == text


@pytest.mark.parametrize("text", ["plain", "a `b` c", "```", "`", "<b>x</b> $y$ :red[z]", "two\nlines", ""])
def test_a_code_span_holds_the_text_between_fences_that_are_not_in_it(text):
    span = as_code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    inside = span[len(fence) : -len(fence)]
    assert span.endswith(fence)
    assert fence not in inside.replace("`" * (len(fence) + 1), "")
    assert inside.strip() == (" ".join(text.split()) or "(empty)")


def test_plotly_gets_no_tag_no_latex_and_no_template():
    escaped = for_plotly("<b>x</b> $y$ %{x} & &lt;")
    assert not set("<>$%{") & set(escaped)
    assert escaped.startswith("&lt;b&gt;x&lt;/b&gt; &#36;y&#36;")
    assert escaped.endswith("&amp; &amp;lt;")


def test_a_long_name_keeps_both_ends():
    assert shorten("a" * 30 + "z" * 30, 11) == "aaaaa…zzzzz"
    assert shorten("short", 11) == "short"
