"""Times, memory, errors and the machine they were measured on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

WARMUP, SPENT, MOST = 3, 0.1, 100
"""Calls before a measurement, its seconds on the GPU, and its calls at most."""
CYCLES = 2e6
"""Of a GPU's clock in a millisecond, or more: none runs faster."""


def milliseconds(call: Callable[[], object]) -> float:
    """The median time that the GPU takes over a call, with what it reads not in its cache.

    Before each call the GPU waits until the host has issued it whole. So it is in training, where the host runs ahead;
    what the host takes to issue a call is `host_milliseconds`.
    """
    issued = host_milliseconds(call)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    count = max(5, min(MOST, int(SPENT * 1e3 / max(start.elapsed_time(end), 1e-3))))
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    times = []
    for _ in range(count):
        flush.zero_()
        torch.cuda._sleep(int(1.5 * issued * CYCLES))
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in times)


def host_milliseconds(call: Callable[[], object]) -> float:
    """The median time that the host takes to issue a call to an idle GPU."""
    for _ in range(WARMUP):
        call()
    times = []
    for _ in range(9):
        torch.cuda.synchronize()
        begun = perf_counter()
        call()
        times.append(perf_counter() - begun)
    torch.cuda.synchronize()
    return median(times) * 1e3


def graphed(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph to be replayed, so that the launch itself is not what is measured."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def peak_mib(call: Callable[[], object]) -> float:
    """Most memory allocated while a call runs, its inputs included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak / 2**20


def relative_error(x: Tensor, exact: Tensor) -> float:
    """‖x − exact‖ / ‖exact‖ in fp64; NaN where x holds NaN."""
    x, exact = x.detach().double(), exact.detach().double()
    return float((x - exact).norm() / exact.norm().clamp_min(1e-300))


def poison(device: str, mib: int = 512) -> None:
    """Fill memory that the next allocations are served from with NaN, so that what a kernel leaves unwritten shows."""
    torch.full((mib << 18,), float("nan"), device=device)


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read plus written, of a large copy on the device."""
    source = torch.empty(1 << 29, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def machine() -> dict[str, str]:
    """The GPU, its driver, PyTorch and Triton."""
    import triton

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
