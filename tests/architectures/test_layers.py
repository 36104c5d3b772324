"""What every registered layer promises: its bill, one function in three forms, causality, and gradients everywhere."""

import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import (
    Layer,
    LayerConfig,
    delta_recurrence,
    diagonal_ssm,
    layer_config,
    layer_names,
    linear_recurrence,
    parts,
    state_space,
)
from hybridlab.architectures.mixers import attn, mla
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
    ],
    "swa": [{"window": 4, "head_dim": 8}, {"window": 1}, {"window": 100, "n_heads": 6, "n_kv_heads": 3}],
    "linear": [
        {"head_dim": 8},
        {"n_heads": 3, "d_state": 4, "normalize": False, "feature_map": "relu", "conv": 3},
        {"normalize": False, "feature_map": "identity"},
        {"n_heads": 4, "d_state": 3, "feature_map": "taylor"},
    ],
    "retnet": [{"head_dim": 8}, {"n_heads": 2, "expand": 1.5}],
    "mamba": [{"d_state": 8}, {"d_state": 3, "d_conv": 2, "dt_rank": 5, "expand": 1.5}],
    "mamba2": [{"d_state": 8, "head_dim": 16}, {"d_state": 4, "n_heads": 4, "n_groups": 2, "d_conv": 3, "expand": 1}],
    "gla": [{"head_dim": 8}, {"n_heads": 3, "d_state": 4, "decay_rank": 4}],
    "rwkv6": [{"head_dim": 8}, {"n_heads": 3, "mix_rank": 4, "decay_rank": 6}],
    "conv": [{}, {"d_conv": 5}],
    "lightning": [{"head_dim": 8}, {"n_heads": 4, "head_dim": 16, "decay_factor": 0.3}],
    "rglru": [{"head_dim": 8}, {"n_heads": 3, "expand": 1.5, "d_conv": 2}],
    "mla": [
        {"head_dim": 8},
        {"n_heads": 2, "head_dim": 16, "kv_rank": 12, "rope_dim": 4},
        {"n_heads": 3, "rope": False},
    ],
    "deltanet": [{"head_dim": 8}, {"n_heads": 3, "d_conv": 2, "negative_eigenvalues": True}],
    "gated_deltanet": [{"head_dim": 8}, {"n_heads": 4, "n_key_heads": 2, "d_state": 6, "expand": 1.5}],
    "kda": [{"head_dim": 8}, {"n_heads": 2, "head_dim": 12, "d_conv": 3}],
    "rwkv7": [{"head_dim": 8}, {"n_heads": 3, "decay_rank": 4, "rate_rank": 5, "gate_rank": 6}],
    "s4d": [{"d_state": 8}, {"d_state": 6, "discretization": "bilinear"}],
    "h3": [{"d_state": 4}, {"d_state": 6, "discretization": "bilinear"}],
    "rwkv_channel": [{}, {"hidden": 20}],
    "mlp": [{}, {"activation": "gelu", "hidden": 40}, {"activation": "relu2", "ratio": 1.5}],
    "moe": [{"hidden": 16}, {"n_experts": 5, "top_k": 3, "n_shared": 2, "balance": "bias", "activation": "relu2"}],
}


def _id(case: tuple[str, dict]) -> str:
    return case[0] + "".join(f"-{key}={value}" for key, value in case[1].items())


EVERY = pytest.mark.parametrize("case", [(name, o) for name, options in CASES.items() for o in options], ids=_id)


def config_of(case: tuple[str, dict]) -> LayerConfig:
    return layer_config(*case)


def built(case: tuple[str, dict]) -> Layer:
    """The layer in evaluation mode, every parameter moved off the zeros that some start from."""
    torch.manual_seed(0)
    layer = config_of(case).build(D_MODEL).eval()
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
    with torch.device("meta"):
        layer = config_of(case).build(D_MODEL)
    assert config_of(case).num_parameters(D_MODEL) == sum(p.numel() for p in layer.parameters())


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
        for module in (attn, mla):
            monkeypatch.setattr(module, "attend", needed_attention)
        monkeypatch.setattr(linear_recurrence, "gated_linear_attention", token_by_token)
        monkeypatch.setattr(parts, "short_convolution", by_conv1d)
        monkeypatch.setattr(delta_recurrence, "delta_rule", delta_rule_token_by_token)
        monkeypatch.setattr(delta_recurrence, "dplr", dplr_token_by_token)
        monkeypatch.setattr(diagonal_ssm, "diagonal_scan", modes_token_by_token)
        monkeypatch.setattr(state_space, "selective_scan", scan_token_by_token)
        with FlopCounterMode(display=False) as counter:
            y = layer(x)[0]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert config_of(case).flops_per_token(D_MODEL, T) == pytest.approx(counter.get_total_flops() / T)


def needed_attention(q_BTHK, k_BTGK, v_BTGK, window=None):
    """Every token against the keys that it may see, and no others."""
    groups = q_BTHK.shape[2] // k_BTGK.shape[2]
    q, k, v = (m.transpose(1, 2) for m in (q_BTHK, k_BTGK, v_BTGK))
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    outputs = []
    for t in range(q.shape[2]):
        seen = slice(0 if window is None else max(0, t + 1 - window), t + 1)
        p = (q[:, :, t : t + 1] @ k[:, :, seen].transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        outputs.append(p @ v[:, :, seen])
    return torch.cat(outputs, dim=2).transpose(1, 2)


def token_by_token(q, k, v, *, decay, kind=None, bonus=None, scale=None, normalize=False):
    """The recurrence as its two products per token."""
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
    return (o[..., :-1] / o[..., -1:] if normalize else o * (K**-0.5 if scale is None else scale)), None


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
    weights = 2 * torch.cat([C.real, -C.imag], -1)
    outputs = []
    for t in range(u.shape[1]):
        x = log_decay.exp() * x + u[:, t, :, None]
        outputs.append((torch.cat([x.real, x.imag], -1)[:, :, None] @ weights[..., None])[:, :, 0, 0])
    return torch.stack(outputs, 1), None


def by_conv1d(x, weight, bias=None, *, activation=None):
    """The convolution by torch's own."""
    E, W = weight.shape
    y = F.conv1d(F.pad(x.transpose(1, 2), (W - 1, 0)), weight[:, None], bias, groups=E).transpose(1, 2)
    return (F.silu(y) if activation == "silu" else y), None
