"""The benchmark's rows of the convolutions, the norms and the selective scan.

mamba-ssm's own CUDA for the selective scan is seldom installed: its row stands beside that kernel's time on an H100
with a copy bandwidth of 3.00 TB/s, scaled by the bandwidth of this run.
"""

# The peers are measured where they are installed, and need not be.
# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from ..convolution import long_convolution, short_convolution, short_convolution_step
from ..normalization import gated_rms_norm, l2_norm, rms_norm
from ..selective_scan import selective_scan, selective_scan_step
from .row import Call, Inputs, Recorded, Row

Op = Literal["short_conv", "long_conv", "gated_rms", "rms", "l2", "mamba"]
MAMBA_SSM = Recorded(
    "mamba-ssm 2.3.2.post1, measured elsewhere and scaled by the copy bandwidth",
    {"forward_ms": 1.167, "forward_backward_ms": 5.947, "peak_mib": 2328.0},
    3.00e12,
)


@dataclass(frozen=True)
class OtherRow(Row):
    """B sequences of T tokens with D channels; N: the convolution's width or the scan's states."""

    op: Op  # pyright: ignore[reportIncompatibleVariableOverride]
    B: int
    T: int
    D: int
    N: int = 0

    @property
    def shape(self) -> str:
        return f"B{self.B} T{self.T} D{self.D}" + (f" N{self.N}" if self.N else "")

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """bfloat16, float32 where models keep float32 (A, D); all require gradients."""
        g = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, device=device).bfloat16()

        B, T, D, N = self.B, self.T, self.D, self.N
        if self.op == "short_conv":
            x = {"x": normal(B, T, D), "weight": normal(D, N)}
        elif self.op == "long_conv":  # filters that fade, as learned ones do
            fading = torch.exp(-torch.arange(T, device=device) / 100)
            x = {"x": normal(B, T, D), "filters": normal(D, T).float() * fading, "skip": torch.ones(D, device=device)}
        elif self.op == "mamba":
            A = -torch.arange(1.0, N + 1, device=device).repeat(D, 1)
            x = {"u": normal(B, T, D), "dt": normal(B, T, D) - 4, "A": A, "B": normal(B, T, N), "C": normal(B, T, N)}
            x |= {"D": torch.ones(D, device=device), "z": normal(B, T, D)}
        else:
            x = {"x": normal(B, T, D)}
            x |= {"z": normal(B, T, D)} if self.op == "gated_rms" else {}
            x |= {"weight": normal(D)} if self.op != "l2" else {}
        return {name: tensor.requires_grad_() for name, tensor in x.items()}

    def brief(self) -> OtherRow:
        return replace(self, T=min(self.T, 512))

    def ours(self, x: Inputs) -> Tensor:
        return self._call(x, "triton")

    def exact(self, x: Inputs) -> Tensor:
        return self._call(x, "torch")

    def _call(self, x: Inputs, backend: Literal["torch", "triton"]) -> Tensor:
        if self.op == "long_conv":
            return long_convolution(**x)
        arguments: dict[str, Any] = {**x, "backend": backend}
        if self.op == "short_conv":
            return short_convolution(**arguments, activation="silu")[0]
        if self.op == "mamba":
            return selective_scan(**arguments, dt_softplus=True)[0]
        if self.op == "gated_rms":  # the order of fla's layer
            return gated_rms_norm(**arguments, norm_before_gate=True)
        return (rms_norm if self.op == "rms" else l2_norm)(**arguments)

    def peer(self) -> tuple[str, Call] | None:
        if self.op == "mamba" or not find_spec("fla"):
            return None
        from fla import __version__
        from fla.modules.causal_conv1d import causal_conv1d
        from fla.modules.norm.fused_norm_gate import rms_norm_gated
        from fla.modules.norm.l2norm import l2norm
        from fla.modules.norm.layernorm import rms_norm as fla_rms_norm

        no_bias: Any = None
        convolve: Any = causal_conv1d
        calls: dict[str, Any] = {
            "short_conv": lambda x: convolve(x["x"], x["weight"], no_bias, activation="silu")[0],
            "long_conv": _fla_long_convolution,
            "gated_rms": lambda x: rms_norm_gated(x["x"], x["z"], x["weight"], no_bias, "swish"),
            "rms": lambda x: fla_rms_norm(x["x"], x["weight"], no_bias),
            "l2": lambda x: l2norm(x["x"]),
        }
        return f"fla-core {__version__}", calls[self.op]

    def recorded(self) -> Recorded | None:
        return MAMBA_SSM if self.op == "mamba" else None

    def bytes_moved(self, *, backward: bool) -> int:
        """Each large input read once a pass, each output written once."""
        read = {"gated_rms": 2, "mamba": 3}.get(self.op, 1)
        forward = read + 1
        return 2 * self.B * self.T * self.D * (forward + (read + 1 + read if backward else 0))

    def reduced(self) -> OtherRow:
        return replace(self, B=1, T=min(self.T, 4096), D=min(self.D, 512))


def _fla_long_convolution(x: Inputs) -> Tensor:
    from fla.modules.long_conv import fft_conv

    return fft_conv(x["x"].mT, x["filters"], None, gelu=False).mT.to(x["x"].dtype)


@dataclass(frozen=True)
class StepRow(Row):
    """One token of B sequences with D channels; N: the convolution's width or the scan's states."""

    op: Literal["short_conv_step", "mamba_step"]  # pyright: ignore[reportIncompatibleVariableOverride]
    B: int
    D: int
    N: int
    is_step = True

    @property
    def shape(self) -> str:
        return f"B{self.B} T1 D{self.D} N{self.N}"

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        g = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, device=device)

        B, D, N = self.B, self.D, self.N
        if self.op == "short_conv_step":
            return {"x": normal(B, D).bfloat16(), "weight": normal(D, N).bfloat16(), "state": normal(B, N - 1, D)}
        x = {"u": normal(B, D), "dt": normal(B, D) - 4, "B": normal(B, N), "C": normal(B, N), "z": normal(B, D)}
        fixed = {"A": -normal(D, N).exp(), "D": normal(D), "state": normal(B, D, N)}
        return {name: tensor.bfloat16() for name, tensor in x.items()} | fixed

    def ours(self, x: Inputs) -> Tensor:
        return self._call(x, "triton")

    def exact(self, x: Inputs) -> Tensor:
        return self._call(x, "torch")

    def _call(self, x: Inputs, backend: Literal["torch", "triton"]) -> Tensor:
        if self.op == "short_conv_step":
            return short_convolution_step(**x, activation="silu", backend=backend)
        return selective_scan_step(**x, dt_softplus=True, backend=backend)

    def bytes_moved(self, *, backward: bool) -> int:
        """The state, read and written, and the rows beside it."""
        if self.op == "short_conv_step":
            return self.B * self.D * (2 * 4 * (self.N - 1) + 2 * 2)
        return self.B * self.D * (2 * 4 * self.N + 4 * 2)


ROWS: tuple[Row, ...] = (
    OtherRow("short_conv", 8, 4096, 4096, 4),
    OtherRow("long_conv", 8, 4096, 1024),
    OtherRow("gated_rms", 8, 4096, 2048),
    OtherRow("rms", 8, 4096, 2048),
    OtherRow("l2", 8, 4096 * 16, 128),
    OtherRow("mamba", 8, 4096, 2048, 16),
    *(StepRow("short_conv_step", B, 4096, 4) for B in (1, 256)),
    *(StepRow("mamba_step", B, 4096, 16) for B in (1, 64, 256)),
)
