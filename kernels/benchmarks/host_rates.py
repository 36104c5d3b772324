"""What the host takes: to launch an operation, to step an optimizer, to start a graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .graphs import replayed, seconds_in_graph

BF16 = torch.bfloat16


def optimizer_rows() -> list[list[float]]:
    """[parameters, tensors, host seconds, wall seconds] of clipping and a fused AdamW step, fp32."""
    rows = []
    for tensors, size in ((8, 1024), (200, 1024), (24, 1 << 20), (24, 1 << 22), (24, 1 << 24)):
        parameters = [torch.randn(size, device="cuda").requires_grad_() for _ in range(tensors)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW(parameters, fused=True)

        def step(parameters: list[Tensor] = parameters, optimizer: torch.optim.Optimizer = optimizer) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        step()
        wall = []
        for _ in range(5):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            step()
            torch.cuda.synchronize()
            wall.append(time.perf_counter() - begun)
        rows.append([tensors * size, tensors, _host(step, 3), statistics.median(wall)])
    return rows


def host_rows() -> dict[str, float]:
    """The host's seconds for one operation of PyTorch, forward and backward, in small feed-forward blocks under
    autocast; the device's least time for one in a graph, what it adds between two in a stream, and what starting a
    graph takes."""
    blocks, width = 12, 64
    first = [torch.randn(2 * width, width, device="cuda").requires_grad_() for _ in range(blocks)]
    second = [torch.randn(width, width, device="cuda").requires_grad_() for _ in range(blocks)]
    x = torch.randn(4, 16, width, device="cuda").requires_grad_()

    def through() -> Tensor:
        y = x
        with torch.autocast("cuda", BF16):
            for up, down in zip(first, second, strict=True):
                gate, value = F.linear(y, up).chunk(2, dim=-1)
                y = y + F.linear(F.silu(gate) * value, down)
        return y

    with _Count() as forward_count:
        y = through()
    incoming = torch.randn_like(y)
    with _Count() as backward_count:
        torch.autograd.grad(y, [x, *first, *second], incoming)
    forward, backward = [], []
    for _ in range(8):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        y = through()
        forward.append(time.perf_counter() - begun)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.autograd.grad(y, [x, *first, *second], incoming)
        backward.append(time.perf_counter() - begun)
    torch.cuda.synchronize()
    a, b = (torch.zeros(1 << 20, device="cuda") for _ in range(2))
    small = [torch.zeros(64, device="cuda") for _ in range(2)]
    between = _seconds_in_stream(lambda: torch.add(a, 1, out=b), 400)
    tiny = seconds_in_graph([lambda: torch.add(small[0], 1, out=small[1])] * 200)
    alone = replayed([lambda: torch.add(small[0], 1, out=small[1])], 5e-4)
    return {
        "forward": statistics.median(forward) / forward_count.launches,
        "backward": statistics.median(backward) / backward_count.launches,
        "in_graph": tiny,
        "gap": max(0.0, between - seconds_in_graph([lambda: torch.add(a, 1, out=b)] * 200)),
        "graph_launch": max(0.0, alone - tiny),
    }


class _Count(TorchDispatchMode):
    """Counts operations that launch something: all but views and memory that is only taken."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.launches += not (func.is_view or func._overloadpacket.__name__ in ("detach", "_unsafe_view", "empty"))
        return func(*args, **(kwargs or {}))


def _seconds_in_stream(call: Callable[[], object], times: int) -> float:
    """Device time of one of many calls that were launched while the device was kept busy."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    call()
    torch.cuda._sleep(60_000_000)  # cycles: about 30 ms
    start.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / times


def _host(call: Callable[[], object], times: int = 12) -> float:
    taken = []
    for _ in range(3):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(times):
            call()
        taken.append((time.perf_counter() - begun) / times)
    torch.cuda.synchronize()
    return min(taken)
