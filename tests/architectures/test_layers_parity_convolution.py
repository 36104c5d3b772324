"""S4 and the Hyenas against what their papers write, in fp64: dense state spaces, and convolutions term by term."""

import math

import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import layer_config, nplr_ssm

D_MODEL = 12
TOLERANCE = 1e-9  # fp64


def assert_same(ours, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def inputs(T=19, width=D_MODEL):
    return torch.randn(2, T, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def built(name, **options):
    torch.manual_seed(0)
    layer = layer_config(name, options).build(D_MODEL).eval().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer


def convolved(z, filters):
    """y_t = Σ_s filters[:, s] z_{t-s}, term by term."""
    y = torch.zeros_like(z)
    for t in range(z.shape[1]):
        for s in range(min(t + 1, filters.shape[1])):
            y[:, t] += filters[:, s] * z[:, t - s]
    return y


def hippo(N):
    """HiPPO-LegS as its paper has it: A, B and the vector P of S4's appendix C.1."""
    n = torch.arange(N, dtype=torch.float64)
    A = torch.zeros(N, N, dtype=torch.float64)
    for row in range(N):
        for column in range(row + 1):
            A[row, column] = -(row + 1) if row == column else -math.sqrt((2 * row + 1) * (2 * column + 1))
    return A, (2 * n + 1).sqrt(), (n + 0.5).sqrt()


def stepped(A, B, dt, discretization):
    """Ā and B̄ of a dense system."""
    one = torch.eye(len(A), dtype=A.dtype)
    if discretization == "bilinear":
        left = torch.linalg.inv(one - dt / 2 * A)
        return left @ (one + dt / 2 * A), left @ (dt * B)
    decayed = torch.linalg.matrix_exp(dt * A)
    return decayed, torch.linalg.solve(A, (decayed - one) @ B)


@torch.no_grad()
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65])
@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_s4_starts_as_the_dense_hippo_system(discretization, T):
    """Reading its state with P, which is C in whatever basis."""
    torch.manual_seed(1)
    ssm = layer_config("s4", {"d_state": 8, "discretization": discretization}).build(D_MODEL).double().ssm
    ssm.C.copy_(ssm.P * torch.tensor([1.0, -1.0]))
    A, B, P = hippo(8)
    u, expected = inputs(T), []
    for channel, dt in enumerate(ssm.log_dt.exp()):
        step, enter = stepped(A, B, dt, discretization)
        x, outputs = torch.zeros(2, 8, dtype=torch.float64), []
        for t in range(T):
            x = x @ step.T + enter * u[:, t, channel, None]
            outputs.append(x @ P + ssm.D[channel] * u[:, t, channel])
        expected.append(torch.stack(outputs, 1))
    expected = torch.stack(expected, -1)
    assert_same(ssm(u, None), expected, 1e-6)  # the initial values are complex64's
    if discretization == "bilinear":
        kernel = expected_kernel(ssm, T)
        system = (ssm.log_dt.exp(), ssm.eigenvalues(), *(torch.view_as_complex(m) for m in (ssm.P, ssm.B, ssm.C)))
        assert_same(nplr_ssm.cauchy_kernel(T, *system), kernel)


def expected_kernel(ssm, T):
    """C Ā^l B̄ by dense complex matrices over the modes and their conjugates, for whatever parameters."""
    kernel = []
    modes = [ssm.eigenvalues(), *(torch.view_as_complex(m) for m in (ssm.P, ssm.B, ssm.C))]
    Lambda, P, B, C = (torch.cat([m, m.conj()], -1) for m in modes)
    for channel, dt in enumerate(ssm.log_dt.exp()):
        A = torch.diag(Lambda[channel]) - torch.outer(P[channel], P[channel].conj())
        step, x = stepped(A, B[channel], dt, ssm.discretization)
        for _ in range(T):
            kernel.append((C[channel] @ x).real)
            x = step @ x
    return torch.stack(kernel).view(-1, T)


@torch.no_grad()
@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_s4_equals_its_dense_system_wherever_it_is_trained_to(discretization):
    layer, x = built("s4", d_state=6, discretization=discretization), inputs()
    ssm = convolved(x, expected_kernel(layer.ssm, x.shape[1])) + layer.ssm.D * x
    y = layer.out_proj(F.gelu(ssm))
    assert_same(layer(x)[0], y[..., :D_MODEL] * y[..., D_MODEL:].sigmoid())


@torch.no_grad()
def test_s4_in_fp32_stays_near_fp64():
    layer, x = built("s4", d_state=64), inputs(400)
    assert_same(layer.float()(x.float())[0].double(), layer.double()(x)[0], 1e-4)


@torch.no_grad()
def test_what_decoding_keeps_follows_the_parameters():
    layer, x = built("s4", d_state=6), inputs(2)
    step = layer(x[:, :1], layer.init_state(2))[0]
    layer.ssm.log_dt.add_(0.5)
    assert (layer(x[:, :1], layer.init_state(2))[0] - step).abs().max() > 1e-3
    assert_same(layer(x[:, :1], layer.init_state(2))[0], layer(x[:, :1])[0])


def poli_filter(filter, T):
    """h of Poli et al.'s appendix D.3, as their standalone code computes it."""
    L, bands = filter.max_length, filter.n_bands
    t = torch.arange(T, dtype=torch.float64)
    f = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    z = torch.exp(-1j * f * (2 * math.pi * t / L)[:, None])
    h = torch.cat([(t / (L - 1))[:, None], z.real, z.imag], -1)
    for linear in (filter.first, filter.second, filter.third):
        h = torch.sin(filter.frequency * linear(h))
    channels = filter.last.out_features
    delta = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, channels, dtype=torch.float64).abs()
    return (filter.last(h) * torch.exp(-(t / (L - 1))[:, None] * delta)).T


