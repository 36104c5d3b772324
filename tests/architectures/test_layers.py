"""What every registered layer promises: its bill, one function in three forms, causality, and gradients everywhere."""

import itertools
import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import (
    Layer,
    LayerConfig,
    delta_recurrence,
    diagonal_ssm,
    explicit_convolution,
    implicit_convolution,
    layer_config,
    layer_names,
    linear_recurrence,
    modal_convolution,
    nplr_ssm,
    parts,
    state_space,
)
from hybridlab.architectures.context import Context
from hybridlab.architectures.mixers import attn, hymba, mla, sparse_attn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

D_MODEL = 48
TOLERANCE = 1e-5  # fp32
CASES = {
    "attn": [
        {"head_dim": 8},
        {"n_heads": 4, "n_kv_heads": 2, "rope_fraction": 0.5, "qk_norm": True},
        {"head_dim": 16, "n_heads": 2, "output_gate": True},
        {"n_heads": 2, "rope": False},
        {"n_heads": 4, "head_dim": 8, "n_kv_heads": 2, "qk_norm": True, "qk_norm_over": "all", "bias": True},
        {"n_heads": 4, "output_gate": True, "bias": True, "out_bias": True, "scale": 0.3},
    ],
    "swa": [{"window": 4, "head_dim": 8}, {"window": 1}, {"window": 100, "n_heads": 6, "n_kv_heads": 3}],
    "linear": [
        {"head_dim": 8},
        {"n_heads": 3, "d_state": 4, "normalize": False, "feature_map": "relu", "conv": 3},
        {"normalize": False, "feature_map": "identity"},
        {"n_heads": 4, "d_state": 3, "feature_map": "taylor"},
    ],
    "gated_retention": [{"head_dim": 8}, {"n_heads": 2, "expand": 1.5}],
    "retnet": [{"head_dim": 8}, {"n_heads": 2, "expand": 1.5}],
    "mamba": [
        {"d_state": 8},
        {"d_state": 3, "d_conv": 2, "dt_rank": 5, "expand": 1.5},
        {"d_state": 4, "n_heads": 2, "dt_rank": 3},
        {"d_state": 4, "inner_norm": "learned", "bias": True, "conv_bias": False},
        {"d_state": 4, "inner_norm": "plain", "out_bias": True},
    ],
    "mamba2": [
        {"d_state": 8, "head_dim": 16},
        {"d_state": 4, "n_heads": 4, "n_groups": 2, "d_conv": 3, "expand": 1},
        {"d_state": 4, "n_heads": 4, "n_groups": 2, "out_norm": "before_gate", "bias": True, "dt_low": 0.05},
        {"d_state": 4, "out_norm": "none", "out_bias": True, "conv_bias": False, "dt_low": 0.01, "dt_high": 9.0},
    ],
    "gla": [{"head_dim": 8}, {"n_heads": 3, "d_state": 4, "decay_rank": 4}],
    "rwkv6": [{"head_dim": 8}, {"n_heads": 3, "mix_rank": 4, "decay_rank": 6}],
    "conv": [{}, {"d_conv": 5}, {"bias": True}],
    "lightning": [{"head_dim": 8}, {"n_heads": 4, "head_dim": 16, "decay_factor": 0.3}],
    "rglru": [{"head_dim": 8}, {"n_heads": 3, "expand": 1.5, "d_conv": 2}],
    "mla": [
        {"head_dim": 8},
        {"n_heads": 2, "head_dim": 16, "kv_rank": 12, "rope_dim": 4},
        {"n_heads": 3, "rope": False},
        {"n_heads": 2, "head_dim": 8, "value_dim": 12, "q_rank": 10, "bias": True, "head_gate": True},
    ],
    "deltanet": [{"head_dim": 8}, {"n_heads": 3, "d_conv": 2, "negative_eigenvalues": True}],
    "gated_deltanet": [
        {"head_dim": 8},
        {"n_heads": 4, "n_key_heads": 2, "d_state": 6, "expand": 1.5},
        {"n_heads": 3, "head_dim": 20, "d_state": 8, "negative_eigenvalues": True},
    ],
    "kda": [
        {"head_dim": 8},
        {"n_heads": 2, "head_dim": 12, "d_conv": 3},
        {"n_heads": 3, "rank": 0, "decay_bound": -5.0},
    ],
    "rwkv7": [{"head_dim": 8}, {"n_heads": 3, "decay_rank": 4, "rate_rank": 5, "gate_rank": 6}],
    "base_conv": [{}, {"expand": 1.5, "d_conv": 4, "bias": False}, {"form": "zoology"}],
    "hymba": [
        {"d_state": 4},
        {"n_heads": 4, "n_kv_heads": 2, "window": 5, "expand": 1, "d_conv": 2, "dt_rank": 5},
        {"n_heads": 3, "rope": False, "window": 1, "d_state": 3},
    ],
    "hyena": [
        {"max_length": 16},
        {"max_length": 8, "order": 3, "filter_features": 5, "filter_hidden": 6, "bias": False, "d_conv": 4},
        {"head_width": 4, "filter_hidden": 5, "tied_projections": 4},
    ],
    "hyena_li": [{}, {"d_state": 2, "poles": "complex", "bias": True}, {"d_state": 3, "channels_per_filter": 5}],
    "hyena_mr": [{}, {"filter_length": 5, "channels_per_filter": 5}],
    "hyena_se": [{}, {"filter_length": 3, "channels_per_filter": 1, "bias": True}],
    "sparse_attn": [
        {"chunk": 2, "top_k": 2, "head_dim": 8},
        {"chunk": 3, "top_k": 3, "n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
        {"chunk": 4, "top_k": 1, "n_heads": 2, "rope": False},
    ],
    "s4": [{"d_state": 8}, {"d_state": 6, "discretization": "zoh"}],
    "s4d": [{"d_state": 8}, {"d_state": 6, "discretization": "bilinear"}],
    "shared_block": [
        {"n_heads": 4},
        {"n_heads": 4, "n_kv_heads": 2, "rope": True, "hidden": 40, "adapter_rank": 3, "bias": True},
        {"head_dim": 24, "activation": "swiglu", "adapter_rank": 2, "attention_adapters": True},
    ],
    "h3": [{"d_state": 4}, {"d_state": 6, "discretization": "bilinear"}],
    "rwkv_channel": [{}, {"hidden": 20}, {"gate": False}],
    "mlp": [
        {},
        {"activation": "gelu", "hidden": 40},
        {"activation": "relu2", "ratio": 1.5},
        {"activation": "geglu", "bias": True},
        {"activation": "geglu_tanh", "hidden": 24},
    ],
    "moe": [
        {"hidden": 16},
        {"n_experts": 5, "top_k": 3, "n_shared": 2, "balance": "bias", "activation": "relu2"},
        {"hidden": 16, "n_shared": 1, "shared_hidden": 20, "shared_gate": True, "renormalize": False},
        {"hidden": 16, "n_shared": 1, "latent": 12, "activation": "relu2"},
        {"hidden": 16, "score": "sigmoid", "scale": 2.5, "n_groups": 4, "top_groups": 2, "top_k": 3, "balance": "none"},
    ],
}


def _id(case: tuple[str, dict]) -> str:
    return case[0] + "".join(f"-{key}={value}" for key, value in case[1].items())


EVERY = pytest.mark.parametrize("case", [(name, o) for name, options in CASES.items() for o in options], ids=_id)


def config_of(case: tuple[str, dict]) -> LayerConfig:
    return layer_config(*case)


class InContext(Layer):
    """A layer that reads a context, at one place: the embedding that it reads is a function of its input."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.layer, self.own = config.build(D_MODEL), config.build_per_use(D_MODEL)

    def init_state(self, batch_size, *, device=None, dtype=None):
        return self.layer.init_state(batch_size, device=device, dtype=dtype)

    def forward(self, x_BTD, state=None):
        return self.layer(x_BTD, state, Context(x_BTD.tanh(), self.own))


def module_of(case: tuple[str, dict]) -> Layer:
    config = config_of(case)
    return (
        InContext(config)
        if config.reads or config.shares or config.parameters_per_use(D_MODEL)
        else config.build(D_MODEL)
    )


def built(case: tuple[str, dict]) -> Layer:
    """The layer in evaluation mode, every parameter moved off the zeros that some start from."""
    torch.manual_seed(0)
    layer = module_of(case).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer


def inputs(T: int, B: int = 2) -> Tensor:
    return torch.randn(B, T, D_MODEL, generator=torch.Generator().manual_seed(T))


def continued(layer: Layer, x_BTD: Tensor, lengths: list[int], dtype: torch.dtype = torch.float32):
    """The layer over pieces of x, state handed on; (y of all pieces, last state)."""
    state = layer.init_state(x_BTD.shape[0], dtype=dtype)
    outputs = []
    for piece in x_BTD.split(lengths, dim=1):
        y, state = layer(piece, state)
        assert state is not None
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def test_every_registered_layer_is_tested_here():
    assert set(CASES) == set(layer_names())


@EVERY
def test_parameters_are_those_of_the_module(case):
    config = config_of(case)
    with torch.device("meta"):
        layer = module_of(case)
    billed = config.num_parameters(D_MODEL) + config.parameters_per_use(D_MODEL)
    assert billed == sum(p.numel() for p in layer.parameters())


@EVERY
@pytest.mark.parametrize("T", [1, 5, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_bytes_are_those_that_decoding_holds(case, T, dtype):
    layer = built(case).to(dtype)
    with torch.no_grad():
        prompt = continued(layer, inputs(T).to(dtype), [T], dtype)[1]
        steps = continued(layer, inputs(T).to(dtype), [1] * T, dtype)[1]
    for state in (prompt, steps):
        held = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
        assert held == 2 * config_of(case).state_bytes(D_MODEL, T, dtype)


@EVERY
def test_three_forms_are_one_function(case):
    layer, x = built(case), inputs(13)
    with torch.no_grad():
        whole = layer(x)[0]
        for lengths in ([1] * 13, [13], [6, 1, 1, 4, 1], [1, 12]):
            pieces = continued(layer, x, lengths)[0]
            torch.testing.assert_close(pieces, whole, rtol=TOLERANCE, atol=TOLERANCE)


@EVERY
def test_a_later_token_changes_nothing_earlier(case):
    layer, x = built(case), inputs(12)
    changed = x.clone()
    changed[:, 7] += 1
    with torch.no_grad():
        before, after = layer(x)[0], layer(changed)[0]
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=TOLERANCE, atol=TOLERANCE)
    assert (after[:, 7] - before[:, 7]).abs().max() > 1e-3


@EVERY
def test_gradients_reach_every_parameter(case):
    layer = built(case).train()
    y = layer(inputs(24))[0]
    (y.square().mean() + (layer.auxiliary_loss if layer.auxiliary_loss is not None else 0)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@EVERY
@pytest.mark.parametrize("T", [1, 11])
def test_flops_are_those_that_torch_counts(case, T, monkeypatch):
    """With each kernel in the form that does the needed products and no others, torch counts what the bill says."""
    layer, x = built(case), inputs(T, B=1)
    with torch.no_grad():
        expected = layer(x)[0]
        for module in (attn, hymba, mla):
            monkeypatch.setattr(module, "attend", needed_attention)
        monkeypatch.setattr(sparse_attn, "attend_chunks", needed_chunks)
        monkeypatch.setattr(linear_recurrence, "gated_linear_attention", token_by_token)
        monkeypatch.setattr(parts, "short_convolution", by_conv1d)
        monkeypatch.setattr(delta_recurrence, "delta_rule", delta_rule_token_by_token)
        monkeypatch.setattr(delta_recurrence, "dplr", dplr_token_by_token)
        monkeypatch.setattr(diagonal_ssm, "diagonal_scan", modes_token_by_token)
        monkeypatch.setattr(modal_convolution, "diagonal_scan", modes_token_by_token)
        monkeypatch.setattr(explicit_convolution, "convolve", lambda z, weight: by_conv1d(z, weight)[0])
        monkeypatch.setattr(implicit_convolution, "long_convolution", by_transform)
        filters = {m: m(T) for m in layer.modules() if isinstance(m, implicit_convolution.ImplicitFilter)}
        monkeypatch.setattr(implicit_convolution.ImplicitFilter, "forward", lambda self, length: filters[self])
        monkeypatch.setattr(nplr_ssm, "convolve", nplr_from_nothing)
        monkeypatch.setattr(nplr_ssm, "scan", nplr_token_by_token)
        monkeypatch.setattr(state_space, "selective_scan", scan_token_by_token)
        with FlopCounterMode(display=False, custom_mapping=TRANSFORMS) as counter:
            y = layer(x)[0]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert config_of(case).flops_per_token(D_MODEL, T) == pytest.approx(counter.get_total_flops() / T)


def needed_attention(q_BTHK, k_BTGK, v_BTGK, window=None, scale=None, visible=None):
    """Every token against the keys that it may see, and no others."""
    groups = q_BTHK.shape[2] // k_BTGK.shape[2]
    q, k, v = (m.transpose(1, 2) for m in (q_BTHK, k_BTGK, v_BTGK))
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    outputs = []
    for t in range(q.shape[2]):
        seen = slice(0 if window is None else max(0, t + 1 - window), t + 1)
        p = (q[:, :, t : t + 1] @ k[:, :, seen].transpose(2, 3) * (scale or q.shape[-1] ** -0.5)).softmax(-1)
        outputs.append(p @ v[:, :, seen])
    return torch.cat(outputs, dim=2).transpose(1, 2)


def needed_chunks(q, k, v, position, *, chunk, top_k, scale):
    """Every token and head against its own chunk and the best of the earlier ones, chosen where there is a choice."""
    B, T, H, K = q.shape
    k, v = (m.repeat_interleave(H // m.shape[2], 2) for m in (k, v))
    o = torch.empty_like(v)
    for b, t, h in itertools.product(range(B), range(T), range(H)):
        own = t // chunk
        kept = list(range(own))
        if own >= top_k:
            means = torch.stack([k[b, c * chunk : (c + 1) * chunk, h].mean(0) for c in kept])
            kept = (means @ q[b, t, h, :, None])[:, 0].topk(top_k - 1).indices.tolist()
        seen = [s for c in [*kept, own] for s in range(c * chunk, min((c + 1) * chunk, t + 1))]
        p = (q[b, t, None, h] @ k[b, seen, h].T * K**-0.5).softmax(-1)
        o[b, t, h] = (p @ v[b, seen, h])[0]
    return o


def token_by_token(q, k, v, *, decay, kind=None, bonus=None, scale=None, normalize=False, value_scale=None, skip=None):
    """The recurrence as its two products per token."""
    skipped = 0 if skip is None else skip[:, None] * v
    v = v if value_scale is None else value_scale[..., None] * v
    heads = v.shape[2] // q.shape[2]
    q, k = q.repeat_interleave(heads, 2), k.repeat_interleave(heads, 2)
    if normalize:
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    B, T, H, K = q.shape
    S = v.new_zeros(B, H, K, v.shape[-1])
    outputs = []
    for t in range(T):
        kv = k[:, t, :, :, None] @ v[:, t, :, None]
        if decay is not None:
            d = decay if decay.ndim == 1 else decay[:, t]
            S_before, S = S, S * (d.exp()[..., None] if d.ndim == 3 else d.exp()[..., None, None]) + kv
        else:
            S_before, S = S, S + kv
        read = S if bonus is None else S_before + bonus[..., None] * kv
        outputs.append((q[:, t, :, None] @ read)[:, :, 0])
    o = torch.stack(outputs, 1)
    o = o[..., :-1] / o[..., -1:] if normalize else o * (K**-0.5 if scale is None else scale)
    return o + skipped, None


def delta_rule_token_by_token(q, k, v, beta, *, decay):
    """The delta rule as its three products per token."""
    heads = v.shape[2] // q.shape[2]
    q, k = q.repeat_interleave(heads, 2), k.repeat_interleave(heads, 2)
    B, T, H, K = q.shape
    S, outputs = v.new_zeros(B, H, K, v.shape[-1]), []
    for t in range(T):
        if decay is not None:
            S = S * decay[:, t].exp().reshape(B, H, -1, 1)
        wrong = v[:, t, :, None] - k[:, t, :, None] @ S
        S = S + (beta[:, t, :, None] * k[:, t])[..., None] @ wrong
        outputs.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(outputs, 1) * K**-0.5, None


def dplr_token_by_token(q, k, v, a, b, *, decay, scale):
    """Diagonal plus low rank as its four products per token."""
    B, T, H, K = q.shape
    S, outputs = v.new_zeros(B, H, K, v.shape[-1]), []
    for t in range(T):
        read = a[:, t, :, None] @ S
        S = S * decay[:, t].exp()[..., None] + b[:, t, ..., None] @ read + k[:, t, ..., None] @ v[:, t, :, None]
        outputs.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(outputs, 1) * scale, None


def scan_token_by_token(u, dt, A, B, C, *, D, z, dt_bias, dt_softplus):
    """Mamba's recurrence: per channel an outer product of one input with B, and a product with C."""
    dt = F.softplus(dt + dt_bias) if dt_softplus else dt
    h = u.new_zeros(u.shape[0], u.shape[2], B.shape[-1])
    outputs = []
    for t in range(u.shape[1]):
        h = h * (dt[:, t, :, None] * A).exp() + (dt[:, t] * u[:, t])[:, :, None] @ B[:, t, None]
        outputs.append((h @ C[:, t, :, None])[:, :, 0])
    y = torch.stack(outputs, 1) + (0 if D is None else D * u)
    return y * (1 if z is None else F.silu(z)), None


def modes_token_by_token(u, log_decay, C, modes):
    """The diagonal state space: per channel and token, the real products of C with the state."""
    assert modes is None
    x = torch.zeros(u.shape[0], *C.shape, dtype=C.dtype)
    weights = 2 * (torch.cat([C.real, -C.imag], -1) if C.is_complex() else C)
    outputs = []
    for t in range(u.shape[1]):
        x = log_decay.exp() * x + u[:, t, :, None]
        held = torch.cat([x.real, x.imag], -1) if C.is_complex() else x
        outputs.append((held[:, :, None] @ weights[..., None])[:, :, 0, 0])
    return torch.stack(outputs, 1), None


def by_transform(x, filters):
    """A long convolution by transforms of twice its length; the filters', once a batch, is not counted."""
    T = x.shape[1]
    spectrum = torch.from_numpy(numpy.fft.rfft(filters.numpy(), n=2 * T)).to(torch.complex64)
    return torch.fft.irfft(torch.fft.rfft(x.mT, n=2 * T) * spectrum, n=2 * T)[..., :T].mT


def transform_flops(rows: int, n: int) -> float:
    """A real transform: half of a complex one's 5 n log₂ n."""
    return rows * 2.5 * n * math.log2(n)


def _there(shape, *_, out_shape=None, **__):
    return transform_flops(math.prod(shape[:-1]), shape[-1])


def _back(shape, dim, normalization, n, *, out_shape=None, **__):
    return transform_flops(math.prod(shape[:-1]), n)


TRANSFORMS = {torch.ops.aten._fft_r2c: _there, torch.ops.aten._fft_c2r: _back}


def nplr_from_nothing(u, dt, eigenvalues, P, B, C):
    """S4's bilinear recurrence."""
    return nplr_token_by_token(u, nplr_ssm.bilinear(dt, eigenvalues, P, B), C, None)[0]


def nplr_token_by_token(u, step, C, x):
    """S4's recurrence: B and C with the state, and either all of a dense step or both sides of its rank-one part."""
    assert x is None

    def stacked(v):
        return torch.cat([v.real, v.imag], -1)[..., None]

    row = 2 * stacked(C.conj()).mT
    x, outputs = u.new_zeros(u.shape[0], C.shape[0], 2 * C.shape[1], 1), []
    for t in range(u.shape[1]):
        now = u[:, t, :, None, None]
        if len(step) == 2:
            x = step[0] @ x + step[1][..., None] @ now
        else:
            a, p, q, b = step
            read = 2 * stacked(q.conj()).mT @ x
            kept = stacked(a * torch.complex(*x[..., 0].chunk(2, -1)))
            x = kept - stacked(p) @ read + stacked(b) @ now
        outputs.append((row @ x)[..., 0, 0])
    return torch.stack(outputs, 1), x


def by_conv1d(x, weight, bias=None, *, activation=None):
    """The convolution by torch's own."""
    E, W = weight.shape
    y = F.conv1d(F.pad(x.transpose(1, 2), (W - 1, 0)), weight[:, None], bias, groups=E).transpose(1, 2)
    return (F.silu(y) if activation == "silu" else y), None
