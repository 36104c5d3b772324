"""How long the device takes over calls that follow one another: in CUDA graphs, without their launch from Python."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

REPLAYS = 3
LONG_GRAPH = 4e-4  # seconds
MOST_CALLS = 96


def seconds_in_graph(calls: Iterable[Callable[[], object]], least: float = 1e-3) -> float:
    """Mean device time of one call when they follow one another; the median over replays.

    Short ones are repeated within the graph, so that launching it, some ten microseconds, weighs nothing.
    """
    calls = list(calls)
    if not _can_be_captured(calls):
        return _seconds_of_launches(calls)
    once = replayed(calls, 0.0)
    if once >= LONG_GRAPH:
        return replayed(calls, least) / len(calls)
    times = min(-(-MOST_CALLS // len(calls)), 1 + int(LONG_GRAPH / once))
    return replayed(calls * times, least) / (len(calls) * times)


def replayed(calls: list[Callable[[], object]], least: float) -> float:
    """Seconds of one replay of all calls in a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    taken, spent = [], 0.0
    while len(taken) < REPLAYS or spent < least:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) * 1e-3)
        spent += taken[-1]
    del graph
    return statistics.median(taken)


def _can_be_captured(calls: list[Callable[[], object]]) -> bool:
    """Runs the calls twice, the second time to see whether they wait for the device, which a graph cannot."""
    side, before = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            calls[0]()
            torch.cuda.set_sync_debug_mode("error")
            calls[-1]()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
    return True


def _seconds_of_launches(calls: list[Callable[[], object]]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPLAYS):
        for call in calls:
            call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / REPLAYS / len(calls)


def forward_and_both(call: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[float, float]:
    """Device seconds of the forward pass, and of both."""

    def forward() -> Tensor:
        with torch.no_grad():
            return call()

    incoming = torch.randn_like(forward())
    both = lambda: torch.autograd.grad(call(), inputs, incoming)  # noqa: E731
    return seconds_in_graph([forward] * 3), seconds_in_graph([both] * 2)
