"""The pattern language: what it reads, what it prints, what it refuses and where it points."""

import random

import pytest
from hybridlab.architectures.errors import InvalidInput
from hybridlab.architectures.pattern import MAX_SUBLAYERS, Pattern, Sublayer, Use, parse_pattern
from hypothesis import given, settings
from hypothesis import strategies as st

names = st.sampled_from(["attn", "swa", "mamba", "mamba2", "mlp", "moe"])
words = st.from_regex(r"[a-z_][a-z0-9_.\-]{0,6}", fullmatch=True).filter(lambda word: word not in ("true", "false"))
values = st.one_of(
    st.integers(-(10**12), 10**12), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), words
)
options = st.dictionaries(st.sampled_from(["window", "n_heads", "rope", "kind"]), values, max_size=3)
uses = st.builds(lambda name, given: Use(name, tuple(given.items())), names, options)
shared_uses = st.builds(lambda use: Use(use.name, use.options, str(use).encode().hex()), uses)  # a label a layer
sublayers = st.lists(st.one_of(uses, shared_uses), min_size=1, max_size=3).map(lambda b: Sublayer(tuple(b)))
sequences = st.lists(sublayers, min_size=1, max_size=8).map(tuple)
repetitive = st.recursive(
    sequences,
    lambda inner: st.one_of(
        st.builds(lambda block, count: block * count, inner, st.integers(1, 5)),
        st.builds(lambda first, second: first + second, inner, inner),
    ),
    max_leaves=4,
).filter(lambda found: len(found) <= 300)


def expanded(text: str) -> str:
    return " ".join(map(str, parse_pattern(text, check_names=False).sublayers))


@given(repetitive)
@settings(max_examples=200, deadline=None)
def test_printing_and_parsing_again_gives_the_same_sublayers(found):
    pattern = Pattern(found)
    again = parse_pattern(str(pattern), check_names=False)
    assert [str(s) for s in again.sublayers] == [str(s) for s in found]
    assert str(again) == str(pattern)


@given(repetitive, st.data())
@settings(max_examples=60, deadline=None)
def test_the_printed_line_depends_on_the_sublayers_alone(found, data):
    """However a sequence is cut, spaced and bracketed, it prints as the same line."""
    cut = data.draw(st.integers(0, len(found)))
    gap = data.draw(st.sampled_from([" ", "  ", "\n ", "\t"]))
    first, second = (gap.join(map(str, part)) for part in (found[:cut], found[cut:]))
    text = gap.join(f"({part}){gap}*{gap}1" for part in (first, second) if part)
    assert str(parse_pattern(text, check_names=False)) == str(Pattern(found))


@pytest.mark.parametrize(
    "text, sublayers",
    [
        ("(mamba2 mlp)*2 (attn moe)", "mamba2 mlp mamba2 mlp attn moe"),
        ("(mamba2*2 attn)*2", "mamba2 mamba2 attn mamba2 mamba2 attn"),
        ("swa{ window = 512 , rope=false } mlp", "swa{rope=false,window=512} mlp"),
        ("attn | mamba2 mlp", "attn|mamba2 mlp"),
        ("attn|mamba2*2", "attn|mamba2 attn|mamba2"),
        ("(mamba2*2 attn@a)*2", "mamba2 mamba2 attn@a mamba2 mamba2 attn@a"),
        ("((mamba2)mlp)attn", "mamba2 mlp attn"),
        ("gla{a=1,b=1.0,c=-2e-3,d=true,e=False,f=silu}", "gla{a=1,b=1.0,c=-0.002,d=true,e=false,f=silu}"),
        ("mamba3 nothing", "mamba3 nothing"),
    ],
)
def test_a_pattern_expands_to_its_sublayers(text, sublayers):
    assert expanded(text) == sublayers


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("(mamba2 mlp)*7 (attn moe)", "(mamba2 mlp)*7 attn moe"),
        ("mamba2 mamba2 mamba2 attn mamba2 mamba2 mamba2 attn", "(mamba2*3 attn)*2"),
        ("attn|mamba2 attn|mamba2", "(attn|mamba2)*2"),
        ("attn|mamba2 mlp attn|mamba2 mlp", "(attn|mamba2 mlp)*2"),
        ("(mamba2*6 attn@a)*3", "(mamba2*6 attn@a)*3"),
        ("(mamba2 mamba2)*6", "mamba2*12"),
        ("M-M-M-", "(mamba2 mlp)*3"),
        ("swa{window=512,rope=true}", "swa{rope=true,window=512}"),
    ],
)
def test_repetitions_are_factored_in_the_printed_line(text, canonical):
    assert str(parse_pattern(text, check_names=False)) == canonical


