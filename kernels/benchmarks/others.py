"""The benchmark's rows of the short convolution, the norms and the selective scan.

`python -m hybridlab.kernels.benchmarks.others [op ...]` runs them alone.

The rows have the keys of `run.py`'s. mamba-ssm's own CUDA for the selective scan is seldom installed: its row stands
beside that kernel's time on an H100 with a copy bandwidth of 3.00 TB/s, scaled by the bandwidth of this run.
"""

# The peers are measured where they are installed, and need not be.
# pyright: reportMissingImports=false

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from ..convolution import short_convolution
from ..normalization import gated_rms_norm, l2_norm, rms_norm
from ..selective_scan import selective_scan
from .measure import copy_bandwidth, machine, milliseconds, peak_mib, poison, relative_error
from .run import line

Op = Literal["short_conv", "gated_rms", "rms", "l2", "mamba"]
Inputs = dict[str, Any]
MAMBA_SSM = {"forward_ms": 1.167, "forward_backward_ms": 5.947, "peak_mib": 2328.0}
MAMBA_SSM_BANDWIDTH = 3.00e12  # bytes a second where mamba-ssm 2.3.2.post1 took these times


@dataclass(frozen=True)
class Case:
    """One row: B sequences of T tokens with D channels; N: the convolution's width or the scan's states."""

    op: Op
    B: int
    T: int
    D: int
    N: int = 0

    @property
    def shape(self) -> str:
        return f"B{self.B} T{self.T} D{self.D}" + (f" N{self.N}" if self.N else "")


CASES: tuple[Case, ...] = (
    Case("short_conv", 8, 4096, 4096, 4),
    Case("gated_rms", 8, 4096, 2048),
    Case("rms", 8, 4096, 2048),
    Case("l2", 8, 4096 * 16, 128),
    Case("mamba", 8, 4096, 2048, 16),
)


def make_inputs(case: Case, device: str, seed: int = 0) -> Inputs:
    """Random bfloat16 inputs, float32 where models keep float32 (A, D); all require gradients."""
    g = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device).bfloat16()

    B, T, D, N = case.B, case.T, case.D, case.N
    x: Inputs
    if case.op == "short_conv":
        x = {"x": normal(B, T, D), "weight": normal(D, N)}
    elif case.op == "mamba":
        A = -torch.arange(1.0, N + 1, device=device).repeat(D, 1)
        x = {"u": normal(B, T, D), "dt": normal(B, T, D) - 4, "A": A, "B": normal(B, T, N), "C": normal(B, T, N)}
        x |= {"D": torch.ones(D, device=device), "z": normal(B, T, D)}
    else:
        x = {"x": normal(B, T, D)}
        x |= {"z": normal(B, T, D)} if case.op == "gated_rms" else {}
        x |= {"weight": normal(D)} if case.op != "l2" else {}
    return {name: tensor.requires_grad_() for name, tensor in x.items()}


def ours(case: Case, x: Inputs, backend: Literal["torch", "triton"] = "triton") -> Tensor:
    if case.op == "short_conv":
        return short_convolution(**x, activation="silu", backend=backend)[0]
    if case.op == "mamba":
        return selective_scan(**x, dt_softplus=True, backend=backend)[0]
    if case.op == "gated_rms":  # the order of fla's layer
        return gated_rms_norm(**x, norm_before_gate=True, backend=backend)
    return (rms_norm if case.op == "rms" else l2_norm)(**x, backend=backend)


def peer(case: Case) -> tuple[str, Callable[[Inputs], Tensor]] | None:
    """The peer's name and its call, or None where none is installed."""
    if case.op == "mamba" or not find_spec("fla"):
        return None
    from fla import __version__
    from fla.modules.causal_conv1d import causal_conv1d
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.modules.norm.l2norm import l2norm
    from fla.modules.norm.layernorm import rms_norm as fla_rms_norm

    no_bias: Any = None
    convolve: Any = causal_conv1d
    calls: dict[str, Callable[[Inputs], Any]] = {
        "short_conv": lambda x: convolve(x["x"], x["weight"], no_bias, activation="silu")[0],
        "gated_rms": lambda x: rms_norm_gated(x["x"], x["z"], x["weight"], no_bias, "swish"),
        "rms": lambda x: fla_rms_norm(x["x"], x["weight"], no_bias),
        "l2": lambda x: l2norm(x["x"]),
    }
    return f"fla-core {__version__}", calls[case.op]


