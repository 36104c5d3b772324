"""Layers against what their papers and the libraries of record compute."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import layer_config

D_MODEL = 32
TOLERANCE = 1e-5  # fp32


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


def inputs(T: int = 17) -> torch.Tensor:
    return torch.randn(2, T, D_MODEL, generator=torch.Generator().manual_seed(0))


def built(name: str, **options):
    torch.manual_seed(0)
    layer = layer_config(name, options).build(D_MODEL).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer


def their_torch_form(monkeypatch: pytest.MonkeyPatch, cls: type) -> None:
    """transformers takes kernels of other packages where they are installed; this takes its own PyTorch form."""
    module = inspect.getmodule(cls)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == cls.__module__:
            monkeypatch.setattr(module, name, inspect.unwrap(function))


def copy_weights(ours: torch.nn.Module, theirs: torch.nn.Module, renamed: dict[str, str]) -> None:
    """Their parameters become ours; every one of theirs must be written."""
    source = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(source[renamed.get(name, name)].view_as(parameter))


def test_mamba_equals_transformers(monkeypatch):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    their_torch_form(monkeypatch, MambaMixer)
    theirs = MambaMixer(MambaConfig(hidden_size=D_MODEL, state_size=8, num_hidden_layers=1), layer_idx=0).eval()
    ours = built("mamba", d_state=8)
    copy_weights(ours, theirs, {"conv1d.weight": "conv.weight", "conv1d.bias": "conv.bias"})
    with torch.no_grad():
        assert_same(ours(inputs())[0], theirs(inputs()))


@pytest.mark.parametrize("n_groups", [1, 2])
def test_mamba2_equals_transformers(n_groups, monkeypatch):
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    their_torch_form(monkeypatch, Mamba2Mixer)
    config = Mamba2Config(
        hidden_size=D_MODEL,
        state_size=8,
        head_dim=16,
        num_heads=4,
        n_groups=n_groups,
        chunk_size=8,
        num_hidden_layers=1,
    )
    theirs = Mamba2Mixer(config, layer_idx=0).eval()
    ours = built("mamba2", d_state=8, head_dim=16, n_groups=n_groups)
    copy_weights(
        ours, theirs, {"conv1d.weight": "conv.weight", "conv1d.bias": "conv.bias", "norm.weight": "norm_weight"}
    )
    with torch.no_grad():
        assert_same(ours(inputs())[0], theirs(inputs()))


def test_gated_deltanet_equals_transformers(monkeypatch):
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    their_torch_form(monkeypatch, Qwen3NextGatedDeltaNet)
    config = Qwen3NextConfig(
        hidden_size=D_MODEL, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=16, num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = Qwen3NextGatedDeltaNet(config, layer_idx=0).eval()
    ours, x = built("gated_deltanet", n_heads=4, n_key_heads=2, d_state=8), inputs()
    q, k, v, z, beta, dt = ours.in_proj.weight.split([16, 16, 64, 64, 4, 4])
    by_group = [m.unflatten(0, (2, -1)) for m in (q, k, v, z)]  # theirs keeps what belongs to a key head together
    weights = {
        "in_proj_qkvz.weight": torch.cat(by_group, 1).flatten(0, 1),
        "in_proj_ba.weight": torch.cat([beta.unflatten(0, (2, 2)), dt.unflatten(0, (2, 2))], 1).flatten(0, 1),
        "conv1d.weight": ours.conv.weight[:, None],
        "dt_bias": ours.dt_bias,
        "A_log": ours.A_log,
        "norm.weight": ours.norm_weight,
        "out_proj.weight": ours.out_proj.weight,
    }
    theirs.load_state_dict(weights)
    with torch.no_grad():
        assert_same(ours(x)[0], theirs(x))


def test_kda_equals_transformers(monkeypatch):
    from transformers import KimiLinearConfig
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    their_torch_form(monkeypatch, KimiLinearDeltaAttention)
    config = KimiLinearConfig(
        hidden_size=D_MODEL, linear_num_heads=2, linear_head_dim=8, linear_conv_kernel_dim=4, num_hidden_layers=1,
        layer_types=["linear_attention"], rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = KimiLinearDeltaAttention(config, layer_idx=0).eval()
    ours, x = built("kda", n_heads=2, head_dim=8), inputs()
    q, k, v, beta, decay, gate = ours.in_proj.weight.split([16, 16, 16, 2, 8, 8])
    weights = {
        "q_proj.weight": q,
        "k_proj.weight": k,
        "v_proj.weight": v,
        "b_proj.weight": beta,
        "conv1d.weight": ours.conv.weight[:, None],
        "forget_gate.f_a_proj.weight": decay,
        "forget_gate.f_b_proj.weight": ours.decay_proj.weight,
        "forget_gate.dt_bias": ours.decay_bias,
        "forget_gate.A_log": ours.A_log.view(1, 1, 2, 1),
        "g_a_proj.weight": gate,
        "g_b_proj.weight": ours.gate_proj.weight,
        "o_norm.weight": ours.norm.weight,
        "o_proj.weight": ours.out_proj.weight,
    }
    theirs.load_state_dict(weights)
    with torch.no_grad():
        assert_same(ours(x)[0], theirs(x))


@torch.no_grad()
def test_deltanet_equals_its_formula_token_by_token():
    layer, x = built("deltanet", n_heads=2, negative_eigenvalues=True), inputs()
    qkv = F.pad(layer.qkv_proj(x), (0, 0, 3, 0))
    qkv = F.silu(torch.stack([qkv[:, w : w + x.shape[1]] * layer.conv.weight[:, w] for w in range(4)]).sum(0))
    q, k, v = qkv.unflatten(-1, (3, 2, 16)).unbind(2)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    beta = 2 * layer.beta_proj(x).sigmoid()
    S, outputs = torch.zeros(2, 2, 16, 16), []
    for t in range(x.shape[1]):
        recalled = (k[:, t, :, :, None] * S).sum(2)
        S = S + beta[:, t, :, None, None] * k[:, t, :, :, None] * (v[:, t] - recalled)[:, :, None]
        outputs.append((q[:, t, :, :, None] * S).sum(2) / 4)
    o = torch.stack(outputs, 1)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
    assert_same(layer(x)[0], layer.out_proj(o.flatten(2)))


@torch.no_grad()
def test_rwkv7_equals_its_formula_token_by_token():
    """The paper's equations, a state [V,K] as it writes it, one token after the other."""
    layer, x = built("rwkv7", n_heads=2, decay_rank=4, rate_rank=5, gate_rank=6), inputs()
    previous, S, outputs = torch.zeros(2, D_MODEL), torch.zeros(2, 2, 16, 16), []
    for t in range(x.shape[1]):
        r, w, k, v, a, g = (x[:, t] + (previous - x[:, t]) * mix for mix in layer.mixes)
        w = layer.decay + torch.tanh(w @ layer.decay_down) @ layer.decay_up
        w = torch.exp(-torch.exp(torch.tensor(-0.5)) * w.sigmoid())
        r, k, v = layer.r_proj(r), layer.k_proj(k), layer.v_proj(v)
        a = (layer.rate + a @ layer.rate_down @ layer.rate_up).sigmoid()
        kappa = F.normalize((k * layer.removal).view(2, 2, 16), dim=-1)
        k = k * (1 + (a - 1) * layer.replacement)
        r, w, k, v, a = (m.view(2, 2, 16) for m in (r, w, k, v, a))
        turn = torch.diag_embed(w) - kappa[..., None] * (a * kappa)[:, :, None]
        S = S @ turn + v[..., None] * k[:, :, None]
        o = (S @ r[..., None])[..., 0]
        o = (o - o.mean(-1, keepdim=True)) / (o.var(-1, keepdim=True, unbiased=False) + 64e-5).sqrt()
        o = o.flatten(1) * layer.group_norm.weight + layer.group_norm.bias
        o = o + ((r * k * layer.bonus).sum(-1, keepdim=True) * v).flatten(1)
        outputs.append(layer.out_proj(o * ((g @ layer.gate_down).sigmoid() @ layer.gate_up)))
        previous = x[:, t]
    assert_same(layer(x)[0], torch.stack(outputs, 1))


