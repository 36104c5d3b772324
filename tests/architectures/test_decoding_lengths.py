"""Prompts of different lengths in one batch, for every mixer and every published mix."""

import re
from dataclasses import replace

import pytest
import torch
from hybridlab.architectures import (
    Budget,
    HybridModel,
    InvalidInput,
    ModelConfig,
    Published,
    bill,
    decoding,
    layer_names,
    published_names,
    steps,
)
from hybridlab.architectures.published import read_published
from torch.nn.utils.rnn import pad_sequence

WINDOW = {"swa": {"window": 5}}
NEW = 9
LENGTHS = (3, 11, 1, 11, 6)
BUILT = [model for model in map(read_published, published_names()) if not model.missing]


def prompts(vocab: int, lengths=LENGTHS) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(0, vocab, (n,), generator=g) for n in lengths]


def logits_of(model, rows, forced) -> torch.Tensor:
    """[steps,B,V]: the logits while every row is fed the same tokens ``forced``."""
    with torch.no_grad():
        logits, step = steps.begin(model, rows, len(forced))
        with step:
            return torch.stack([logits.clone(), *(step(token.expand(len(rows))).clone() for token in forced)])


def assert_rows_are_as_alone(
    model: HybridModel, rows: list[torch.Tensor], tolerance: float = 2e-4, new: int = NEW
) -> None:
    forced = torch.randint(0, model.config.vocab_size, (new,), generator=torch.Generator().manual_seed(2))
    together = logits_of(model, rows, forced)
    for b, row in enumerate(rows):
        with torch.no_grad():
            alone = model(torch.cat([row, forced])[None])[0][0, len(row) - 1 :]
        torch.testing.assert_close(together[:, b], alone, rtol=tolerance, atol=tolerance)


def small(pattern: str, **layers) -> HybridModel:
    torch.manual_seed(0)
    return HybridModel(ModelConfig(pattern=pattern, d_model=32, vocab_size=40, layers={**WINDOW, **layers})).eval()


def alone_in_a_model(name: str) -> str:
    """A pattern in which the layer can stand."""
    return f"{name} mlp"


@pytest.mark.parametrize("name", layer_names())
def test_every_layer_decodes_rows_of_different_lengths_as_alone(name):
    assert_rows_are_as_alone(small(alone_in_a_model(name)), prompts(40))


SHORT = {"window": 5, "chunk": 4, "filter_length": 6}
"""Of the published mixes' layers, so that prompts of a few tokens reach beyond them."""


def small_and_short(published: Published) -> ModelConfig:
    """Its shape at 2M parameters, no window, chunk or filter longer than SHORT's."""
    config = published.scaled(Budget(value=2e6, tolerance=0.3), vocab_size=64).config
    pattern = re.sub(r"\bwindow=\d+", f"window={SHORT['window']}", config.pattern)
    layers = {
        name: {option: SHORT.get(option, value) for option, value in options.items()}
        for name, options in config.layers.items()
    }
    return replace(config, pattern=pattern, layers=layers)


@pytest.mark.parametrize("published", BUILT, ids=lambda model: model.name)
def test_every_published_mix_decodes_rows_of_different_lengths_as_alone(published):
    torch.manual_seed(0)
    model = HybridModel(small_and_short(published)).eval()
    assert_rows_are_as_alone(model, prompts(64, (4, 13)), 1e-3, new=4)


@pytest.mark.parametrize("published", BUILT, ids=lambda model: model.name)
def test_every_published_mixs_cache_is_as_large_as_its_bill_says(published):
    config = small_and_short(published)
    model = HybridModel(config).eval()
    state = model.init_state(2)
    with torch.no_grad():
        _, state = model(torch.zeros(2, 17, dtype=torch.int64), state)
    assert model.state_nbytes(state) == 2 * bill(config).state_bytes(17, torch.float32)


@pytest.mark.parametrize("published", BUILT, ids=lambda model: model.name)
def test_every_published_mix_has_as_many_parameters_as_its_bill_says(published):
    """At full size, on a device without memory."""
    with torch.device("meta"):
        model = HybridModel(published.config)
    assert sum(p.numel() for p in model.parameters()) == bill(published.config).parameters


@pytest.fixture(scope="module")
def model() -> HybridModel:
    return small("mamba2 attn swa mlp")


def test_generated_tokens_are_those_of_each_prompt_alone(model):
    rows = prompts(40)
    together = model.generate(rows, NEW)
    for b, row in enumerate(rows):
        assert together[b].tolist() == model.generate(row[None], NEW)[0].tolist()


def test_a_padded_batch_with_lengths_is_the_list_of_its_rows(model):
    rows = prompts(40)
    padded = pad_sequence(rows, batch_first=True, padding_value=39)
    assert torch.equal(model.generate(padded, NEW, lengths=LENGTHS), model.generate(rows, NEW))
    assert torch.equal(model.generate([row.tolist() for row in rows], NEW), model.generate(rows, NEW))


def test_caches_that_fill_up_grow(model, monkeypatch):
    monkeypatch.setattr(steps, "ROOM", 4)
    rows = prompts(40)
    expected = [model.generate(row[None], 40)[0].tolist() for row in rows]
    assert model.generate(rows, 40).tolist() == expected


