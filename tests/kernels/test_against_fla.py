"""The PyTorch forms, in value and gradient, beside flash-linear-attention's plain forms of the same recurrences."""

import pytest
import torch
import torch.nn.functional as F
from hybridlab.kernels import delta_rule, dplr, gated_linear_attention
from torch import Tensor

pytest.importorskip("fla", reason="the peer is not installed")

B, T, H, K, V = 2, 70, 3, 16, 24


def inputs(*names: str) -> dict[str, Tensor]:
    """Leaves by name: q and k of norm 1, decays as such models have them."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    made = {
        "q": F.normalize(normal(B, T, H, K), dim=-1),
        "k": F.normalize(normal(B, T, H, K), dim=-1),
        "v": normal(B, T, H, V),
        "square": normal(B, T, H, K),
        "beta": normal(B, T, H).sigmoid(),
        "token": F.logsigmoid(normal(B, T, H)),
        "channel": F.logsigmoid(normal(B, T, H, K)),
        "bounded": -0.6065 * normal(B, T, H, K).sigmoid(),
        "bonus": normal(H, K),
        "rate": normal(B, T, H, K).sigmoid(),
    }
    return {name: made[name].requires_grad_() for name in names}


def heads_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def retnet(x):
    decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(H)))
    return gated_linear_attention(x["q"], x["k"], x["square"], decay=decay, backend="torch")[0]


def fla_retnet(x):
    from fla.ops.retention.naive import naive_retention

    return heads_first(naive_retention(heads_first(x["q"]), heads_first(x["k"]), heads_first(x["square"])))


def gla(x):
    return gated_linear_attention(x["q"], x["k"], x["v"], decay=x["channel"], backend="torch")[0]


def fla_gla(x):
    from fla.ops.gla.naive import naive_recurrent_gla

    return naive_recurrent_gla(x["q"], x["k"], x["v"], x["channel"])[0]


def rwkv6(x):
    return gated_linear_attention(
        x["q"], x["k"], x["v"], decay=x["channel"], bonus=x["bonus"], scale=1.0, backend="torch"
    )[0]


def fla_rwkv6(x):
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

    q, k, v, w = (heads_first(x[name]) for name in ("q", "k", "v", "channel"))
    return heads_first(naive_recurrent_rwkv6(q, k, v, w, x["bonus"], scale=1.0)[0])


def deltanet(x):
    return delta_rule(x["q"], x["k"], x["v"], x["beta"], backend="torch")[0]


def fla_deltanet(x):
    from fla.ops.delta_rule.naive import delta_rule_recurrence

    q, k, v, beta = (heads_first(x[name]) for name in ("q", "k", "v", "beta"))
    return heads_first(delta_rule_recurrence(q, k, v, beta)[0])


def gated_deltanet(x):
    return delta_rule(x["q"], x["k"], x["v"], x["beta"], decay=x["token"], backend="torch")[0]


def fla_gated_deltanet(x):
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    return naive_recurrent_gated_delta_rule(x["q"], x["k"], x["v"], x["beta"], x["token"])[0]


def kda(x):
    return delta_rule(x["q"], x["k"], x["v"], x["beta"], decay=x["channel"], backend="torch")[0]


def fla_kda(x):
    from fla.ops.kda.naive import naive_recurrent_kda

    return naive_recurrent_kda(x["q"], x["k"], x["v"], x["channel"], x["beta"])[0]


def rwkv7(x):
    """RWKV-7's transition: a removal key and the same key times its rate of learning in context."""
    return dplr(x["q"], x["k"], x["v"], -x["k"], x["k"] * x["rate"], decay=x["bounded"], scale=1.0, backend="torch")[0]


def fla_rwkv7(x):
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence

    arguments = (x["q"], x["k"], x["v"], -x["k"], x["k"] * x["rate"], x["bounded"])
    q, k, v, a, b, decay = (heads_first(each) for each in arguments)
    return heads_first(dplr_recurrence(q * K**0.5, k, v, a, b, decay)[0])


CASES = {
    "retnet": (retnet, fla_retnet, ("q", "k", "square")),
    "gla": (gla, fla_gla, ("q", "k", "v", "channel")),
    "rwkv6": (rwkv6, fla_rwkv6, ("q", "k", "v", "channel", "bonus")),
    "deltanet": (deltanet, fla_deltanet, ("q", "k", "v", "beta")),
    "gated_deltanet": (gated_deltanet, fla_gated_deltanet, ("q", "k", "v", "beta", "token")),
    "kda": (kda, fla_kda, ("q", "k", "v", "beta", "channel")),
    "rwkv7": (rwkv7, fla_rwkv7, ("q", "k", "v", "rate", "bounded")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_recurrence_is_theirs(name: str) -> None:
    ours, theirs, names = CASES[name]
    x, y = inputs(*names), inputs(*names)
    o, expected = ours(x), theirs(y)
    do = torch.randn(o.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(o, list(x.values()), do)
    expected_gradients = torch.autograd.grad(expected, list(y.values()), do)
    for what, a, b in zip(("o", *names), (o, *gradients), (expected, *expected_gradients), strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm(), f"{what}: {float((a - b).norm() / b.norm()):.1e}"
