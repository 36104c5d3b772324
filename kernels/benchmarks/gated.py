"""The benchmark's rows of gated linear attention: `cases.py` and `calls.py` as rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from torch import Tensor

from ..gated_linear_attention import gated_linear_attention_step
from ..gated_linear_attention.step_triton import gated_linear_attention_step_triton
from . import calls, cases
from .row import Call, Inputs, Row


@dataclass(frozen=True)
class GatedRow(Row):
    """A whole sequence."""

    case: cases.Case

    @property
    def op(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.case.op

    @property
    def shape(self) -> str:
        return self.case.shape

    @property
    def forward_only(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.case.forward_only

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        made = vars(cases.make_inputs(self.case, device, seed))
        return {name: x for name, x in made.items() if x is not None}

    def ours(self, x: Inputs) -> Tensor:
        return calls.ours(self.case, _as_case_inputs(x))

    def exact(self, x: Inputs) -> Tensor:
        return calls.ours(self.case, _as_case_inputs(x), backend="torch")

    def peer(self) -> tuple[str, Call] | None:
        other = calls.peer(self.case)
        return None if other is None else (other[0], lambda x: other[1](_as_case_inputs(x)))

    def bytes_moved(self, *, backward: bool) -> int:
        return cases.bytes_moved(self.case, backward=backward)

    def reduced(self) -> GatedRow:
        groups = self.case.groups
        return GatedRow(replace(self.case, B=1, T=min(self.case.T, 4096), H=2 * groups if groups else 2))

    def brief(self) -> GatedRow:
        return type(self)(replace(self.case, T=min(self.case.T, 512)))

    def kernels(self) -> Hashable:
        return self.case.op, self.case.H, self.case.K, self.case.V, self.case.forward_only  # peers are compiled for H


@dataclass(frozen=True)
class GatedStepRow(GatedRow):
    """One token."""

    is_step = True

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        names = ("state", "q", "k", "v", "decay")
        return dict(zip(names, calls.step_inputs(self.case, device, seed), strict=True))

    def ours(self, x: Inputs) -> Tensor:
        scale = calls.scale_of(self.case)
        return gated_linear_attention_step_triton(
            x["q"], x["k"], x["v"], x["state"], x["decay"], "token", None, scale, False
        )

    def exact(self, x: Inputs) -> Tensor:
        return gated_linear_attention_step(x["q"], x["k"], x["v"], x["state"], decay=x["decay"])

    def peer(self) -> tuple[str, Call] | None:
        other = calls.peer_step(self.case, "cuda")
        return None if other is None else (other[0], lambda _: other[1]())

    def reduced(self) -> GatedStepRow:
        return self


def _as_case_inputs(x: Inputs) -> cases.Inputs:
    return cases.Inputs(x["q"], x["k"], x["v"], x.get("decay"), x.get("bonus"))


ROWS: tuple[Row, ...] = tuple((GatedStepRow if case.op == "step" else GatedRow)(case) for case in cases.CASES)