def test_numbers_keep_their_type_so_equal_values_are_not_merged():
    assert expanded("gla{a=1} gla{a=1.0} gla{a=true}") == "gla{a=1} gla{a=1.0} gla{a=true}"
    assert str(parse_pattern("gla{a=1} gla{a=1.0}", check_names=False)) == "gla{a=1} gla{a=1.0}"


@pytest.mark.parametrize(
    "text, column, why",
    [
        ("", None, "no layer"),
        ("  \n ", None, "no layer"),
        ("mlp ()", 5, "no layer between"),
        ("mlp (attn", 5, "not closed"),
        ("attn)", 5, "closes nothing"),
        ("attn*0", 6, "1 or more"),
        ("attn*x", 6, "count"),
        ("attn*-3", 6, "count"),
        ("(attn)|mlp", 7, "joins single layers"),
        ("attn|(mlp)", 6, "a layer's name"),
        ("attn||mlp", 6, "a layer's name"),
        ("attn, mlp", 5, "a layer's name"),
        ("mamba-2", 6, "a layer's name"),
        ("swa{window}", 11, "'='"),
        ("swa{window=}", 12, "a number"),
        ("swa{window=1.2.3}", 12, "a number"),
        ("swa{window=1e999}", 12, "too large"),
        ("swa{window=1 rope=true}", 14, "',' or '}'"),
        ("swa{window=1", 13, "',' or '}'"),
        ("swa{a=1,a=2}", 9, "twice"),
        ("swa{}", 5, "an option's name"),
        ("attn@", 6, "a label"),
        ("attn@a{rope=true}", 7, "before the label"),
        ("attn@a mlp attn{rope=true}@a", 12, "label 'a' is already attn@a"),
        ("attn@a mamba2@a", 8, "label 'a' is already attn@a"),
        ("(" * 51 + "attn" + ")" * 51, 51, "nested"),
    ],
)
def test_a_mistake_is_one_line_that_points_at_its_column(text, column, why):
    with pytest.raises(InvalidInput) as error:
        parse_pattern(text, check_names=False)
    line = str(error.value)
    assert why in line
    assert "\n" not in line
    if column is not None:
        assert f": column {column}: " in line


def test_an_unknown_layer_is_named_with_its_column_and_the_nearest_layer():
    with pytest.raises(InvalidInput, match=r"^pattern 'mlp attn mamba3': column 10: unknown layer 'mamba3'; did you"):
        parse_pattern("mlp attn mamba3")


@pytest.mark.parametrize(
    "text", ["attn*1000000000", "attn*" + "9" * 5000, "(attn*9999)*9999", "(attn*10000) attn", "mlp*5001 " * 2]
)
def test_a_pattern_that_explodes_is_refused_before_it_does(text):
    with pytest.raises(InvalidInput, match=f"more than {MAX_SUBLAYERS} sublayers"):
        parse_pattern(text, check_names=False)


def test_the_largest_patterns_still_print():
    assert str(parse_pattern(f"mlp attn*{MAX_SUBLAYERS - 1}", check_names=False)) == f"mlp attn*{MAX_SUBLAYERS - 1}"
    uses = {name: Sublayer((Use(name),)) for name in ("attn", "mlp", "mamba2")}
    irregular = Pattern(tuple(uses[name] for name in random.Random(0).choices(sorted(uses), k=MAX_SUBLAYERS)))
    assert parse_pattern(str(irregular), check_names=False) == irregular


@given(st.text(alphabet="amlp2 (){}|*@=,-M1/\n", max_size=30))
@settings(max_examples=500, deadline=None)
def test_any_text_is_either_a_pattern_or_one_clear_line(text):
    try:
        pattern = parse_pattern(text, check_names=False)
    except InvalidInput as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert parse_pattern(str(pattern), check_names=False) == pattern


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pattern(()),
        lambda: Pattern((Sublayer((Use("attn"),)),) * (MAX_SUBLAYERS + 1)),
        lambda: Pattern((Sublayer((Use("attn", label="a"), Use("mlp", label="a"))),)),
        lambda: Use("a b"),
        lambda: Use("attn", (("kind", "two words"),)),
        lambda: Use("attn", (("kind", "true"),)),
        lambda: Use("attn", (("scale", float("nan")),)),
        lambda: Use("attn", (("a", 1), ("a", 2))),
        lambda: Use("attn", label="a b"),
    ],
)
def test_what_could_not_be_printed_and_read_again_cannot_be_built(make):
    with pytest.raises(InvalidInput):
        make()
