"""Run the rows one after another: correctness first, then this project's time, then the peer's, on one GPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..gated_linear_attention import gated_linear_attention_step
from . import calls
from .cases import CASES, Case, Inputs, bytes_moved, make_inputs
from .measure import copy_bandwidth, machine, milliseconds, peak_mib, poison, relative_error

Report = Callable[[str], None]


def run_benchmarks(
    path: Path | None = None, *, ops: Iterable[str] | None = None, peers: bool = True, report: Report = print
) -> dict[str, Any]:
    """Measure every row (those of `ops`, if given), write them to `path` as JSON and return them.

    Kernels are first compiled in parallel processes. Raises RuntimeError where there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("the kernel benchmark needs a CUDA device")
    cases = [case for case in CASES if ops is None or case.op in set(ops)]
    started = time.perf_counter()
    compile_all(cases, peers=peers, report=report)
    report(f"compiled in {time.perf_counter() - started:.0f} s")
    bandwidth = copy_bandwidth("cuda")
    result: dict[str, Any] = {**machine(), "copy_bytes_per_second": bandwidth, "rows": []}
    report(f"{result['gpu']}, Triton {result['triton']}, copy {bandwidth / 1e12:.2f} TB/s")
    for case in cases:
        row = (measure_step if case.op == "step" else measure)(case, bandwidth, peers=peers)
        result["rows"].append(row)
        report(line(row))
        if path is not None:
            path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(case: Case, bandwidth: float, *, peers: bool) -> dict[str, Any]:
    """One row of a whole sequence."""
    error = errors(case)
    x = make_inputs(case, "cuda")
    mine = side(case, x, lambda x: calls.ours(case, x))
    other = calls.peer(case) if peers else None
    theirs = side(case, x, other[1]) if other else {}
    longest = mine["forward_ms"] if case.forward_only else mine["forward_backward_ms"]
    assert longest is not None
    floor = bytes_moved(case, backward=not case.forward_only) / bandwidth
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": "bfloat16",
        **mine,
        "peer": other[0] if other else None,
        **{f"peer_{name}": theirs.get(name) for name in mine},
        "floor_share": floor / (longest * 1e-3),
        "error": error,
    }


def side(case: Case, x: Inputs, call: Callable[[Inputs], torch.Tensor]) -> dict[str, float | None]:
    """Forward time (without gradients), forward and backward time, peak memory of the latter."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return call(x)

    def both() -> object:
        return torch.autograd.grad(call(x), x.differentiable(), x.do)

    if case.forward_only:
        return {"forward_ms": milliseconds(forward), "forward_backward_ms": None, "peak_mib": peak_mib(forward)}
    return {"forward_ms": milliseconds(forward), "forward_backward_ms": milliseconds(both), "peak_mib": peak_mib(both)}


def errors(case: Case) -> dict[str, float]:
    """Errors of o and every gradient against fp64, at the row's widths and length but fewer sequences and heads."""
    groups = case.groups
    small = replace(case, B=1, T=min(case.T, 4096), H=2 if not groups else 2 * groups)
    x = make_inputs(small, "cuda", seed=1)
    reference, reference_gradients = calls.exact(small, x)
    poison("cuda")
    o = calls.ours(small, x)
    if case.forward_only:
        return {"o": relative_error(o, reference)}
    gradients = torch.autograd.grad(o, x.differentiable(), x.do)
    named = {"q": x.q, "k": x.k, "v": x.v, "decay": x.decay, "bonus": x.bonus}
    names = [f"d{name}" for name, t in named.items() if t is not None and t.requires_grad]
    pairs = zip(names, gradients, reference_gradients, strict=True)
    return {"o": relative_error(o, reference), **{n: relative_error(a, b) for n, a, b in pairs}}


def measure_step(case: Case, bandwidth: float, *, peers: bool) -> dict[str, Any]:
    """One row of one decoding step; the launch is captured in a graph on both sides, as decoding loops do."""
    mine = milliseconds(graphed(calls.step(case, "cuda")))
    other = calls.peer_step(case, "cuda") if peers else None
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": "bfloat16",
        "forward_ms": mine,
        "peer": other[0] if other else None,
        "peer_forward_ms": milliseconds(graphed(other[1])) if other else None,
        "floor_share": bytes_moved(case, backward=False) / bandwidth / (mine * 1e-3),
        "error": step_error(case),
    }


def step_error(case: Case) -> dict[str, float]:
    state, q, k, v, decay = calls.step_inputs(case, "cuda", 1)
    exact_state = state.double()
    exact = gated_linear_attention_step(q.double(), k.double(), v.double(), exact_state, decay=decay.double())
    scale = calls.scale_of(case)
    o = calls.gated_linear_attention_step_triton(q, k, v, state, decay, "token", None, scale, False)
    return {"o": relative_error(o, exact), "state": relative_error(state, exact_state)}


def graphed(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph to be replayed, so that the launch itself is not what is measured."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def compile_all(cases: list[Case], *, peers: bool, report: Report) -> None:
    """Compile every kernel of every row once, each row in its own process, into Triton's cache."""
    distinct = {(c.op, c.K, c.V, c.forward_only): c for c in cases}
    jobs = [(c, which) for c in distinct.values() for which in ((False, True) if peers else (False,))]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(len(jobs), max(1, (os.cpu_count() or 2) - 2))) as pool:
        for failure in pool.imap_unordered(_compile, jobs):
            if failure is not None:
                report(failure)


def _compile(job: tuple[Case, bool]) -> str | None:
    case, of_peer = job
    try:
        if case.op == "step":
            call = calls.peer_step(case, "cuda") if of_peer else ("", calls.step(case, "cuda"))
            if call is not None:
                call[1]()
            return None
        small = case if of_peer else replace(case, B=1, T=192)
        other = calls.peer(case) if of_peer else None
        if other is None and of_peer:
            return None
        x = make_inputs(small, "cuda")
        o = other[1](x) if other is not None else calls.ours(small, x)
        if not case.forward_only:
            torch.autograd.grad(o, x.differentiable(), x.do)
        torch.cuda.synchronize()
    except Exception as error:  # the row itself will say what failed; this is only the warm-up
        return f"compiling {case.op} {case.shape}{' (peer)' if of_peer else ''}: {type(error).__name__}: {error}"[:300]
    return None


def line(row: dict[str, Any]) -> str:
    """One row as text: times beside the peer's, memory, share of the floor, largest error."""

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    worst = max(row["error"].values())
    cells = [f"{row['op']:11s}{row['shape']:34s}"]
    for name in ("forward_ms", "forward_backward_ms", "peak_mib"):
        digits = 0 if name == "peak_mib" else 3
        cells.append(f"{number(row.get(name), digits):>7s} /{number(row.get('peer_' + name), digits):>7s}")
    return " ".join(cells) + f"  floor {row['floor_share']:.0%}  error {worst:.1e}"
