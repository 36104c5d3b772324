"""What a layer may read beside its normed input, and where its output may go."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, Layer, LayerConfig, ModelConfig, State, bill, layer
from hybridlab.architectures.context import Context
from hybridlab.architectures.growing_cache import append
from hybridlab.architectures.layer import NormPlace, register
from hybridlab.architectures.softmax_attention import attend
from torch import Tensor, nn

D, K = 16, 4


@dataclass(frozen=True, kw_only=True)
class KeysConfig(LayerConfig):
    """Keeps a cache of keys and values for the layers after it; adds nothing itself."""

    name = "test_keys"
    role = "mixer"

    @property
    def shares(self) -> tuple[str, ...]:
        return ("keys", "values")

    def build(self, d_model: int) -> Layer:
        return Keys(d_model)

    def num_parameters(self, d_model: int) -> int:
        return d_model * 2 * K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * d_model * 2 * K

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return sequence_length * 2 * K * dtype.itemsize


class Keys(Layer):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.proj = nn.Linear(d_model, 2 * K, bias=False)

    def init_state(self, batch_size: int, *, device=None, dtype=None) -> State:
        return {"seen": torch.zeros(batch_size, 0, 2 * K, device=device, dtype=dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None, context: Context | None = None):
        assert context is not None
        seen = self.proj(x_BTD)
        if state is not None:
            seen = state["seen"] = append(state["seen"], seen)
        keys, values = seen.chunk(2, dim=-1)
        context.share("keys", keys)
        context.share("values", values)
        return torch.zeros_like(x_BTD), state


@dataclass(frozen=True, kw_only=True)
class CrossConfig(LayerConfig):
    """Attends to what was shared, beside the embedding, with a matrix of its own at each place."""

    name = "test_cross"
    role = "mixer"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("keys", "values", "embedding")

    def build(self, d_model: int) -> Layer:
        return Cross(d_model)

    def build_per_use(self, d_model: int) -> nn.Module:
        return nn.Linear(K, d_model, bias=False)

    def parameters_per_use(self, d_model: int) -> int:
        return K * d_model

    def num_parameters(self, d_model: int) -> int:
        return 2 * d_model * K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * (3 * d_model * K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return 0


class Cross(Layer):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.query = nn.Linear(2 * d_model, K, bias=False)

    def init_state(self, batch_size: int, *, device=None, dtype=None) -> State:
        return {}

    def forward(self, x_BTD: Tensor, state: State | None = None, context: Context | None = None):
        assert context is not None
        assert context.own is not None
        q = self.query(torch.cat([x_BTD, context.read("embedding")], dim=-1))
        o = attend(q[:, :, None], context.read("keys")[:, :, None], context.read("values")[:, :, None])
        return context.own(o.flatten(2)), state


@dataclass(frozen=True, kw_only=True)
class RawConfig(CrossConfig):
    """The same, for the next sublayer alone, from the stream without a norm."""

    name = "test_raw"

    norm: NormPlace = "none"
    adds_to: layer.Target = "next"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The layers above, for one test."""
    monkeypatch.setattr(layer, "_REGISTRY", dict(layer._REGISTRY))
    for cls in (KeysConfig, CrossConfig, RawConfig):
        register(cls)


def built(pattern: str, **options) -> HybridModel:
    torch.manual_seed(0)
    layers = {"attn": {"head_dim": 8}, "mamba2": {"d_state": 4, "head_dim": 8}, "mlp": {"hidden": 24}}
    return HybridModel(ModelConfig(pattern=pattern, d_model=D, vocab_size=30, layers=layers, **options)).eval()


def tokens(T: int = 11) -> Tensor:
    return torch.randint(0, 30, (2, T), generator=torch.Generator().manual_seed(2))