def projected(layer, x, n):
    """The projections after their short convolution."""
    u = layer.in_proj(x)
    short = convolved(u, layer.short.weight.flip(1))
    return (short if layer.short.bias is None else short + layer.short.bias).chunk(n, -1)


@torch.no_grad()
@pytest.mark.parametrize("order", [2, 3])
def test_hyena_equals_its_recurrence_of_gates_and_convolutions(order):
    layer = built("hyena", order=order, max_length=16, filter_features=5, filter_hidden=8)
    x = inputs()
    gates = projected(layer, x, order + 1)
    v = gates[-1]
    for gate, convolution in zip(gates[1:-1], layer.long, strict=True):
        z = gate * v
        v = convolved(z, poli_filter(convolution.filter, 19)) + convolution.skip * z
    assert_same(layer(x)[0], layer.out_proj(gates[0] * v))


@torch.no_grad()
def test_multi_head_hyena_equals_its_outer_products():
    """Massaroli et al., section 4: per head q (h * (k vᵀ) + D k vᵀ)."""
    layer, x = built("hyena", head_width=3, filter_features=3, filter_hidden=4), inputs()
    q, k, v = (m.unflatten(-1, (4, 3)) for m in projected(layer, x, 3))
    kv = torch.einsum("bthi,bthj->bthij", k, v)
    h = poli_filter(layer.long[0].filter, 19).repeat_interleave(9, 0)
    D = layer.long[0].skip.repeat_interleave(9)
    mixed = convolved(kv.flatten(2), h) + D * kv.flatten(2)
    y = torch.einsum("bthi,bthij->bthj", q, mixed.unflatten(-1, (4, 3, 3)))
    assert_same(layer(x)[0], layer.out_proj(y.flatten(2)))


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"poles": "complex", "d_state": 2, "bias": True}, {"channels_per_filter": 5}])
def test_hyena_li_equals_a_convolution_with_its_poles_and_residues(options):
    layer, x = built("hyena_li", **options), inputs()
    modal, t = layer.long[0], torch.arange(19)
    rate = -modal.log_rate.exp()
    log_pole = rate if modal.angle is None else torch.complex(rate, modal.angle)
    residue = modal.residue if modal.angle is None else torch.view_as_complex(modal.residue)
    h = (residue[..., None] * torch.exp(log_pole[..., None] * t)).sum(1).real
    h = h.repeat_interleave(options.get("channels_per_filter", 1), 0)[:D_MODEL]
    last, gate, v = projected(layer, x, 3)
    y = last * (convolved(gate * v, h) + modal.skip * gate * v)
    assert_same(layer(x)[0], layer.out_proj(y), 1e-5)  # its recurrence is fp32


@torch.no_grad()
def test_hyena_se_equals_a_convolution_over_seven_tokens_shared_by_channels():
    layer, x = built("hyena_se", channels_per_filter=5), inputs()
    last, gate, v = projected(layer, x, 3)
    h = layer.long[0].taps.flip(1).repeat_interleave(5, 0)[:D_MODEL]
    assert h.shape[1] == 7
    assert_same(layer(x)[0], layer.out_proj(last * convolved(gate * v, h)))


@torch.no_grad()
@pytest.mark.parametrize("T", [19, 150])
def test_hyena_mr_equals_a_convolution_with_fading_taps(T):
    layer, x = built("hyena_mr", channels_per_filter=4), inputs(T)
    last, gate, v = projected(layer, x, 3)
    age = torch.linspace(0, 1, 128, dtype=torch.float64)
    fade = torch.exp(-torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)[:, None] * age)
    h = (layer.long[0].taps.flip(1) * fade).repeat_interleave(4, 0)
    expected = convolved(gate * v, h) + layer.long[0].skip * gate * v
    assert_same(layer(x)[0], layer.out_proj(last * expected), 1e-6)  # the fading is computed in fp32


@torch.no_grad()
def test_base_conv_equals_the_released_based():
    layer, x = built("base_conv"), inputs()
    seen, gate = layer.in_proj(x).chunk(2, -1)
    seen = F.silu(convolved(seen, layer.conv.weight.flip(1)) + layer.conv.bias)
    assert seen.shape[-1] == 2 * D_MODEL
    assert_same(layer(x)[0], layer.out_proj(seen * gate))


@torch.no_grad()
def test_base_conv_equals_zoologys_definition():
    layer, x = built("base_conv", form="zoology"), inputs()
    gate = x @ layer.gate_proj.weight.T + layer.gate_proj.bias
    assert_same(layer(x)[0], gate * (convolved(x, layer.conv.weight.flip(1)) + layer.conv.bias))


@torch.no_grad()
@pytest.mark.parametrize("name", ["hyena", "hyena_li", "hyena_mr", "s4", "s4d"])
def test_a_long_prompt_is_read_in_pieces_as_a_whole(name):
    torch.manual_seed(0)
    layer, x = layer_config(name, {}).build(8), torch.randn(2, 530, 8)
    state, pieces = layer.init_state(2), []
    for piece in x.split([3, 520, 7], dim=1):
        pieces.append(layer(piece, state)[0])
    torch.testing.assert_close(torch.cat(pieces, 1), layer(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hyena", "hyena_li", "hyena_mr", "hyena_se", "s4", "s4d"])
def test_a_fresh_layer_neither_dies_out_nor_explodes(name):
    torch.manual_seed(0)
    layer = layer_config(name, {}).build(64)
    y = layer(torch.randn(2, 512, 64))[0]
    assert 0.003 < y.std() < 3
    assert y[:, -64:].std() > 0.5 * y[:, :64].std()
