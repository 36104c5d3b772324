"""The rows of the benchmark: an operation at a shape, its random inputs, and the fewest bytes it must move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Op = Literal["linear", "retention", "simple_gla", "gla", "rwkv6", "mamba2", "step"]
KINDS = {
    "linear": "none",
    "retention": "head",
    "simple_gla": "token",
    "mamba2": "token",
    "gla": "channel",
    "rwkv6": "channel",
    "step": "token",
}


@dataclass(frozen=True)
class Case:
    """One row: B sequences of T tokens, H heads of width V, `groups` heads of q and k of width K (0: as many as H)."""

    op: Op
    B: int
    T: int
    H: int
    K: int
    V: int
    groups: int = 0
    forward_only: bool = False

    @property
    def shape(self) -> str:
        groups = f" G{self.groups}" if self.groups else ""
        return f"B{self.B} T{self.T} H{self.H} K{self.K} V{self.V}{groups}"

    @property
    def kind(self) -> str:
        return KINDS[self.op]


@dataclass
class Inputs:
    """bfloat16 q, k, v, decay per channel and bonus, float32 scalar decay; all but RetNet's require gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    bonus: Tensor | None


def make_inputs(case: Case, device: str, seed: int = 0) -> Inputs:
    """Fresh random inputs with decays as such models have them: RetNet's own, else logsigmoid(N(0, 1)) / 16."""
    g = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device)

    B, T, H, K, V = case.B, case.T, case.H, case.K, case.V
    half = torch.bfloat16
    q, k = (normal(B, T, case.groups or H, K).to(half) for _ in range(2))
    v = normal(B, T, H, V).to(half)
    decay = bonus = None
    if case.kind == "head":
        decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(H, device=device)))
    elif case.kind == "token":
        decay = (F.logsigmoid(normal(B, T, H)) / 16).requires_grad_()
    elif case.kind == "channel":
        decay = (F.logsigmoid(normal(B, T, H, K)) / 16).to(half).requires_grad_()
    if case.op == "rwkv6":
        bonus = normal(H, K).to(half).requires_grad_()
    return Inputs(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), decay, bonus)


def bytes_moved(case: Case, *, backward: bool) -> int:
    """The fewest bytes of device memory a pass touches: each input read once, each output written once."""
    tokens = case.B * case.T
    keys = 2 * 2 * tokens * (case.groups or case.H) * case.K
    values = 2 * tokens * case.H * case.V
    decay = {"none": 0, "head": 0, "token": 4, "channel": 2 * case.K}[case.kind] * tokens * case.H
    if case.op == "step":
        return 2 * 4 * case.B * case.H * case.K * case.V
    forward = keys + 2 * values + decay
    if not backward:
        return forward
    return forward + 2 * keys + 3 * values + 2 * decay


OPS: tuple[Op, ...] = ("linear", "retention", "simple_gla", "gla", "rwkv6")
CASES: tuple[Case, ...] = (
    *(Case(op, B=8, T=4096, H=16, K=128, V=128) for op in OPS),
    Case("mamba2", B=8, T=4096, H=32, K=128, V=64, groups=1),
    *(
        Case("simple_gla", B=B, T=T, H=H, K=D, V=D, forward_only=True)
        for D in (64, 128)
        for B, H in ((1, 4), (1, 16), (8, 16))
        for T in (512, 4096, 32768)
    ),
    *(Case("step", B=B, T=1, H=32, K=128, V=128, forward_only=True) for B in (1, 16, 64, 256)),
)
