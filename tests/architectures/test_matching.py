"""Matching: every registered layer meets a budget on friendly widths, or is refused with the numbers."""

import re

import pytest
from hybridlab.architectures import InvalidInput, ModelConfig, bill, layer_config, layer_names, matching
from hybridlab.architectures.matching import BY, Budget, match
from hybridlab.architectures.published import Published, published_names, read_published
from hypothesis import given, settings
from hypothesis import strategies as st

MIXERS = [name for name in layer_names() if layer_config(name).role == "mixer"]
MLPS = [name for name in layer_names() if layer_config(name).role == "mlp"]
ATTENTION = ModelConfig(pattern="(attn mlp)*4", d_model=64, vocab_size=256)
HYBRIDS = [
    "(mamba2 mlp)*3 attn mlp",
    "mamba2 mlp attn mlp (mamba2 mlp)*2",
    "(mamba2 mlp)*3 attn moe",
    "(attn|mamba2 mlp)*4",
]


def model(pattern: str, d_model: int = 64, **layers) -> ModelConfig:
    return ModelConfig(pattern=pattern, d_model=d_model, vocab_size=256, layers=layers)


def checked(config: ModelConfig, budget: Budget):
    """The match, after holding it to what every match promises."""
    found = match(config, budget)
    assert found.wanted == budget.wanted
    assert found.achieved == budget.amount(found.config)
    assert found.mismatch == pytest.approx(found.achieved / found.wanted - 1)
    assert abs(found.mismatch) <= budget.tolerance
    assert found.config.pattern == config.pattern
    return found