def test_conv_equals_transformers(monkeypatch):
    from transformers import Lfm2Config
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    their_torch_form(monkeypatch, Lfm2ShortConv)
    config = Lfm2Config(hidden_size=D_MODEL, num_hidden_layers=1, layer_types=["conv"], num_attention_heads=4)
    theirs, ours = Lfm2ShortConv(config, layer_idx=0).eval(), built("conv")
    copy_weights(ours, theirs, {})
    with torch.no_grad():
        assert_same(ours(inputs())[0], theirs(inputs()))


def test_lightning_equals_transformers():
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    config = MiniMaxConfig(hidden_size=D_MODEL, num_attention_heads=4, head_dim=8, num_hidden_layers=3, block_size=8)
    theirs = MiniMaxLightningAttention(config, layer_idx=1).eval()
    ours = built("lightning", n_heads=4, decay_factor=1 - 1 / (2 + 1e-5) + 1e-5)
    copy_weights(ours, theirs, {"output_gate.weight": "gate_proj.weight"})
    with torch.no_grad():  # theirs keeps a head's query, key and value together
        qkv = ours.qkv_proj.weight.view(3, 4, 8, D_MODEL).transpose(0, 1)
        theirs.qkv_proj.weight.copy_(qkv.reshape(-1, D_MODEL))
        theirs.norm.variance_epsilon = 1e-5
        x = inputs()
        rotation = (torch.empty(0), torch.empty(0))  # an argument that it does not use
        assert_same(ours(x)[0], theirs(x, rotation, attention_mask=None)[0])


