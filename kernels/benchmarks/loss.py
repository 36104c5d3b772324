"""The benchmark's row of the loss, beside the same loss of PyTorch from all logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import linear_cross_entropy
from .row import Call, Inputs, Row


@dataclass(frozen=True)
class LossRow(Row):
    """N positions of width D over a vocabulary of V. It is bound by products, not by bytes: the floor is far."""

    N: int
    D: int
    V: int
    op = "loss"

    @property
    def shape(self) -> str:
        return f"N{self.N} D{self.D} V{self.V}"

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        g = torch.Generator(device).manual_seed(seed)
        hidden, weight = (torch.randn(n, self.D, generator=g, device=device) for n in (self.N, self.V))
        targets = torch.randint(self.V, (self.N,), generator=g, device=device)
        leaves = {"hidden": hidden.bfloat16(), "weight": (weight / self.D**0.5).bfloat16()}
        return {name: x.requires_grad_() for name, x in leaves.items()} | {"targets": targets}

    def ours(self, x: Inputs) -> Tensor:
        return linear_cross_entropy(x["hidden"], x["weight"], x["targets"], backend="triton")

    def exact(self, x: Inputs) -> Tensor:
        return linear_cross_entropy(x["hidden"], x["weight"], x["targets"].long(), backend="torch")

    def peer(self) -> tuple[str, Call]:
        name = f"PyTorch {torch.__version__}, all logits"
        return name, lambda x: F.cross_entropy(F.linear(x["hidden"], x["weight"]).float(), x["targets"])

    def bytes_moved(self, *, backward: bool) -> int:
        """Positions and weights read, and their gradients written."""
        return 2 * self.D * (self.N + self.V) * (2 if backward else 1)

    def reduced(self) -> LossRow:
        return replace(self, N=512)


ROWS: tuple[Row, ...] = (LossRow(8192, 1024, 50304),)
