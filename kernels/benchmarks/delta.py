"""The benchmark's rows of the delta rule, without decay (DeltaNet) and with one per token (gated DeltaNet)."""

# The peers are measured where they are installed, and need not be.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..delta_rule import delta_rule, delta_rule_step
from .row import Call, Inputs, Row


@dataclass(frozen=True)
class DeltaRow(Row):
    """B sequences of T tokens, H heads of width D; groups: heads of q and k, 0 for as many as H."""

    op: Literal["delta_rule", "gated_delta_rule"]  # pyright: ignore[reportIncompatibleVariableOverride]
    B: int
    T: int
    H: int
    D: int
    groups: int = 0

    @property
    def shape(self) -> str:
        return f"B{self.B} T{self.T} H{self.H} D{self.D}" + (f" G{self.groups}" if self.groups else "")

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """bfloat16, queries and keys of norm 1 (both sides are timed without normalising them), float32 decay."""
        g = torch.Generator(device).manual_seed(seed)

        def normal(heads: int, *width: int) -> Tensor:
            return torch.randn(self.B, self.T, heads, *width, generator=g, device=device)

        groups = self.groups or self.H
        x = {"q": F.normalize(normal(groups, self.D), dim=-1), "k": F.normalize(normal(groups, self.D), dim=-1)}
        x |= {"v": normal(self.H, self.D), "beta": normal(self.H).sigmoid()}
        x = {name: tensor.bfloat16() for name, tensor in x.items()}
        if self.op == "gated_delta_rule":
            x["decay"] = F.logsigmoid(2 * normal(self.H) + 2)
        return {name: tensor.requires_grad_() for name, tensor in x.items()}

    def ours(self, x: Inputs) -> Tensor:
        return delta_rule(**x, backend="triton")[0]  # pyright: ignore[reportArgumentType]

    def exact(self, x: Inputs) -> Tensor:
        return delta_rule(**x, backend="torch")[0]  # pyright: ignore[reportArgumentType]

    def peer(self) -> tuple[str, Call] | None:
        """fla's backend for these inputs is its Triton kernels, unless TileLang or flash_qla are installed too."""
        if not find_spec("fla"):
            return None
        from fla import __version__
        from fla.ops.delta_rule import chunk_delta_rule
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        chunk, gated = _shares_keys(chunk_delta_rule), _shares_keys(chunk_gated_delta_rule)
        if self.op == "delta_rule":
            return f"fla-core {__version__}", lambda x: chunk(x, x["beta"])
        return f"fla-core {__version__}", lambda x: gated(x, x["decay"], x["beta"])

    def bytes_moved(self, *, backward: bool) -> int:
        """q, k, v read, o written; then q, k, v, do read, dq, dk, dv written; and beta and decay, one a token."""
        keys, values = 2 * (self.groups or self.H) * self.D, 2 * self.H * self.D
        scalars = self.H * (2 if self.op == "delta_rule" else 6)
        forward = 2 * keys + 2 * values + scalars
        return self.B * self.T * (forward + (forward + 2 * keys + values + scalars if backward else 0))

    def reduced(self) -> DeltaRow:
        return replace(self, B=1, T=min(self.T, 4096), H=2 * (self.groups or 1), groups=self.groups)

    def brief(self) -> DeltaRow:
        return replace(self, T=min(self.T, 512))

    def kernels(self) -> Hashable:
        return self.op, self.D, self.H // (self.groups or self.H)


def _shares_keys(call: Any) -> Any:
    """fla's operator with q and k of `groups` heads given to each head of v that reads them, as its layers do."""

    def of_heads(x: Inputs, *scalars: Tensor) -> Tensor:
        share = x["v"].shape[2] // x["q"].shape[2]
        q, k = (x[name] if share == 1 else x[name].repeat_interleave(share, 2) for name in ("q", "k"))
        return call(q, k, x["v"], *scalars)[0]

    return of_heads


@dataclass(frozen=True)
class DeltaStepRow(Row):
    """One token of the gated delta rule."""

    B: int
    H: int
    D: int
    op = "gated_delta_step"
    is_step = True
    forward_only = True

    @property
    def shape(self) -> str:
        return f"B{self.B} H{self.H} D{self.D}"

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """fp32 state and decay, the rest bfloat16."""
        g = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(self.B, self.H, *shape, generator=g, device=device)

        x = {"q": F.normalize(normal(self.D), dim=-1), "k": F.normalize(normal(self.D), dim=-1)}
        x |= {"v": normal(self.D), "beta": normal().sigmoid()}
        x = {name: tensor.bfloat16() for name, tensor in x.items()}
        return x | {"state": normal(self.D, self.D), "decay": F.logsigmoid(normal())}

    def ours(self, x: Inputs) -> Tensor:
        return delta_rule_step(**x, backend="triton")  # pyright: ignore[reportArgumentType]

    def exact(self, x: Inputs) -> Tensor:
        return delta_rule_step(**x, backend="torch")  # pyright: ignore[reportArgumentType]

    def peer(self) -> tuple[str, Call] | None:
        """fla's fused recurrence, which also reads and writes a whole state."""
        if not find_spec("fla"):
            return None
        from fla import __version__
        from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

        def call(x: Inputs) -> Tensor:
            q, k, v, decay, beta = (x[name][:, None] for name in ("q", "k", "v", "decay", "beta"))
            step: Any = fused_recurrent_gated_delta_rule
            return step(q, k, v, g=decay, beta=beta, initial_state=x["state"], output_final_state=True)[0][:, 0]

        return f"fla-core {__version__}", call

    def bytes_moved(self, *, backward: bool) -> int:
        return 2 * 4 * self.B * self.H * self.D**2


ROWS: tuple[Row, ...] = (
    DeltaRow("delta_rule", 8, 4096, 16, 128),
    DeltaRow("gated_delta_rule", 8, 4096, 16, 128),
    DeltaRow("delta_rule", 8, 4096, 32, 64),
    DeltaRow("gated_delta_rule", 8, 4096, 32, 64),
    DeltaRow("gated_delta_rule", 2, 4096, 16, 128),
    DeltaRow("gated_delta_rule", 2, 16384, 32, 128, groups=8),
    DeltaStepRow(64, 32, 128),
)
