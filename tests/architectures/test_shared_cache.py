"""Keys and values that one layer makes and others read: YOCO's cache, Hymba's pairs."""

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig, bill, layer_config
from hybridlab.architectures.context import Context

YOCO = "gated_retention mlp attn{keys_values=share} mlp (attn{keys_values=read} mlp)*2"
PAIRS = "swa{keys_values=share} swa{keys_values=read}|mamba mlp swa{keys_values=share} swa{keys_values=read}"
HYMBA = "hymba hymba{window=4, keys_values=share} mlp hymba{window=4, keys_values=read} mlp hymba"
PATTERNS = pytest.mark.parametrize("pattern", [YOCO, PAIRS, HYMBA], ids=["yoco", "pairs", "hymba"])
LAYERS = {"attn": {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True}, "swa": {"n_heads": 2, "window": 4}}
OPTIONS = [
    {"head_dim": 8},
    {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True, "rope_fraction": 0.5},
    {"n_heads": 2, "qk_norm": True, "qk_norm_over": "all", "output_gate": True, "bias": True, "out_bias": True},
    {"n_heads": 2, "rope": False, "scale": 0.2},
]
D_MODEL = 32


def model_of(pattern: str) -> HybridModel:
    torch.manual_seed(0)
    return HybridModel(ModelConfig(pattern=pattern, d_model=D_MODEL, vocab_size=50, layers=LAYERS)).eval()


def tokens(T: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, T), generator=torch.Generator().manual_seed(T))


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["attn", "swa"])
def test_a_reader_with_the_sharers_weights_is_the_sharer(name, options):
    options = options | ({"window": 5} if name == "swa" else {})
    torch.manual_seed(0)
    sharer = layer_config(name, {**options, "keys_values": "share"}).build(D_MODEL)
    reader = layer_config(name, {**options, "keys_values": "read"}).build(D_MODEL)
    n_queries = reader.q_proj.weight.shape[0]
    weights = {key: value for key, value in sharer.state_dict().items() if not key.startswith(("qkv_proj", "k_norm"))}
    weights |= {f"q_proj.{key}": value[:n_queries] for key, value in sharer.qkv_proj.state_dict().items()}
    reader.load_state_dict(weights)
    x = torch.randn(2, 13, D_MODEL)
    context = Context(x)
    torch.testing.assert_close(sharer(x, None, context)[0], reader(x, None, context)[0])


@torch.no_grad()
@PATTERNS
def test_prefill_and_steps_are_the_whole(pattern):
    model, text = model_of(pattern), tokens(14)
    whole = model(text)[0]
    for lengths in ([1] * 14, [6, 1, 1, 5, 1]):
        state, pieces = model.init_state(2), []
        for piece in text.split(lengths, dim=1):
            logits, state = model(piece, state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@PATTERNS
def test_rows_of_different_lengths_decode_as_alone(pattern):
    model = model_of(pattern)
    prompts = [tokens(5)[0], tokens(9)[1], tokens(2)[0]]
    together = model.generate(prompts, 6)
    alone = torch.cat([model.generate(prompt[None], 6) for prompt in prompts])
    assert torch.equal(together, alone)


@PATTERNS
def test_the_bill_is_that_of_the_model_and_readers_keep_nothing(pattern):
    model = model_of(pattern)
    costs = bill(model.config)
    assert costs.parameters == sum(p.numel() for p in model.parameters())
    _, state = model(tokens(11), model.init_state(2))
    assert model.state_nbytes(state) == 2 * costs.state_bytes(11, torch.float32)
    layers = [place.layer for sublayer in model.config.sublayers() for place in sublayer]
    for place, layer in zip(state, layers, strict=True):
        if getattr(layer, "keys_values", "") == "read":
            assert not {"keys", "values", "position"} & set(place)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_readers_bill_is_that_of_the_module(options):
    config = layer_config("attn", {**options, "keys_values": "read"})
    assert config.num_parameters(D_MODEL) == sum(p.numel() for p in config.build(D_MODEL).parameters())
    own = layer_config("attn", options)
    _, G, K = own.heads(D_MODEL)
    assert own.flops_per_token(D_MODEL, 9) - config.flops_per_token(D_MODEL, 9) == 2 * D_MODEL * 2 * G * K
    assert config.state_bytes(D_MODEL, 100) == 0


def test_gradients_reach_the_keys_from_their_readers():
    model = model_of("attn{keys_values=share} attn{keys_values=read}")
    model(tokens(8))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_reading_what_nobody_shares_is_refused():
    with pytest.raises(InvalidInput, match="attn in sublayer 1 reads 'keys', which no earlier layer shares"):
        ModelConfig(pattern="attn attn{keys_values=read}", d_model=32, vocab_size=50)


def test_chunks_are_not_chosen_from_anothers_cache():
    with pytest.raises(InvalidInput, match="sparse_attn: keys_values='read' must be own or share"):
        layer_config("sparse_attn", {"keys_values": "read"})