def test_rglru_equals_transformers():
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(
        hidden_size=D_MODEL, lru_width=D_MODEL, num_attention_heads=4, num_hidden_layers=3, conv1d_width=4
    )
    theirs = RecurrentGemmaRecurrentBlock(config, layer_idx=0).eval()
    ours, x = built("rglru", n_heads=4), inputs()
    with torch.no_grad():
        weights = {
            "linear_y.weight": ours.in_proj.weight[:D_MODEL],
            "linear_y.bias": ours.in_proj.bias[:D_MODEL],
            "linear_x.weight": ours.in_proj.weight[D_MODEL:],
            "linear_x.bias": ours.in_proj.bias[D_MODEL:],
            "linear_out.weight": ours.out_proj.weight,
            "linear_out.bias": ours.out_proj.bias,
            "conv_1d.weight": ours.conv.weight[:, None],
            "conv_1d.bias": ours.conv.bias,
            "rg_lru.recurrent_param": ours.decay,
            "rg_lru.input_gate_weight": ours.gate_weight[0],
            "rg_lru.input_gate_bias": ours.gate_bias[0].view(4, 8),
            "rg_lru.recurrent_gate_weight": ours.gate_weight[1],
            "rg_lru.recurrent_gate_bias": ours.gate_bias[1].view(4, 8),
        }
        theirs.load_state_dict(weights)
        expected = theirs(x, torch.arange(x.shape[1])[None], attention_mask=None, use_cache=False)[0]
        assert_same(ours(x)[0], expected)


def test_mla_equals_transformers():
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    config = DeepseekV3Config(
        hidden_size=D_MODEL, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=12,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, rope_interleave=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = DeepseekV3Attention(config, layer_idx=0).eval()
    ours, x, T = built("mla", n_heads=4, kv_rank=12, rope_dim=4), inputs(), 17
    renamed = {
        "kv_a_proj_with_mqa.weight": "latent_proj.weight",
        "kv_a_layernorm.weight": "latent_norm.weight",
        "kv_b_proj.weight": "expand_proj.weight",
        "o_proj.weight": "out_proj.weight",
    }
    copy_weights(ours, theirs, renamed)
    theirs.kv_a_layernorm.variance_epsilon = 1e-5
    rotation = DeepseekV3RotaryEmbedding(config)(x, torch.arange(T)[None])
    hidden = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        assert_same(ours(x)[0], theirs(x, rotation, hidden)[0])


@pytest.mark.parametrize("window", [None, 5])
def test_attention_equals_a_plain_softmax_with_llamas_rotation(window):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    layer = built(
        "attn" if window is None else "swa", n_heads=4, n_kv_heads=2, **({} if window is None else {"window": window})
    )
    x, T = inputs(), 17
    q, k, v = layer.qkv_proj(x).split([32, 16, 16], dim=-1)
    q, k, v = (m.unflatten(-1, (-1, 8)).transpose(1, 2) for m in (q, k, v))
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=D_MODEL, num_attention_heads=4))
    q, k = apply_rotary_pos_emb(q, k, *rotary(x, torch.arange(T)[None]))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    back = torch.arange(T)[:, None] - torch.arange(T)
    seen = (back >= 0) & (back < (window or T))
    p = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    expected = layer.out_proj((p @ v).transpose(1, 2).flatten(2))
    with torch.no_grad():
        assert_same(layer(x)[0], expected)