@pytest.mark.parametrize("mixers", [2, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_meets_the_parameters_of_attention_at_width_64(mixer, mixers):
    like = model(f"(attn mlp)*{mixers}")
    found = checked(model(f"({mixer} mlp)*{mixers}"), Budget(like=like))
    assert found.config.d_model % 8 == 0
    assert 32 <= found.config.d_model <= 128


@pytest.mark.parametrize("pattern", HYBRIDS)
def test_every_hybrid_meets_the_parameters_of_attention_at_width_64(pattern):
    checked(model(pattern), Budget(like=ATTENTION))


@pytest.mark.parametrize("mlp", MLPS)
def test_every_mlp_is_a_fine_knob(mlp):
    found = checked(model(f"(mamba2 {mlp})*2"), Budget(value=1e6))
    assert found.config.layers[mlp]["hidden"] > 0


@given(
    st.sampled_from(MIXERS),
    st.sampled_from(MLPS),
    st.sampled_from(["parameters", "active_parameters", "flops"]),
    st.floats(17, 28).map(lambda power: 2.0**power),
    st.sampled_from([8, 16, 32]),
)
@settings(max_examples=60, deadline=None)
def test_any_mixer_meets_any_budget_or_is_refused_with_its_numbers(mixer, mlp, by, value, multiple):
    budget = Budget(by=by, value=value, multiple=multiple)
    try:
        found = checked(model(f"({mixer} {mlp})*3 attn {mlp}"), budget)
    except InvalidInput as refusal:
        best = re.search(r"best found is .* \(([+-].*)%\)", str(refusal))
        assert best is not None
        assert abs(float(best[1])) >= 2
        assert value < 2**24, "only small models lack widths"
    else:
        assert found.config.d_model % multiple == 0


RANGES = {"parameters": (16, 24), "active_parameters": (16, 24), "flops": (17, 25), "state": (15, 22)}
"""Powers of two between which budgets are drawn: the smallest of them lack widths."""


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("mixer", MIXERS)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_a_match_or_the_best_of_a_refusal_records_its_true_mismatch(mixer, by, data):
    power = data.draw(st.floats(*RANGES[by]))
    pattern = data.draw(st.sampled_from([f"({mixer} mlp)*4", f"({mixer} mlp)*3 attn mlp"]))
    budget = Budget(by=by, value=2.0**power)
    try:
        found = checked(model(pattern), budget)
    except InvalidInput as refusal:
        said = re.search(r"best found is ([\d,]+) \(([+-][\d.]+)%\) at d_model=(\d+)(.*)", str(refusal))
        assert said is not None
        layers = {name: {"hidden": int(value)} for name, value in re.findall(r", (\w+)\.hidden=(\d+)", said[4])}
        amount = budget.amount(model(pattern, int(said[3]), **layers))
        assert round(amount) == int(said[1].replace(",", ""))
        assert float(said[2]) == pytest.approx(100 * (amount / budget.wanted - 1), abs=0.006)
        assert abs(amount / budget.wanted - 1) > budget.tolerance
    else:
        assert found.config.d_model % 8 == 0
        assert found == match(model(pattern), budget), "twice the same"


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("mixer", MIXERS)
@given(st.integers(2, 128), st.floats(-0.015, 0.015))
@settings(max_examples=3, deadline=None)
def test_what_some_width_has_is_never_refused(mixer, by, eights, off):
    try:
        like = model(f"({mixer} mlp)*4", 8 * eights)
    except InvalidInput:
        return  # heads do not divide this width
    budget = Budget(by=by, value=Budget(by=by, like=like).wanted * (1 + off))
    checked(model(f"({mixer} mlp)*4"), budget)


@pytest.mark.parametrize(
    "pattern, value, d_model",
    [
        ("(deltanet mlp)*4", 1e6, 3056), ("(deltanet mlp)*4", 1e7, 7216), ("(gated_deltanet mlp)*4", 1e6, 1528),
        ("(gla mlp)*4", 1e6, 2016), ("(kda mlp)*4", 1e7, 7216), ("(lightning mlp)*4", 1e6, 7816),
        ("(retnet mlp)*4", 1e7, 4752), ("(rwkv6 mlp)*4", 1e7, 7760), ("(gated_retention mlp)*3 attn mlp", 1e7, 2088),
    ],
)  # fmt: skip
def test_a_state_that_jumps_from_width_to_width_is_matched_where_some_width_has_it(pattern, value, d_model):
    budget = Budget(by="state", value=value)
    assert budget.amount(model(pattern, d_model)) == pytest.approx(value, rel=0.005)
    assert checked(model(pattern), budget).config.d_model % 8 == 0


@given(st.sampled_from(MIXERS), st.floats(20, 28).map(lambda power: 2.0**power))
@settings(max_examples=30, deadline=None)
def test_a_larger_budget_never_gets_a_smaller_model(mixer, value):
    amounts = [match(model(f"({mixer} mlp)*4"), Budget(value=v, tolerance=0.01)).achieved for v in (value, 1.1 * value)]
    assert amounts[0] < amounts[1]


@pytest.mark.parametrize("by", BY)
def test_a_model_like_itself_is_left_as_it_is(by):
    config = model("(mamba2 mlp)*3 attn mlp", mlp={"hidden": 171})
    found = match(config, Budget(by=by, like=config))
    assert found.config == config
    assert found.mismatch == 0


@pytest.mark.parametrize("by", ["parameters", "active_parameters", "flops"])
def test_the_width_can_be_held_and_the_fine_knob_turned_alone(by):
    found = checked(model("(retnet mlp)*4"), Budget(by=by, like=ATTENTION, d_model=64))
    assert found.config.d_model == 64
    assert set(found.config.layers) == {"mlp"}


def test_state_is_matched_by_width():
    found = checked(model("(mamba2 mlp)*3 attn mlp", 256), Budget(by="state", value=4e6, sequence_length=4096))
    assert bill(found.config).state_bytes(4096) == found.achieved


def test_any_whole_option_can_be_the_fine_knob():
    budget = Budget(by="state", like=model("attn*4"), d_model=64, fine=("mamba2.d_state",), tolerance=0.05)
    found = checked(model("(mamba2 mlp)*4"), budget)
    assert set(found.config.layers) == {"mamba2"}
    assert found.config.layers["mamba2"]["d_state"] % 8 == 0


def test_widths_are_multiples_of_eight_before_they_are_finer():
    found = checked(model("(gla mlp)*4", 512), Budget(value=2e7, multiple=64))
    assert found.config.d_model % 64 == 0
    assert found.config.layers["mlp"]["hidden"] % 64 == 0


def test_proportions_stay_near_the_models_own_where_the_width_is_free():
    found = checked(model("(gla mlp)*4", 512, mlp={"ratio": 4.0}), Budget(value=5e7))
    assert set(found.config.layers["mlp"]) == {"hidden"}
    assert found.config.layers["mlp"]["hidden"] / found.config.d_model == pytest.approx(4, rel=0.1)


def test_mlps_and_experts_are_scaled_together():
    config = model("(gla mlp gla moe)*2", 256, mlp={"hidden": 1024}, moe={"hidden": 256})
    layers = checked(config, Budget(value=2e7)).config.layers
    assert layers["mlp"]["hidden"] / layers["moe"]["hidden"] == pytest.approx(4, rel=0.1)


def test_a_width_that_the_pattern_sets_is_left_as_written():
    config = model("(gla mlp{hidden=96} gla moe)*2")
    found = checked(config, Budget(value=3e6))
    assert set(found.config.layers) == {"moe"}
    with pytest.raises(InvalidInput, match="best found"):
        match(model("gla mlp{hidden=96}"), Budget(value=5e5, tolerance=1e-4))


def test_widths_that_heads_do_not_divide_are_passed_over():
    found = checked(model("(attn mlp)*2", 96, attn={"n_heads": 12}), Budget(value=3e6))
    assert found.config.d_model % 24 == 0


@pytest.mark.parametrize(
    "config, budget, said",
    [
        (model("mamba2*2"), Budget(value=2e5, tolerance=0.001),
         r"'mamba2\*2' has parameters=200,000 within 0.10% .*best found is [\d,]+ \([+-][\d.]+%\) at d_model="),
        (model("(attn mlp)*2"), Budget(value=10), r"parameters=10 .*best found"),
        (model("(attn mlp)*2"), Budget(value=1e15), r"best found"),
        (model("(attn mlp)*2"), Budget(value=1e6, d_model=64, tolerance=0.0001, by="state"), r"state=1,000,000"),
        (model("(attn mlp)*2", attn={"n_heads": 4}), Budget(value=1e6, d_model=66), r"n_heads=4"),
        (model("(attn mlp)*2"), Budget(value=1e6, fine=("mlp.hiden",)), r"mlp has no option 'hiden'; did you mean"),
        (model("(attn mlp)*2"), Budget(value=1e6, fine=("mpl.hidden",)), r"unknown layer 'mpl'"),
        (model("(attn mlp)*2"), Budget(value=1e6, fine=("attn.n_heads",)), r"no whole number"),
        (model("mlp*2"), Budget(by="state", value=1e6), r"'mlp\*2' has no state"),
        (model("attn"), Budget(by="state", like=model("mlp*2")), r"the model to be like has no state"),
    ],
)  # fmt: skip
def test_an_impossible_match_is_refused_in_one_line_with_the_numbers(config, budget, said):
    with pytest.raises(InvalidInput, match=said) as refusal:
        match(config, budget)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "values, named",
    [
        ({"value": 1e6, "by": "params"}, "by='params'"),
        ({}, "either value or like"),
        ({"value": 1e6, "like": ATTENTION}, "either value or like"),
        ({"value": -1.0}, "value=-1.0"),
        ({"value": float("nan")}, "value=nan"),
        ({"value": "1e6"}, "value='1e6'"),
        ({"value": 1e6, "multiple": 8.0}, "multiple=8.0"),
        ({"value": 1e6, "tolerance": 0.0}, "tolerance=0.0"),
        ({"value": 1e6, "multiple": 0}, "multiple=0"),
        ({"value": 1e6, "sequence_length": 0}, "sequence_length=0"),
        ({"value": 1e6, "d_model": 0}, "d_model=0"),
        ({"value": 1e6, "fine": ("hidden",)}, "fine=('hidden',)"),
    ],
)
def test_an_impossible_budget_is_refused_with_its_value(values, named):
    with pytest.raises(InvalidInput) as refusal:
        Budget(**values)
    assert named in str(refusal.value)


def proportions(config: ModelConfig) -> list[float]:
    """The hidden widths of all MLPs over d_model."""
    layers = [place.layer for sublayer in config.sublayers() for place in sublayer]
    return [layer.width(config.d_model) / config.d_model for layer in layers if hasattr(layer, "hidden")]


PUBLISHED = [published for name in published_names() if not (published := read_published(name)).missing]


@pytest.mark.parametrize("value", [10e6, 30e6])
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_a_published_shape_is_kept_at_its_own_vocabulary_or_the_vocabulary_is_named(published: Published, value):
    try:
        found = published.scaled(Budget(value=value, keep_shape=True))
    except InvalidInput as refusal:
        assert value == 10e6, "at 30 million every model has a width"
        alone = re.search(r"; the vocabulary of [\d,]+ tokens alone takes ([\d,]+)$", str(refusal))
        assert alone is not None
        assert int(alone[1].replace(",", "")) > value / 2
        return
    assert found.achieved == bill(found.config).parameters
    assert found.mismatch == found.achieved / value - 1
    assert abs(found.mismatch) <= matching.NEAR
    assert found.config.pattern == published.config.pattern
    assert found.config.d_model % 4 == 0
    for full, small in zip(proportions(published.config), proportions(found.config), strict=True):
        assert 0.799 <= small / full <= 1.251, "a quarter more, or as much less"


def test_a_shape_that_is_kept_may_miss_the_tolerance_where_a_sweep_refuses():
    budget = {"value": 3e7, "tolerance": 1e-4}
    found = match(model("(mamba2 mlp{hidden=96})*4"), Budget(**budget, keep_shape=True))
    assert 1e-4 < abs(found.mismatch) <= matching.NEAR
    with pytest.raises(InvalidInput, match="best found"):
        match(model("(mamba2 mlp{hidden=96})*4"), Budget(**budget))


def test_a_shape_is_refused_where_no_width_comes_near():
    said = r"within 10.00% on multiples of 4; .*\(\+\d+.*; the vocabulary of 256 tokens alone takes 1,024$"
    with pytest.raises(InvalidInput, match=said):
        match(model("(attn mlp)*2"), Budget(value=500, keep_shape=True))


def test_nothing_is_built_and_few_bills_are_read(monkeypatch):
    """Work is counted rather than timed, so that the claim holds on every machine."""
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *_: pytest.fail("a module was built"))
    for pattern in HYBRIDS:
        search = matching._Search(model(pattern), Budget(value=3e7))
        search.run()
        assert len(search.seen) <= 40
