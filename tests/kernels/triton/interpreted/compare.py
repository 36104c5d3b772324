"""The kernels beside the fp64 reference: outputs, final state and every gradient, on one random problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hybridlab.kernels import gated_linear_attention, gated_linear_attention_reference
from torch import Tensor

DECAYS = ("usual", "slow", "extreme", "uniform", "heavy")
# Relative errors ‖x − exact‖ / ‖exact‖; the decay's gradient is a sum of differences and gets more.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}
DECAY_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Problem:
    """A shape and what it holds; see `gated_linear_attention` for the names."""

    kind: str = "token"
    B: int = 1
    T: int = 100
    H: int = 2
    Hk: int = 2
    K: int = 32
    V: int = 24
    dtype: torch.dtype = torch.float32
    decay: str = "usual"
    bonus: bool = False
    state: bool = True
    cu_seqlens: tuple[int, ...] | None = None
    normalize: bool = False
    fixed: bool = False
    """Whether the decay requires no gradient."""


def decays(name: str, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Natural-log decays: as models have them, slow as GLA's, e^0, e^-30 or e^-50, uniform to e^-30, RWKV-6's heavy
    tail.
    """
    normal = torch.randn(shape, generator=g)
    if name == "extreme":
        return torch.tensor([0.0, -30.0, -50.0])[torch.randint(0, 3, shape, generator=g)]
    return {
        "usual": F.logsigmoid(2 * normal + 1),
        "slow": F.logsigmoid(normal) / 16,
        "uniform": -30 * torch.rand(shape, generator=g),
        "heavy": -torch.exp(2 * normal - 2),
    }[name]


def inputs(p: Problem, seed: int = 0) -> dict[str, Any]:
    """q, k, v in the problem's dtype; decay, bonus and initial state in float32."""
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(p.B, p.T, p.Hk, p.K, generator=g) for _ in range(2))
    v = torch.randn(p.B, p.T, p.H, p.V, generator=g)
    if p.normalize:
        q, k = q.abs() + 0.1, k.abs() + 0.1
    shapes = {"head": (p.H,), "token": (p.B, p.T, p.H), "channel": (p.B, p.T, p.H, p.K)}
    sequences = p.B if p.cu_seqlens is None else len(p.cu_seqlens) - 1
    state = torch.randn(sequences, p.H, p.K, p.V + p.normalize, generator=g)
    return {
        "q": q.to(p.dtype),
        "k": k.to(p.dtype),
        "v": v.to(p.dtype),
        "decay": decays(p.decay, shapes[p.kind], g) if p.kind in shapes else None,
        "bonus": torch.randn(p.H, p.K, generator=g) if p.bonus else None,
        "initial_state": (state.abs() if p.normalize else state) if p.state else None,
    }


def differentiable(p: Problem, tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Copies that require gradients, but for a fixed decay."""
    fixed = {"decay"} if p.fixed else set()
    return {n: None if x is None else x.detach().clone().requires_grad_(n not in fixed) for n, x in tensors.items()}


def run(f, p: Problem, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """o, the final state and the gradients, for random gradients of both results."""
    leaves = differentiable(p, tensors)
    cu_seqlens = None if p.cu_seqlens is None else torch.tensor(p.cu_seqlens, dtype=torch.int32)
    o, state = f(**leaves, kind=p.kind, output_final_state=True, normalize=p.normalize, cu_seqlens=cu_seqlens)
    g = torch.Generator().manual_seed(1)
    do = torch.randn(o.shape, generator=g).to(p.dtype).to(o.dtype)
    d_state = torch.randn(state.shape, generator=g).to(state.dtype)
    if p.normalize:
        d_state = torch.zeros_like(d_state)
    torch.autograd.backward([o, state], [do, d_state])
    gradients = {f"d{name}": x.grad for name, x in leaves.items() if x is not None and x.grad is not None}
    return {"o": o.detach(), "state": state.detach(), **gradients}


def errors(p: Problem, seed: int = 0) -> dict[str, float]:
    """Relative error of everything `run` returns, kernels against reference."""
    tensors = inputs(p, seed)
    ours = run(lambda **kwargs: gated_linear_attention(**kwargs, backend="triton"), p, tensors)
    double = {name: None if x is None else x.double() for name, x in tensors.items()}
    exact = run(gated_linear_attention_reference, p, double)
    assert ours.keys() == exact.keys()
    return {n: float((ours[n].double() - x).norm() / x.norm().clamp_min(1e-30)) for n, x in exact.items()}


def check(p: Problem, seed: int = 0) -> None:
    """Assert every error within the tolerance of the problem's dtype; NaN is never within."""
    for name, error in errors(p, seed).items():
        limit = (DECAY_TOLERANCE if name == "ddecay" else TOLERANCE)[p.dtype]
        assert error <= limit, f"{name}: {error:.1e} > {limit:.0e} for {p}"
