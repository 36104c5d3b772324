"""Times, memory, errors and the machine they were measured on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import torch
from torch import Tensor


def milliseconds(call: Callable[[], object]) -> float:
    """The median time of a call on the GPU."""
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median"))  # pyright: ignore[reportArgumentType]


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
