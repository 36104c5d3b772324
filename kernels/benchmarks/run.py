"""Run the rows one after another: correctness first, then this project's time, then the peer's, on one GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import kept
from .measure import copy_bandwidth, graphed, host_milliseconds, machine, milliseconds, peak_mib, poison, relative_error
from .row import Call, Inputs, Row
from .rows import ROWS
from .tuning import compile_all, quick_tuning

Report = Callable[[str], None]


def run_benchmarks(
    *,
    ops: Iterable[str] | None = None,
    peers: bool = True,
    rows: Iterable[Row] = ROWS,
    resume: Path | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    report: Report = print,
) -> dict[str, Any]:
    """Measure every row (those of `ops`, if given) and return them; `save` gets them after each row.

    Kernels are first compiled in parallel processes. A row that fails says so in its key "failed", and the others go
    on. `resume`: rows that this file has of the same GPU, driver, PyTorch and Triton are kept.

    Raises RuntimeError where there is no CUDA device, NotResumable where the file does not fit.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("the kernel benchmark needs a CUDA device")
    wanted = None if ops is None else set(ops)
    here = machine()
    done = kept.read(resume, here, peers=peers) if resume is not None else {}
    rows = list(rows)
    order = {row.name: place for place, row in enumerate(rows)}
    chosen = [row for row in rows if (wanted is None or row.op in wanted) and row.name not in done]
    started = time.perf_counter()
    compile_all(chosen, peers=peers, report=report)
    report(f"compiled in {time.perf_counter() - started:.0f} s")
    bandwidth = copy_bandwidth("cuda")
    result: dict[str, Any] = {**here, "copy_bytes_per_second": bandwidth, "rows": list(done.values())}
    report(f"{result['gpu']}, Triton {result['triton']}, copy {bandwidth / 1e12:.2f} TB/s")
    for row in chosen:
        try:
            measured = measure(row, bandwidth, peers=peers)
            report(line(measured))
        except Exception as error:
            measured = {"op": row.op, "shape": row.shape, "failed": f"{type(error).__name__}: {error}"[:500]}
            report(f"{row.op} {row.shape} failed: {measured['failed']}")
        done[row.name] = measured
        result["rows"] = [done[name] for name in sorted(done, key=lambda name: order.get(name, len(order)))]
        torch.cuda.empty_cache()
        if save is not None:
            save(result)
    return result


def measure(row: Row, bandwidth: float, *, peers: bool) -> dict[str, Any]:
    """One row's columns."""
    error = errors(row)
    x = row.inputs("cuda")
    mine = side(row, x, row.ours)
    name, theirs = peer_side(row, x, bandwidth) if peers else (kept.UNASKED, {})
    longest = mine["forward_backward_ms"] or mine["forward_ms"]
    assert longest is not None
    floor = row.bytes_moved(backward=mine["forward_backward_ms"] is not None) / bandwidth
    return {
        "op": row.op,
        "shape": row.shape,
        "dtype": "bfloat16",
        **mine,
        "peer": name,
        **{f"peer_{column}": theirs.get(column) for column in mine},
        "floor_share": floor / (longest * 1e-3),
        "error": error,
    }


def peer_side(row: Row, x: Inputs, bandwidth: float) -> tuple[str | None, dict[str, Any]]:
    """The peer's name and columns: measured now, or elsewhere and scaled by the copy bandwidth, or nothing."""
    other = row.peer()
    if other is not None:
        with quick_tuning():
            return other[0], side(row, x, other[1])
    recorded = row.recorded()
    if recorded is None:
        return None, {}
    slower = recorded.bandwidth / bandwidth
    return recorded.name, {n: value * slower if n.endswith("_ms") else value for n, value in recorded.columns.items()}


def side(row: Row, x: Inputs, call: Call) -> dict[str, float | None]:
    """Forward time (without gradients), forward and backward time, and of the longer of them peak memory and host time.

    A step's launch is captured in a graph, as decoding loops do.
    """

    def forward() -> Tensor:
        with torch.no_grad():
            return call(x)

    if row.is_step:
        times = {"forward_ms": milliseconds(graphed(forward)), "forward_backward_ms": None}
        return {**times, "peak_mib": None, "host_ms": host_milliseconds(forward)}
    if row.forward_only:
        times = {"forward_ms": milliseconds(forward), "forward_backward_ms": None}
        return {**times, "peak_mib": peak_mib(forward), "host_ms": host_milliseconds(forward)}
    leaves = [t for t in x.values() if t.requires_grad]
    incoming = torch.randn_like(forward())

    def both() -> object:
        return torch.autograd.grad(call(x), leaves, incoming, allow_unused=True)  # a peer may lack one of the inputs

    times = {"forward_ms": milliseconds(forward), "forward_backward_ms": milliseconds(both)}
    return {**times, "peak_mib": peak_mib(both), "host_ms": host_milliseconds(both)}


def errors(row: Row) -> dict[str, float]:
    """Relative errors against fp64 from the very inputs: of o and of every gradient, of a step's o and state."""
    small = row.reduced()
    x = small.inputs("cuda", seed=1)
    double = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in x.items()}
    exact = small.exact(double)
    if row.is_step or row.forward_only:
        with torch.no_grad():
            poison("cuda")
            o = small.ours(x)
        worst = {"o": relative_error(o, exact)}
        return worst | ({"state": relative_error(x["state"], double["state"])} if row.is_step else {})
    incoming = torch.randn_like(exact).bfloat16()
    names = [name for name, t in x.items() if t.requires_grad]
    exact_gradients = torch.autograd.grad(exact, [double[name] for name in names], incoming.double())
    poison("cuda")
    o = small.ours(x)
    gradients = torch.autograd.grad(o, [x[name] for name in names], incoming.to(o.dtype))
    pairs = zip(names, gradients, exact_gradients, strict=True)
    return {"o": relative_error(o, exact), **{f"d{n}": relative_error(a, b) for n, a, b in pairs}}


def line(row: dict[str, Any]) -> str:
    """One row as text: times beside the peer's, memory, share of the floor, largest error."""

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    worst = max(row["error"].values())
    cells = [f"{row['op']:11s}{row['shape']:34s}"]
    for name in ("forward_ms", "forward_backward_ms", "host_ms", "peak_mib"):
        digits = 0 if name == "peak_mib" else 3
        cells.append(f"{number(row.get(name), digits):>7s} /{number(row.get('peer_' + name), digits):>7s}")
    return " ".join(cells) + f"  floor {row['floor_share']:.0%}  error {worst:.1e}"