def test_one_row_stops_while_the_others_go_on(model):
    rows = prompts(40)
    free = model.generate(rows, NEW)
    stop = int(free[0, 2])
    stopped = model.generate(rows, NEW, stop=[stop])
    for row, until in zip(stopped.tolist(), free.tolist(), strict=True):
        end = until.index(stop) + 1 if stop in until else len(row)
        assert row[:end] == until[:end]
        assert set(row[end:]) <= {stop}


def test_states_that_cannot_be_put_together_are_stepped_apart(model, monkeypatch):
    expected = model.generate(prompts(40), NEW)
    monkeypatch.setattr(steps, "_why_apart", lambda *_: "a reason")
    assert torch.equal(model.generate(prompts(40), NEW), expected)


def test_a_state_that_grows_under_an_unknown_name_is_not_put_together(model):
    groups = [steps.Group(model, prompts(40), [0]), steps.Group(model, prompts(40), [1])]
    assert steps._why_apart(model, groups) is None
    for group in groups:
        group.state[0]["conv"] = torch.zeros(1, group.length, 2)
    assert "'conv' of layer 0 changes its shape" in str(steps._why_apart(model, groups))


@pytest.mark.parametrize(
    "given, settings, said",
    [
        ([], {}, "there is no prompt"),
        ([[1, 2], []], {}, "a prompt needs at least one token"),
        ([[1, 2]], {"lengths": [2]}, "lengths are for prompts of shape [B,T]"),
        (torch.ones(2, 3, dtype=torch.int64), {"lengths": [3]}, "lengths=[3] do not fit prompts of shape [2, 3]"),
        (torch.ones(2, 3, dtype=torch.int64), {"lengths": [3, 0]}, "a prompt needs at least one token"),
        ([[1, 2]], {"cuda_graphs": True}, "cuda_graphs=True needs a CUDA device"),
    ],
)
def test_impossible_prompts_are_refused(model, given, settings, said):
    with pytest.raises(InvalidInput) as caught:
        decoding.generate(model, given, 4, **settings)
    assert said in str(caught.value)


class Replayed(steps._Graph):
    """A graph's contract without a GPU: every step works on the very tensors of the first."""

    def __init__(self, model, state):
        self.state, self.weights = state, steps._addresses(model)
        self.token_B = torch.zeros(steps._sequences(state), dtype=torch.int64)
        self.model, self.places = model, [{n: x.data_ptr() for n, x in place.items()} for place in state]

    def __call__(self, token_B):
        self.token_B.copy_(token_B)
        logits = steps._in_place(self.model, self.token_B, self.state)
        assert self.places == [{n: x.data_ptr() for n, x in place.items()} for place in self.state]
        return logits


@pytest.fixture
def replayed(monkeypatch):
    """Decoding as on a GPU: each capture is preceded by two steps that spoil the state it is made with."""

    def warm(model, state):
        if not any(state):
            return "the model has no state"
        token_B = torch.zeros(steps._sequences(state), dtype=torch.int64)
        for _ in range(2):
            steps._in_place(model, token_B, state)
        return None

    monkeypatch.setattr(steps, "_why_no_graph", warm)
    monkeypatch.setattr(steps, "_Graph", Replayed)
    monkeypatch.setattr(steps, "GRAPHED", "cpu")
    yield
    steps.forget_graphs()


READERS = [
    "attn{keys_values=share} (attn{keys_values=read} mlp)*2",
    "swa{keys_values=share} swa{keys_values=read} mlp",
    "hymba{keys_values=share} hymba{keys_values=read} mlp",
]


@pytest.mark.parametrize("pattern", READERS)
def test_layers_that_read_another_layers_cache_decode_rows_as_alone(pattern, replayed):
    assert_rows_are_as_alone(small(pattern), prompts(40))


@pytest.mark.parametrize("name", layer_names())
def test_every_layer_steps_in_place_as_a_graph_must(name, replayed):
    assert_rows_are_as_alone(small(alone_in_a_model(name)), prompts(40))


def test_a_graph_is_kept_for_the_next_call_of_its_size_and_made_anew_as_caches_grow(replayed, monkeypatch):
    monkeypatch.setattr(steps, "ROOM", 4)
    made = []
    monkeypatch.setattr(Replayed, "__init__", counting(Replayed.__init__, made))
    model, rows = small("mamba2 attn swa mlp"), prompts(40)
    expected = [model.generate(row[None], 40)[0].tolist() for row in rows]
    steps.forget_graphs()
    made.clear()
    assert model.generate(rows, 3).tolist() == [row[:3] for row in expected]
    assert model.generate(rows, 2).tolist() == [row[:2] for row in expected]
    assert len(made) == 1
    assert model.generate(rows, 40).tolist() == expected
    assert len(made) > 2
    with torch.no_grad():
        model.embedding.weight.copy_(model.embedding.weight * 2)  # in place: the graph sees it
    again = model.generate(rows, 3)
    steps.forget_graphs()
    assert torch.equal(again, model.generate(rows, 3))


def counting(function, calls):
    def counted(*args):
        calls.append(args)
        return function(*args)

    return counted


def test_two_streams_of_one_model_do_not_share_a_graph(replayed):
    model, rows = small("mamba2 attn mlp"), prompts(40)
    expected = model.generate(rows, 6)
    pairs = list(zip(model.stream(rows, 6), model.stream(rows, 6), strict=True))
    for n in range(2):
        assert torch.equal(torch.stack([pair[n] for pair in pairs], 1), expected)