def test_retnet_equals_its_parallel_formula():
    """Equation 5: (Q Kᵀ ∘ D) V with D_nm = γ^(n-m), then equation 8's group norm and gate."""
    layer = built("retnet", n_heads=2)
    x, T = inputs(), 17
    q, k, v, g = layer.qkvg_proj(x).split([32, 32, 64, 64], dim=-1)
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(8) / 8)
    turn = torch.polar(torch.ones_like(angle), angle)

    def turned(m):
        m = m.unflatten(-1, (2, 2, 8))
        m = torch.complex(m[..., 0, :], m[..., 1, :]) * turn[:, None]
        return m.transpose(1, 2)

    gamma = torch.tensor([1 - 2.0**-5, 1 - 2.0**-6])
    n = torch.arange(T)
    D = (gamma[:, None, None] ** (n[:, None] - n)).tril()
    o = ((turned(q) @ turned(k).conj().transpose(2, 3)).real / 4 * D) @ v.unflatten(-1, (2, 32)).transpose(1, 2)
    o = (o - o.mean(-1, keepdim=True)) / (o.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = layer.out_proj(F.silu(g) * o.transpose(1, 2).flatten(2))
    with torch.no_grad():
        assert_same(layer(x)[0], expected)


@torch.no_grad()
def test_gla_equals_its_formula_token_by_token():
    layer = built("gla", n_heads=2, d_state=4)
    x = inputs()
    q, k, v, g, low = layer.in_proj(x).split([8, 8, 32, 32, 16], dim=-1)
    alpha = torch.sigmoid(layer.decay_proj(low)) ** (1 / 16)
    q, k, v, g, alpha = (m.unflatten(-1, (2, -1)) for m in (q, k, v, g, alpha))
    S, outputs = torch.zeros(2, 2, 4, 16), []
    for t in range(x.shape[1]):
        S = alpha[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((q[:, t, :, :, None] * S).sum(2) / 2)
    o = torch.stack(outputs, 1)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight * F.silu(g)
    assert_same(layer(x)[0], layer.out_proj(o.flatten(2)))


@torch.no_grad()
def test_rwkv6_equals_its_formula_token_by_token():
    """The paper's equations 16 to 20, one token and one mix after the other."""
    layer = built("rwkv6", n_heads=2, mix_rank=4, decay_rank=6)
    x = inputs()
    previous, S, outputs = torch.zeros(2, D_MODEL), torch.zeros(2, 2, 16, 16), []
    for t in range(x.shape[1]):
        a, b = x[:, t], previous
        base = torch.tanh((a + (b - a) * layer.mix_x) @ layer.mix_down)
        w, k, v, r, g = (
            a + (b - a) * (layer.mixes[i] + base[:, 4 * i : 4 * i + 4] @ layer.mix_up[i]) for i in range(5)
        )
        w = torch.exp(-torch.exp(layer.decay + torch.tanh(w @ layer.decay_down) @ layer.decay_up))
        k, v, r, w = (m.view(2, 2, 16) for m in (layer.k_proj(k), layer.v_proj(v), layer.r_proj(r), w))
        kv = k[..., None] * v[:, :, None]
        o = (r[..., None] * (S + layer.bonus[..., None] * kv)).sum(2)
        S, previous = w[..., None] * S + kv, a
        o = (o - o.mean(-1, keepdim=True)) / (o.var(-1, keepdim=True, unbiased=False) + 64e-5).sqrt()
        o = o.flatten(1) * layer.group_norm.weight + layer.group_norm.bias
        outputs.append(layer.out_proj(o * F.silu(layer.g_proj(g))))
    assert_same(layer(x)[0], torch.stack(outputs, 1))


@torch.no_grad()
@pytest.mark.parametrize("gate", [True, False], ids=["rwkv6", "rwkv7"])
def test_rwkv_channel_equals_its_formula_token_by_token(gate):
    layer = built("rwkv_channel", gate=gate)
    x = inputs()
    previous, outputs = torch.zeros(2, D_MODEL), []
    for t in range(x.shape[1]):
        a, b = x[:, t], previous
        y = layer.out_proj(layer.k_proj(a + (b - a) * layer.mix_k).clamp_min(0) ** 2)
        outputs.append(torch.sigmoid(layer.r_proj(a + (b - a) * layer.mix_r)) * y if gate else y)
        previous = a
    assert_same(layer(x)[0], torch.stack(outputs, 1))


FEATURES = {"elu1": lambda x: F.elu(x) + 1, "relu": F.relu}


@torch.no_grad()
@pytest.mark.parametrize(
    "feature_map, normalize",
    [("elu1", True), ("elu1", False), ("relu", False)],
    ids=["elu1", "elu1 normed", "relu normed"],
)
def test_linear_attention_equals_its_weights_over_their_sum_or_normed(feature_map, normalize):
    layer = built("linear", n_heads=2, feature_map=feature_map, normalize=normalize)
    x = inputs()
    q, k, v = (m.unflatten(-1, (2, 16)).transpose(1, 2) for m in layer.qkv_proj(x).chunk(3, dim=-1))
    weights = (FEATURES[feature_map](q) @ FEATURES[feature_map](k).transpose(2, 3)).tril()
    if normalize:
        o = weights / weights.sum(-1, keepdim=True) @ v
    else:
        o = 16**-0.5 * weights @ v
        o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_same(layer(x)[0], layer.out_proj(o.transpose(1, 2).flatten(2)))


def state_space_token_by_token(ssm, u: torch.Tensor, discretization: str) -> torch.Tensor:
    """x' = A x + u, y = 2 Re(C x) + D u, discretised as the S4 papers write it."""
    dt, A = ssm.log_dt.exp()[:, None], torch.complex(-ssm.log_A_real.exp(), ssm.A_imag)
    if discretization == "zoh":
        decay, enter = (dt * A).exp(), ((dt * A).exp() - 1) / A
    else:
        decay, enter = (1 + dt * A / 2) / (1 - dt * A / 2), dt / (1 - dt * A / 2)
    x, outputs = torch.zeros(u.shape[0], *A.shape, dtype=torch.complex64), []
    for t in range(u.shape[1]):
        x = decay * x + enter * u[:, t, :, None]
        outputs.append(2 * (torch.view_as_complex(ssm.C) * x).sum(-1).real + ssm.D * u[:, t])
    return torch.stack(outputs, 1)


@torch.no_grad()
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s4d_equals_its_recurrence(discretization):
    layer, x = built("s4d", d_state=8, discretization=discretization), inputs()
    y = layer.out_proj(F.gelu(state_space_token_by_token(layer.ssm, x, discretization)))
    assert_same(layer(x)[0], y[..., :D_MODEL] * y[..., D_MODEL:].sigmoid())


@torch.no_grad()
def test_h3_equals_its_two_recurrences_and_gates():
    layer, x = built("h3", d_state=4), inputs()
    q, k, v = layer.qkv_proj(x).chunk(3, dim=-1)
    shifted = layer.shift_skip * k
    for age in range(4):
        shifted[:, age:] += layer.shift.weight[:, 3 - age] * k[:, : k.shape[1] - age]
    assert_same(layer(x)[0], layer.out_proj(q * state_space_token_by_token(layer.ssm, shifted * v, "zoh")))


@torch.no_grad()
def test_taylor_features_give_the_exponential_to_second_order():
    layer = built("linear", n_heads=2, d_state=4, feature_map="taylor")
    x = inputs()
    q, k, v = (m.unflatten(-1, (2, -1)).transpose(1, 2) for m in layer.qkv_proj(x).split([8, 8, 32], dim=-1))
    s = q @ k.transpose(2, 3) / 2
    weights = (1 + s + s**2 / 2).tril()
    o = weights / weights.sum(-1, keepdim=True) @ v
    assert_same(layer(x)[0], layer.out_proj(o.transpose(1, 2).flatten(2)))


@torch.no_grad()
def test_moe_equals_every_expert_weighted_by_the_router():
    layer = built("moe", n_experts=4, top_k=2, n_shared=1, hidden=16)
    x = inputs()
    p = layer.router(x).softmax(-1)
    kept = torch.where(p >= p.topk(2, dim=-1).values[..., -1:], p, 0.0)
    kept = kept / kept.sum(-1, keepdim=True)
    hidden = torch.einsum("btd,xdf->xbtf", x, layer.in_proj)
    gate, up = hidden.chunk(2, dim=-1)
    expected = torch.einsum("btx,xbtf,xfd->btd", kept, F.silu(gate) * up, layer.out_proj) + layer.shared(x)[0]
    assert_same(layer(x)[0], expected)
    assert layer.tokens_per_expert.sum() == 2 * 2 * 17


def test_a_balanced_router_costs_the_weight_and_a_collapsed_one_more():
    layer = built("moe", n_experts=4, top_k=1, hidden=16, balance_weight=0.5).train()
    with torch.no_grad():
        layer.router.weight.zero_()
    layer(inputs())
    assert layer.auxiliary_loss.item() == pytest.approx(0.5)  # X Σ f_e P_e is 1 where every P_e is 1/X
    with torch.no_grad():
        layer.router.weight[0] = 10.0
    layer(inputs().abs())
    assert layer.auxiliary_loss.item() == pytest.approx(4 * 0.5)
    layer.eval()(inputs())
    assert layer.auxiliary_loss is None


def test_balance_by_bias_evens_out_a_collapsed_router():
    layer = built("moe", n_experts=4, top_k=1, hidden=16, balance="bias", bias_step=0.05).train()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0] = 0.05
    x = inputs().abs()
    layer(x)
    assert layer.tokens_per_expert.tolist() == [34, 0, 0, 0]
    assert layer.capacity == 4  # all go to one of four
    for _ in range(40):
        layer(x)
    assert layer.tokens_per_expert.max() < 34
    assert layer.auxiliary_loss is None


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_steps_start_between_their_bounds(name):
    layer = layer_config(name, {"dt_min": 0.002, "dt_max": 0.05}).build(256)
    dt = F.softplus(layer.dt_proj.bias if name == "mamba" else layer.dt_bias)
    assert dt.min() >= 0.002 * 0.999
    assert dt.max() <= 0.05 * 1.001
    assert dt.max() > 4 * dt.min()


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 5])
def test_hymba_equals_its_two_halves_between_shared_projections(window):
    """Its Mamba half is ``mamba``'s, which is tested above; values are twice as wide as keys."""
    layer, x = built("hymba", n_heads=4, n_kv_heads=2, window=window, d_state=4), inputs()
    q, k, v = (
        m.unflatten(-1, (n, -1)) for m, n in zip(layer.qkv_proj(x).split([32, 16, 32], -1), (4, 2, 2), strict=True)
    )
    angle = torch.arange(17)[:, None] * 10_000.0 ** (-torch.arange(4) / 4)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]

    def turned(m):
        m = torch.complex(*m.chunk(2, -1)) * turn
        return torch.cat([m.real, m.imag], -1)

    q, k, v = (m.transpose(1, 2) for m in (turned(q), turned(k).repeat_interleave(2, 2), v.repeat_interleave(2, 2)))
    back = torch.arange(17)[:, None] - torch.arange(17)
    unseen = (back < 0) | (back >= (window or 17))
    attended = ((q @ k.mT / 8**0.5).masked_fill(unseen, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)
    halves = []
    for half, norm in ((attended, layer.attention_norm), (layer.mamba.inner(x, None), layer.mamba_norm)):
        halves.append(half / (half.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight)
    assert_same(layer(x)[0], (halves[0] + halves[1]) / 2 @ layer.mamba.out_proj.weight.T)
