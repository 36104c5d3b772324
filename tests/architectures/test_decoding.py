"""Generation."""

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig
from hybridlab.architectures.decoding import choose

LAYERS = {"attn": {"head_dim": 8}, "mamba2": {"d_state": 4, "head_dim": 8}, "swa": {"window": 3, "head_dim": 8}}


@pytest.fixture(scope="module")
def model() -> HybridModel:
    torch.manual_seed(0)
    config = ModelConfig(pattern="mamba2 attn swa mlp", d_model=16, vocab_size=30, layers=LAYERS, tie_embeddings=False)
    return HybridModel(config).eval()


def prompts(B: int = 3, T: int = 6) -> torch.Tensor:
    return torch.randint(0, 30, (B, T), generator=torch.Generator().manual_seed(1))


def test_greedy_generation_equals_argmax_over_the_whole_text_again_and_again(model):
    text = prompts()
    for _ in range(8):
        with torch.no_grad():
            text = torch.cat([text, model(text)[0][:, -1:].argmax(-1)], dim=1)
    torch.testing.assert_close(model.generate(prompts(), 8), text[:, 6:])


def test_a_batch_generates_what_its_rows_generate_alone(model):
    together = model.generate(prompts(), 6)
    for row in range(3):
        torch.testing.assert_close(model.generate(prompts()[row : row + 1], 6)[0], together[row])


def test_streaming_yields_the_same_tokens_one_at_a_time(model):
    streamed = list(model.stream(prompts(), 5))
    assert all(token.shape == (3,) for token in streamed)
    torch.testing.assert_close(torch.stack(streamed, 1), model.generate(prompts(), 5))


def test_generation_ends_when_every_row_has_stopped(model):
    free = model.generate(prompts(), 8)
    stop = sorted({int(token) for token in free[:, 2]})
    stopped = model.generate(prompts(), 8, stop=stop)
    assert stopped.shape[1] <= 3
    for row in range(3):
        end = next(i for i, token in enumerate(free[row].tolist()) if token in stop)
        assert stopped[row, : end + 1].tolist() == free[row, : end + 1].tolist()
        assert set(stopped[row, end:].tolist()) == {int(free[row, end])}


def test_no_new_tokens_is_an_empty_answer(model):
    assert model.generate(prompts(), 0).shape == (3, 0)


def test_drawing_is_repeatable_and_among_the_likeliest(model):
    def draw(seed):
        return model.generate(prompts(), 12, temperature=2.0, top_k=2, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    first = draw(0)[:, 0]
    with torch.no_grad():
        likeliest = model(prompts())[0][:, -1].topk(2).indices
    assert (first[:, None] == likeliest).any(1).all()


def test_temperature_sharpens_as_it_falls():
    logits = torch.tensor([[1.0, 2.0]]).expand(4000, 2)
    for temperature in (0.5, 2.0):
        drawn = choose(logits, temperature, None, torch.Generator().manual_seed(0)).float().mean()
        assert drawn == pytest.approx(torch.sigmoid(torch.tensor(1 / temperature)).item(), abs=0.03)


@pytest.mark.parametrize(
    "tokens, settings, said",
    [
        (torch.zeros(1, 0, dtype=torch.int64), {}, "a prompt needs at least one token"),
        (torch.zeros(3, dtype=torch.int64), {}, "the shape [B,T]"),
        (prompts(), {"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        (prompts(), {"top_k": 0}, "top_k=0 must be at least 1"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(model, tokens, settings, said):
    with pytest.raises(InvalidInput) as caught:
        model.stream(tokens, 4, **settings)
    assert said in str(caught.value)
