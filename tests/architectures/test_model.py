"""The model: its forms agree, labels share weights, masks choose logits, configs survive a round trip."""

import json

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig

LAYERS = {
    "attn": {"head_dim": 8},
    "swa": {"window": 4, "n_heads": 2},
    "mamba2": {"d_state": 4, "head_dim": 8},
    "mamba": {"d_state": 4},
    "moe": {"n_experts": 4, "hidden": 16},
    "rwkv6": {"mix_rank": 4, "decay_rank": 4},
}
PATTERNS = [
    "attn mlp",
    "(mamba2 mlp)*3 (attn moe)",
    "(attn|mamba2 mlp)*2",
    "(mamba2*2 attn@a)*2 mlp@b swa mlp@b",
    "linear retnet gla rwkv6 rwkv_channel mamba",
    "attn|swa|rwkv6 moe",
]
EVERY = pytest.mark.parametrize("pattern", PATTERNS)
TOLERANCE = 1e-5  # fp32, of the largest logit


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


def built(pattern: str, **settings) -> HybridModel:
    torch.manual_seed(0)
    settings = {"d_model": 32, "vocab_size": 50, "layers": LAYERS, **settings}
    model = HybridModel(ModelConfig(pattern=pattern, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def texts(B: int = 2, T: int = 14) -> torch.Tensor:
    return torch.randint(0, 50, (B, T), generator=torch.Generator().manual_seed(0))


@EVERY
@torch.no_grad()
def test_whole_text_prefill_and_token_by_token_give_the_same_logits(pattern):
    model, tokens = built(pattern), texts()
    whole, none = model(tokens)
    assert none is None
    for lengths in ([1] * 14, [9] + [1] * 5, [5, 6, 1, 2]):
        state, logits = model.init_state(2), []
        for piece in tokens.split(lengths, dim=1):
            piece_logits, state = model(piece, state)
            logits.append(piece_logits)
        assert_same(torch.cat(logits, 1), whole)


@EVERY
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(pattern):
    model, tokens = built(pattern), texts()
    changed = tokens.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 50
    before, after = model(tokens)[0], model(changed)[0]
    assert_same(after[:, :8], before[:, :8])
    assert not torch.allclose(after[:, 8], before[:, 8], atol=1e-3)


@EVERY
def test_gradients_reach_every_parameter(pattern):
    model, tokens = built(pattern).train(), texts(4, 24)
    loss = torch.nn.functional.cross_entropy(model(tokens)[0].flatten(0, 1), tokens.roll(-1, 1).flatten())
    (loss + model.auxiliary_loss()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_a_mask_chooses_the_positions_that_get_logits():
    model, tokens = built("mamba2 attn"), texts()
    at = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    assert_same(model(tokens, at_BT=at)[0], model(tokens)[0][at])


@pytest.mark.parametrize("options", [{}, {"logit_scale": 0.3}, {"logit_cap": 2.0}, {"tie_embeddings": False}], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_loss_is_the_cross_entropy_of_the_logits_with_the_same_gradients(options, share):
    model, tokens = built("mamba2 attn", **options).train(), texts()
    targets = tokens.roll(-1, 1)
    targets[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) > share] = -100
    at = targets != -100
    losses = (
        model.loss(tokens, targets),
        torch.nn.functional.cross_entropy(model(tokens, at_BT=at)[0], targets[at]),
    )
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    assert_same(*losses)
    for ours, wanted in zip(*gradients, strict=True):
        assert_same(ours, wanted)


def test_places_with_one_label_share_their_weights_and_no_state():
    model = built("(mamba2 attn@a)*2")
    assert len(model.layers) == 3
    state = model.init_state(1)
    assert len(state) == 4
    with torch.no_grad():
        _, state = model(texts(1), state)
    assert not torch.equal(state[1]["keys"], state[3]["keys"])


@torch.no_grad()
def test_parallel_branches_are_normed_and_averaged():
    model, tokens = built("attn|mamba2"), texts()
    h = model.embedding(tokens)
    x = model.norms[0](h)
    branches = [norm(layer(x)[0]) for norm, layer in zip(model.branch_norms[0], model.layers, strict=True)]
    h = h + (branches[0] + branches[1]) / 2
    assert_same(model(tokens)[0], model.final_norm(h) @ model.embedding.weight.T)


def test_auxiliary_loss_sums_over_the_experts_layers_and_is_zero_without():
    model = built("attn moe moe").train()
    model(texts())
    losses = [layer.auxiliary_loss for layer in model.layers if layer.auxiliary_loss is not None]
    assert len(losses) == 2
    torch.testing.assert_close(model.auxiliary_loss(), losses[0] + losses[1])
    plain = built("attn mlp").train()
    plain(texts())
    assert plain.auxiliary_loss() == 0


def test_the_capacity_is_that_of_the_worst_mixture_and_none_without_one():
    model = HybridModel(ModelConfig(pattern="(attn moe)*2", d_model=16, vocab_size=8))
    tokens_BT = torch.randint(8, (2, 9), generator=torch.Generator().manual_seed(0))
    model(tokens_BT)
    counts = [layer.tokens_per_expert for layer in model.layers if layer.capacity is not None]
    assert len(counts) == 2
    assert model.capacity() == max(float(count.max() * 8 / count.sum()) for count in counts)
    assert HybridModel(ModelConfig(pattern="attn mlp", d_model=16, vocab_size=8)).capacity() is None


def test_a_stream_of_many_sublayers_starts_no_larger_than_one_of_few():
    def spread(depth):
        torch.manual_seed(0)
        model = HybridModel(ModelConfig(pattern=f"(attn mlp)*{depth}", d_model=64, vocab_size=50))
        seen = []
        model.final_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].std().item()))
        with torch.no_grad():
            model(texts())
        return seen[0]

    assert spread(24) < 2 * spread(2)


def test_a_config_survives_json():
    config = ModelConfig(pattern="(mamba2 attn)*2", d_model=32, vocab_size=50, layers=LAYERS, norm_eps=1e-6)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_braces_in_the_pattern_win_over_the_options_by_name():
    config = ModelConfig(
        pattern="mamba2{d_state=16} mamba2", d_model=32, vocab_size=50, layers={"mamba2": {"d_state": 4}}
    )
    assert [place.layer.d_state for sublayer in config.sublayers() for place in sublayer] == [16, 4]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"d_model": 0}, "model: d_model=0 must be at least 1"),
        ({"vocab_size": 0}, "model: vocab_size=0 must be at least 1"),
        ({"layers": {"atn": {}}}, "unknown layer 'atn': did you mean 'attn'?"),
        ({"layers": {"attn": {"heads": 2}}}, "attn: unknown option 'heads': did you mean 'n_heads'?"),
        ({"layers": {"attn": {"n_heads": 5}}}, "attn: n_heads=5 does not cut the width 32"),
        ({"pattern": "attn{window=4}"}, "attn: unknown option 'window'"),
        ({"dmodel": 3}, "model: unknown key 'dmodel': did you mean 'd_model'?"),
    ],
)
def test_an_impossible_model_is_refused_in_one_line(settings, said):
    with pytest.raises(InvalidInput) as caught:
        ModelConfig.from_dict({"pattern": "attn mlp", "d_model": 32, "vocab_size": 50, **settings})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(InvalidInput, match="model: key 'vocab_size' is missing"):
        ModelConfig.from_dict({"pattern": "attn", "d_model": 32})