PATTERNS = [
    "mamba2 test_keys test_cross mlp test_cross",
    "test_keys test_cross@a mamba2 test_cross@a test_keys test_cross@a",
    "test_keys test_raw@a mamba2 mlp test_raw@a mamba2",
    "test_keys test_cross|mamba2 attn|test_keys test_cross",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_prompt_and_steps_equal_the_whole_and_the_cache_is_as_billed(pattern):
    model = built(pattern)
    whole = model(tokens())[0]
    for lengths in ([11], [4, 1, 1, 5], [1] * 11):
        state, pieces = model.init_state(2), []
        for piece in tokens().split(lengths, dim=1):
            logits, state = model(piece, state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
        assert model.state_nbytes(state) == 2 * model.bill().state_bytes(11, torch.float32)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_parameters_are_those_of_the_model_and_all_are_reached(pattern):
    model = built(pattern).train()
    assert bill(model.config).parameters == sum(p.numel() for p in model.parameters())
    assert bill(model.config).active_parameters == bill(model.config).parameters
    logits = model(tokens())[0]
    (logits.square().mean() + model.auxiliary_loss()).backward()
    for name, parameter in model.named_parameters():
        unread = "test_cross|mamba2 attn|test_keys" in pattern and name.startswith("branch_norms.2.1")
        assert unread or (parameter.grad is not None and parameter.grad.abs().sum() > 0), name


def test_each_use_of_a_shared_layer_has_its_own_weights():
    model = built("test_keys test_cross@a mamba2 test_cross@a")
    assert list(model.per_use) == ["1", "3"]
    before = model(tokens())[0]
    with torch.no_grad():
        model.per_use["3"].weight.zero_()
    assert not torch.equal(model(tokens())[0], before)
    assert bill(model.config).parameters == bill(built("test_keys test_cross mamba2 test_cross").config).parameters - (
        2 * D * K
    )


@torch.no_grad()
def test_a_reader_gets_what_the_nearest_earlier_layer_shared():
    model = built("test_keys test_cross test_keys test_cross")
    model.layers[2].proj.weight.zero_()
    first = model(tokens())[0]
    model.layers[2].proj.weight.normal_()
    assert not torch.equal(model(tokens())[0], first)


@torch.no_grad()
def test_what_is_for_the_next_sublayer_never_enters_the_stream():
    """h = h + mamba2(norm(h + t)): by hand."""
    model = built("test_keys test_raw mamba2")
    h = model.embedding(tokens())
    context = Context(h)
    h = h + model.layers[0](model.norms[0](h), None, context)[0]
    t = model.layers[1](h, None, context.at(model.per_use["1"]))[0]
    h = h + model.layers[2](model.norms[2](h + t))[0]
    expected = model.final_norm(h) @ model.embedding.weight.T
    torch.testing.assert_close(model(tokens())[0], expected)
    assert [isinstance(norm, nn.Identity) for norm in model.norms] == [False, True, False]


@pytest.mark.parametrize(
    "pattern, said",
    [
        ("test_cross test_keys", "test_cross in sublayer 0 reads 'keys', which no earlier layer shares"),
        ("test_cross|test_keys", "test_cross in sublayer 0 reads 'keys'"),
        ("test_keys mlp test_raw", "test_raw: adds_to='next' in the last sublayer: nothing comes after it"),
        ("attn{norm=post}|mamba2", "the branches of sublayer 0 differ in norm (post, pre); they have one stream"),
        ("attn{norm=past}", "norm='past': did you mean 'post'?"),
    ],
)
def test_impossible_models_are_refused(pattern, said):
    with pytest.raises(InvalidInput) as caught:
        built(pattern)
    assert said in str(caught.value)


@torch.no_grad()
def test_norms_stand_where_the_layer_says():
    """pre, post, stream with a weight, and none, by hand."""
    model = built("mlp mlp{norm=post} mlp{norm=stream,residual_weight=3.0} mlp{norm=none}", residual_scale=0.5)
    f, norm = (lambda i, x: model.layers[i](x)[0]), model.norms
    for weight in (norm[0].weight, norm[1].weight, norm[2].weight):
        weight.add_(0.3 * torch.randn(D))
    h = model.embedding(tokens())
    h = h + 0.5 * f(0, norm[0](h))
    h = h + 0.5 * norm[1](f(1, h))
    n = norm[2](h)
    h = 3.0 * n + 0.5 * f(2, n)
    h = h + 0.5 * f(3, h)
    torch.testing.assert_close(model(tokens())[0], model.final_norm(h) @ model.embedding.weight.T)


@torch.no_grad()
def test_the_models_scales_and_cap_are_where_they_are_said_to_be():
    model = built("mlp", embedding_scale=3.0, logit_scale=0.25, logit_cap=2.0)
    h = 3 * model.embedding(tokens())
    h = h + model.layers[0](model.norms[0](h))[0]
    logits = 0.25 * model.final_norm(h) @ model.embedding.weight.T
    torch.testing.assert_close(model(tokens())[0], 2 * torch.tanh(logits / 2))


@torch.no_grad()
def test_branches_may_be_summed():
    model = built("attn|mamba2", parallel="sum")
    h = model.embedding(tokens())
    x = model.norms[0](h)
    h = h + model.layers[0](x)[0] + model.layers[1](x)[0]
    torch.testing.assert_close(model(tokens())[0], model.final_norm(h) @ model.embedding.weight.T)
    assert bill(model.config).parameters == sum(p.numel() for p in model.parameters())


def test_options_at_their_defaults_are_not_written_so_that_identities_hold():
    plain = ModelConfig(pattern="attn mlp", d_model=16, vocab_size=30)
    assert set(plain.to_dict()) == {"pattern", "d_model", "vocab_size", "layers", "tie_embeddings", "norm_eps"}
    said = dataclasses.replace(plain, parallel="sum", logit_cap=30.0, residual_scale=0.5)
    assert said.to_dict().keys() - plain.to_dict().keys() == {"parallel", "logit_cap", "residual_scale"}
    assert ModelConfig.from_dict(said.to_dict()) == said


@pytest.mark.parametrize(
    "options, said",
    [
        ({"parallel": "mean"}, "model: parallel='mean': one of: average, sum"),
        ({"logit_cap": 0.0}, "model: logit_cap=0.0 must be a number above 0"),
        ({"embedding_scale": None}, "model: embedding_scale=None must be a number above 0"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(InvalidInput) as caught:
        ModelConfig(pattern="attn", d_model=16, vocab_size=30, **options)
    assert said in str(caught.value)
