"""The benchmark's rows of the delta rules with a decay per channel: Kimi Delta Attention and RWKV-7's dplr.

fla's dplr takes chunks of 16 unless told that the decay is bounded, as its layer does: RWKV-7 stands beside both.
"""

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

from ..delta_rule import delta_rule, dplr
from .row import Call, Inputs, Row

Op = Literal["kda", "rwkv7", "rwkv7_bounded"]
SLOWEST = -0.6065  # RWKV-7's decays lie between this, -exp(-1/2), and 0


@dataclass(frozen=True)
class DeltaVectorRow(Row):
    """B sequences of T tokens, H heads with keys and values D wide; `rwkv7_bounded`: the peer knows the bound."""

    op: Op  # pyright: ignore[reportIncompatibleVariableOverride]
    B: int
    T: int
    H: int
    D: int

    @property
    def shape(self) -> str:
        return f"B{self.B} T{self.T} H{self.H} D{self.D}"

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """bfloat16: keys of norm 1, decays as models have them."""
        g = torch.Generator(device).manual_seed(seed)
        shape = (self.B, self.T, self.H, self.D)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, device=device)

        k, v = F.normalize(normal(*shape), dim=-1), normal(*shape)
        if self.op == "kda":
            x = {"q": F.normalize(normal(*shape), dim=-1), "k": k, "v": v, "beta": normal(*shape[:3]).sigmoid()}
            x |= {"decay": F.logsigmoid(normal(*shape)) / 4}
        else:
            x = {"q": normal(*shape), "k": normal(*shape), "v": v, "a": -k, "b": k * normal(*shape).sigmoid()}
            x |= {"decay": SLOWEST * normal(*shape).sigmoid()}
        return {name: t.bfloat16().requires_grad_() for name, t in x.items()}

    def ours(self, x: Inputs) -> Tensor:
        return self._call(x, "triton")

    def exact(self, x: Inputs) -> Tensor:
        return self._call(x, "torch")

    def _call(self, x: Inputs, backend: Literal["torch", "triton"]) -> Tensor:
        arguments: dict[str, Any] = {**x, "backend": backend}
        return (delta_rule(**arguments) if self.op == "kda" else dplr(**arguments, scale=1.0))[0]

    def peer(self) -> tuple[str, Call] | None:
        if not find_spec("fla"):
            return None
        from fla import __version__
        from fla.ops.kda import chunk_kda
        from fla.ops.rwkv7 import chunk_rwkv7

        kda: Any = chunk_kda
        if self.op == "kda":
            return f"fla-core {__version__}", lambda x: kda(x["q"], x["k"], x["v"], x["decay"], x["beta"])[0]
        bounded = {"chunk_size": 64, "safe_gate": True} if self.op == "rwkv7_bounded" else {}
        name = f"fla-core {__version__}" + (", chunks of 64" if bounded else "")
        return name, lambda x: chunk_rwkv7(x["q"], x["decay"], *(x[n] for n in "kvab"), scale=1.0, **bounded)[0]

    def bytes_moved(self, *, backward: bool) -> int:
        """Each input read once a pass, o and each gradient written once; beta counts next to nothing."""
        inputs = 4 if self.op == "kda" else 6
        rows = inputs + 1 + (inputs + 1 + inputs if backward else 0)
        return 2 * self.B * self.T * self.H * self.D * rows

    def reduced(self) -> DeltaVectorRow:
        return replace(self, B=1, H=2)

    def brief(self) -> DeltaVectorRow:
        return replace(self, T=min(self.T, 512))

    def kernels(self) -> Hashable:
        return self.op, self.D


ROWS: tuple[Row, ...] = (
    DeltaVectorRow("kda", 8, 4096, 16, 128),
    DeltaVectorRow("rwkv7", 8, 4096, 32, 64),
    DeltaVectorRow("rwkv7_bounded", 8, 4096, 32, 64),
)