def bytes_moved(case: Case) -> int:
    """The fewest bytes that forward and backward touch: each large input read once a pass, each output written once."""
    read = {"gated_rms": 2, "mamba": 3}.get(case.op, 1)
    return 2 * case.B * case.T * case.D * ((read + 1) + (read + 1 + read))


def errors(case: Case) -> dict[str, float]:
    """Relative errors of the output and every gradient against fp64, at the row's length but for one sequence."""
    small = replace(case, B=1, T=min(case.T, 4096), D=min(case.D, 512))
    x = make_inputs(small, "cuda", seed=1)
    double = {name: t.detach().double().requires_grad_() for name, t in x.items()}
    exact = ours(small, double, "torch")
    incoming = torch.randn_like(exact).bfloat16()
    exact_gradients = torch.autograd.grad(exact, list(double.values()), incoming.double())
    poison("cuda")
    y = ours(small, x)
    gradients = torch.autograd.grad(y, list(x.values()), incoming)
    pairs = zip(x, gradients, exact_gradients, strict=True)
    return {"y": relative_error(y, exact), **{f"d{n}": relative_error(a, b) for n, a, b in pairs}}


def side(x: Inputs, call: Callable[[Inputs], Tensor]) -> dict[str, float]:
    """Forward time (without gradients), forward and backward time, peak memory of the latter."""
    incoming = torch.randn_like(call(x))

    def forward() -> Tensor:
        with torch.no_grad():
            return call(x)

    def both() -> object:
        return torch.autograd.grad(call(x), list(x.values()), incoming)

    return {"forward_ms": milliseconds(forward), "forward_backward_ms": milliseconds(both), "peak_mib": peak_mib(both)}


def measure(case: Case, bandwidth: float, *, peers: bool = True) -> dict[str, Any]:
    """One row: correctness, this project's time, the peer's."""
    error = errors(case)
    x = make_inputs(case, "cuda")
    mine = side(x, lambda x: ours(case, x))
    other = peer(case) if peers else None
    name, theirs = (other[0], side(x, other[1])) if other else (None, {})
    if case.op == "mamba" and peers:
        slower = MAMBA_SSM_BANDWIDTH / bandwidth
        name = "mamba-ssm 2.3.2.post1, measured elsewhere and scaled by the copy bandwidth"
        theirs = {n: value if n == "peak_mib" else value * slower for n, value in MAMBA_SSM.items()}
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": "bfloat16",
        **mine,
        "peer": name,
        **{f"peer_{n}": theirs.get(n) for n in mine},
        "floor_share": bytes_moved(case) / bandwidth / (mine["forward_backward_ms"] * 1e-3),
        "error": error,
    }


def run_others(
    bandwidth: float, *, ops: Iterable[str] | None = None, peers: bool = True, report: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Measure every row (those of `ops`, if given), after compiling all kernels in parallel processes."""
    cases = [case for case in CASES if ops is None or case.op in set(ops)]
    jobs = [(case, of_peer) for case in cases for of_peer in ((False, True) if peers else (False,))]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        for failure in pool.imap_unordered(_compile, jobs):
            if failure is not None:
                report(failure)
    rows = []
    for case in cases:
        rows.append(measure(case, bandwidth, peers=peers))
        report(line(rows[-1]))
    return rows


def _compile(job: tuple[Case, bool]) -> str | None:
    case, of_peer = job
    try:
        other = peer(case) if of_peer else ("", lambda x: ours(case, x))
        if other is None:
            return None
        x = make_inputs(case, "cuda")
        y = other[1](x)
        torch.autograd.grad(y, list(x.values()), y.detach())
        torch.cuda.synchronize()
    except Exception as error:  # the row itself will say what failed; this is only the warm-up
        return f"compiling {case.op}{' (peer)' if of_peer else ''}: {type(error).__name__}: {error}"[:300]
    return None


if __name__ == "__main__":
    measured = copy_bandwidth("cuda")
    print({**machine(), "copy_bytes_per_second": measured})
    run_others(measured, ops=sys.argv[1:] or None)
