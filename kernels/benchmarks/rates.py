"""What one GPU does how fast: the measurements that predictions of a model's step are made from.

Each is of one operation alone, at sizes on a grid that no model is asked about; nothing is fitted to a model.
Operations are captured in CUDA graphs, several in a row, so that a time is the device's, without the launch from
Python, which is measured apart. Every family reports lists of rows; `platform/prediction.py` interpolates between them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..convolution import short_convolution
from ..delta_rule import delta_rule
from ..gated_linear_attention import gated_linear_attention
from ..normalization import gated_rms_norm, l2_norm, rms_norm
from ..selective_scan import selective_scan
from .measure import machine

Report = Callable[[str], None]
REPLAYS = 3
LONG_GRAPH = 4e-4  # seconds
MOST_CALLS = 96
COLD = 160 << 20  # bytes: more than any cache, so that weights read in turn come from memory
MOST_FLOPS = 1.5e13
HOST_CALLS = 6
TOKENS = (1, 8, 64, 512, 2048, 8192, 32768)
WIDTHS = (32, 128, 512, 1024, 2048, 4096, 8192, 32768)
BF16, FP32 = torch.bfloat16, torch.float32


def seconds_in_graph(calls: Iterable[Callable[[], object]], least: float = 1e-3) -> float:
    """Mean device time of one call when they follow one another; the median over replays.

    Short ones are repeated within the graph, so that launching it, some ten microseconds, weighs nothing.
    """
    calls = list(calls)
    if not _can_be_captured(calls):
        return _seconds_of_launches(calls)
    once = _replayed(calls, 0.0)
    if once >= LONG_GRAPH:
        return _replayed(calls, least) / len(calls)
    times = min(-(-MOST_CALLS // len(calls)), 1 + int(LONG_GRAPH / once))
    return _replayed(calls * times, least) / (len(calls) * times)


def _replayed(calls: list[Callable[[], object]], least: float) -> float:
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


def matmul_rows() -> list[list[float]]:
    """[M, N, K, seconds] of [M,K] times [K,N] as a linear layer has it, bf16; weights from memory for few tokens."""
    rows = []
    for M in TOKENS:
        for N in WIDTHS:
            for K in WIDTHS:
                if 2 * M * N * K > MOST_FLOPS or N * K > 1 << 28:
                    continue
                copies = max(2, min(24, COLD // (2 * N * K))) if M <= 64 else 2
                a = torch.randn(M, K, device="cuda").to(BF16)
                weights = [torch.empty(N, K, device="cuda", dtype=BF16).normal_() for _ in range(copies)]
                rows.append([M, N, K, seconds_in_graph([lambda a=a, w=w: F.linear(a, w) for w in weights], 5e-4)])
    return rows


def gradient_matmul_rows() -> list[list[float]]:
    """[M, N, K, seconds] of the transpose of [K,M] times [K,N]: a weight's gradient, K tokens; bf16."""
    rows = []
    for K in (2048, 8192, 32768):
        for M in WIDTHS[1:]:
            for N in WIDTHS[1:]:
                if 2 * M * N * K > MOST_FLOPS or M * N > 1 << 28:
                    continue
                a = torch.randn(K, M, device="cuda").to(BF16)
                b = torch.randn(K, N, device="cuda").to(BF16)
                rows.append([M, N, K, seconds_in_graph([lambda a=a, b=b: a.T @ b] * 2, 5e-4)])
    return rows


def memory_rows() -> dict[str, list[list[float]]]:
    """[bytes read and written, seconds] by what touches them. Each call reads what the one before it wrote."""
    families: dict[str, list[list[float]]] = {}

    def add(family: str, moved: float, calls: list[Callable[[], object]]) -> None:
        families.setdefault(family, []).append([moved, seconds_in_graph(calls, 5e-4)])

    for power in range(8, 30, 2):
        n = 1 << power
        for dtype, family in ((BF16, "pointwise"), (FP32, "pointwise_fp32")):
            kept = min(12, max(3, COLD // n))
            tensors = [torch.randn(n // dtype.itemsize, device="cuda").to(dtype) for _ in range(kept)]
            add(family, 3 * n, [lambda t=tensors, i=i: _chain(t, i) for i in range(2 * kept)])
            x = torch.randn(-(-n // (64 * dtype.itemsize)), 64, device="cuda").to(dtype)
            left, right = x[:, :32], x[:, 32:]
            add(f"views{family[9:]}", 1.5 * x.nbytes, [lambda a=left, b=right: a * b] * 4)
    for rows, width in ((1, 1024), (64, 1024), (512, 1024), (2048, 1024), (8192, 1024), (8192, 4096), (32768, 4096)):
        wide, low = torch.randn(rows, width, device="cuda"), torch.randn(rows, width, device="cuda").to(BF16)
        add("cast", 6 * rows * width, [lambda a=wide: a.to(BF16), lambda b=low: b.float()] * 2)
        add("cat", 8 * rows * width, [lambda b=low: torch.cat([b, b], dim=-1)] * 4)
        add("strided", 4 * rows * width, [lambda b=low: b.view(-1, 64, 16).transpose(1, 2).contiguous()] * 4)
        add("sum_rows", 2 * rows * width, [lambda b=low: b.sum(0)] * 4)
        add("sum_last", 2 * rows * width, [lambda b=low: b.view(-1, 64).sum(-1)] * 4)
        add("normalize", 8 * rows * width, [lambda a=wide: F.layer_norm(a, a.shape[-1:])] * 4)
    for rows, width in ((512, 1024), (2048, 8192), (8192, 8192), (8192, 32768), (8192, 50304)):
        x = torch.randn(rows, width, device="cuda")
        log = x.log_softmax(-1)
        add("softmax", 8 * rows * width, [lambda x=x: x.log_softmax(-1)] * 2)
        add("softmax_backward", 12 * rows * width, [lambda x=x, log=log: _softmax_backward(x, log)] * 2)
    for tokens, width in ((512, 512), (2048, 1024), (8192, 768), (8192, 2048), (32768, 1024)):
        table = torch.randn(32768, width, device="cuda")
        index = torch.randint(32768, (tokens,), device="cuda")
        x = torch.randn(tokens, width, device="cuda")
        add("embedding", 8 * tokens * width, [lambda t=table, i=index: F.embedding(i, t)] * 4)
        add("embedding_backward", 4 * tokens * width, [lambda x=x, i=index: _embedding_backward(x, i)] * 2)
        low = x.to(BF16)
        order = torch.randperm(tokens, device="cuda")
        add("gather", 4 * tokens * width, [lambda x=low, i=order: x[i]] * 4)
        add("index_add", 6 * tokens * width, [lambda x=low, i=order: torch.zeros_like(x).index_add(0, i, x)] * 2)
        add("sort", 8 * tokens, [lambda i=order: i.argsort(stable=True)] * 4)
        scores = torch.randn(tokens, 64, device="cuda")
        add("topk", 4 * tokens * 64, [lambda s=scores: s.topk(4, dim=-1)] * 4)
    return families


def _softmax_backward(incoming: Tensor, log: Tensor) -> Tensor:
    return torch.ops.aten._log_softmax_backward_data(incoming, log, -1, FP32)


def _embedding_backward(incoming: Tensor, index: Tensor) -> Tensor:
    return torch.ops.aten.embedding_dense_backward(incoming, index, 32768, -1, False)


def _chain(tensors: list[Tensor], i: int) -> Tensor:
    """A product of what the call before wrote and of what no cache holds any more."""
    count = len(tensors)
    return torch.mul(tensors[i % count], tensors[(i + count // 2) % count], out=tensors[(i + 1) % count])


def attention_rows() -> list[list[float]]:
    """[head width, tokens, sequences times heads, forward seconds, forward and backward seconds], causal, bf16."""
    rows = []
    for K in (64, 128):
        for T, batch in ((512, 64), (2048, 64), (2048, 16), (8192, 16), (32768, 4)):
            q, k, v = (torch.randn(1, batch, T, K, device="cuda").to(BF16).requires_grad_() for _ in range(3))
            attend = lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
            rows.append([K, T, batch, *_both(attend, [q, k, v])])
    return rows


def masked_attention_rows() -> list[list[float]]:
    """[head width, queries, keys, sequences times heads, forward seconds, both] of attention under a mask, bf16; for
    one query a sequence, as decoding has it, forward alone."""
    rows = []
    for K in (64, 128):
        for T, S, batch in (
            (1, 1024, 16),
            (1, 1024, 128),
            (1, 8192, 16),
            (1, 8192, 128),
            (1, 65536, 16),
            (8, 8192, 16),
        ):
            q = torch.randn(1, batch, T, K, device="cuda").to(BF16)
            k, v = (torch.randn(1, S, batch, K, device="cuda").to(BF16).transpose(1, 2) for _ in range(2))
            mask = torch.ones(1, 1, 1, S, device="cuda", dtype=torch.bool)
            call = lambda q=q, k=k, v=v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
            forward = seconds_in_graph([call] * 4)
            rows.append([K, T, S, batch, forward, forward])
        for T, batch in ((256, 256), (512, 128), (1024, 64)):
            q = torch.randn(1, batch, T, K, device="cuda").to(BF16).requires_grad_()
            k, v = (torch.randn(1, batch, 2 * T, K, device="cuda").to(BF16).requires_grad_() for _ in range(2))
            mask = torch.ones(T, 2 * T, device="cuda", dtype=torch.bool)
            call = lambda q=q, k=k, v=v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
            rows.append([K, T, 2 * T, batch, *_both(call, [q, k, v])])
    return rows


def _both(call: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[float, float]:
    """Device seconds of the forward pass, and of both."""

    def forward() -> Tensor:
        with torch.no_grad():
            return call()

    incoming = torch.randn_like(forward())
    both = lambda: torch.autograd.grad(call(), inputs, incoming)  # noqa: E731
    return seconds_in_graph([forward] * 3), seconds_in_graph([both] * 2)


def operator_cases() -> dict[str, tuple[dict[str, Any], Callable[[], tuple[Callable[[], Tensor], list[Tensor]]]]]:
    """This project's operators: a name, what tells the row from others, and a maker of (call, inputs)."""
    cases: dict[str, Any] = {}

    def normal(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()

    def gla(kind: str, K: int, V: int, H: int, groups: int = 0, B: int = 4, T: int = 2048, bonus: bool = False) -> None:
        def make() -> tuple[Callable[[], Tensor], list[Tensor]]:
            q, k, v = normal(B, T, groups or H, K), normal(B, T, groups or H, K), normal(B, T, H, V)
            given = [q, k, v]
            decay = u = None
            if kind == "head":
                decay = -torch.rand(H, device="cuda") / 32
            elif kind != "none":
                shape = (B, T, H, K) if kind == "channel" else (B, T, H)
                decay = (-torch.rand(*shape, device="cuda") / 16).requires_grad_()
                given.append(decay)
            if bonus:
                u = normal(H, K, dtype=FP32)
                given.append(u)
            return lambda: gated_linear_attention(q, k, v, decay=decay, kind=kind, bonus=u)[0], given  # pyright: ignore

        row = {"operator": "gated_linear_attention", "kind": kind, "B": B, "T": T, "H": H, "K": K, "V": V}
        row |= {"groups": groups or H, "bonus": bonus, "work": 4 * B * T * H * K * V}
        cases[f"gla-{kind}-{B}x{T}-H{H}-K{K}-V{V}-G{groups}-{bonus}"] = row, make

    for H in (12, 24):
        gla("none", 64, 64, H)
        gla("head", 64, 128, H)
        gla("head", 64, 64, H)
        gla("token", 128, 64, 2 * H, groups=1)
        gla("token", 64, 64, H)
        gla("channel", 32, 64, H)
        gla("channel", 64, 64, H, bonus=True)
    gla("none", 128, 128, 12)
    gla("head", 128, 128, 12)
    gla("token", 128, 64, 80, groups=8)
    gla("token", 128, 128, 12)
    gla("channel", 128, 128, 6)
    gla("none", 64, 65, 12)  # with the column of a normaliser
    gla("token", 128, 64, 48, groups=1, B=1, T=16384)

    def delta(K: int, V: int, H: int, kind: str, B: int = 4, T: int = 2048) -> None:
        def make() -> tuple[Callable[[], Tensor], list[Tensor]]:
            q, k = (F.normalize(normal(B, T, H, K).detach(), dim=-1).requires_grad_() for _ in range(2))
            v, beta = normal(B, T, H, V), torch.rand(B, T, H, device="cuda").requires_grad_()
            given = [q, k, v, beta]
            decay = None
            if kind != "none":
                shape = (B, T, H, K) if kind == "channel" else (B, T, H)
                decay = (-torch.rand(*shape, device="cuda") / 16).requires_grad_()
                given.append(decay)
            return lambda: delta_rule(q, k, v, beta, decay=decay)[0], given

        name = "delta_rule_channel" if kind == "channel" else "delta_rule"
        row = {"operator": name, "kind": kind, "B": B, "T": T, "H": H, "K": K, "V": V}
        row |= {"products": 6, "work": 6 * B * T * H * K * V}
        cases[f"delta-{kind}-H{H}-K{K}-V{V}"] = row, make

    for H in (6, 12):
        delta(64, 64, 2 * H, "none")
        delta(128, 128, H, "token")
        delta(64, 128, H, "token")
        delta(128, 128, H, "channel")

    def scan(D: int, N: int, z: bool, B: int = 4, T: int = 2048) -> None:
        def make() -> tuple[Callable[[], Tensor], list[Tensor]]:
            x = {"u": normal(B, T, D), "dt": normal(B, T, D), "B": normal(B, T, N), "C": normal(B, T, N)}
            x["A"] = (-torch.rand(D, N, device="cuda")).requires_grad_()
            x["D"] = normal(D, dtype=FP32)
            if z:
                x["z"] = normal(B, T, D)
            return lambda: selective_scan(**x, dt_softplus=True)[0], list(x.values())  # pyright: ignore

        row = {"operator": "selective_scan", "B": B, "T": T, "D": D, "N": N, "gate": z, "work": 4 * B * T * D * N}
        cases[f"scan-D{D}-N{N}-{z}"] = row, make

    scan(1536, 16, True)
    scan(3072, 16, True)
    scan(1024, 1, False)

    def convolution(D: int, W: int, B: int = 4, T: int = 2048) -> None:
        def make() -> tuple[Callable[[], Tensor], list[Tensor]]:
            x, weight = normal(B, T, D), normal(D, W, dtype=FP32)
            return lambda: short_convolution(x, weight, activation="silu")[0], [x, weight]

        row = {"operator": "short_convolution", "D": D, "W": W, "work": 4 * B * T * D}
        cases[f"conv-D{D}-W{W}"] = row, make

    for D in (768, 1792, 3328):
        convolution(D, 4)

    def norm(size: int, rows: int, dtype: torch.dtype, gate: str, weighted: bool = True) -> None:
        def make() -> tuple[Callable[[], Tensor], list[Tensor]]:
            x = normal(rows, size, dtype=dtype)
            weight = normal(size, dtype=FP32) if weighted else None
            given = [x] if weight is None else [x, weight]
            if gate == "none":
                return (lambda: rms_norm(x, weight)) if weighted else (lambda: l2_norm(x)), given
            z = normal(rows, size, dtype=dtype)
            return lambda: gated_rms_norm(x, z, weight, norm_before_gate=gate == "after"), [*given, z]

        moved = (3 if gate != "none" else 2) * rows * size * dtype.itemsize
        row = {"operator": "norm", "size": size, "rows": rows, "bytes": dtype.itemsize, "gate": gate, "work": moved}
        cases[f"norm-{size}x{rows}-{dtype}-{gate}-{weighted}"] = row | {"weighted": weighted}, make

    for size in (768, 1536):
        norm(size, 8192, FP32, "none")
        norm(size, 8192, BF16, "none")
        norm(2 * size, 8192, BF16, "before")
    for size in (64, 128):
        norm(size, 8192 * 12, BF16, "after")
        norm(size, 8192 * 12, BF16, "none")
        norm(size, 8192 * 12, BF16, "none", weighted=False)
    return cases


def operator_rows(report: Report) -> list[dict[str, Any]]:
    """Each case with its device seconds forward and forward and backward, and the host's seconds to launch either."""
    rows = []
    for name, (row, make) in operator_cases().items():
        try:
            call, given = make()
            forward, both = _both(call, given)
            rows.append(row | {"forward": forward, "both": both, **_host_seconds(call, given)})
        except Exception as error:
            report(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        gc.collect()
    return rows


def _host_seconds(call: Callable[[], Tensor], given: list[Tensor]) -> dict[str, float]:
    """What launching takes of the host's time, several in one autograd graph, as in a model."""
    incoming = torch.randn_like(call())
    forward, backward = [], []
    for _ in range(4):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        results = [call() for _ in range(HOST_CALLS)]
        middle = time.perf_counter()
        torch.cuda.synchronize()
        resumed = time.perf_counter()
        torch.autograd.grad(results, given, [incoming] * HOST_CALLS)
        backward.append((time.perf_counter() - resumed) / HOST_CALLS)
        forward.append((middle - begun) / HOST_CALLS)
    torch.cuda.synchronize()
    return {"host_forward": min(forward), "host_backward": min(backward)}


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
    alone = _replayed([lambda: torch.add(small[0], 1, out=small[1])], 5e-4)
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


def measure_rates(report: Report = print) -> dict[str, Any]:
    """All rows, and the machine that they are of. Takes about a minute and a half; needs a CUDA device."""
    if not torch.cuda.is_available():
        raise RuntimeError("rates are measured on a CUDA device")
    torch.cuda.synchronize()
    rates: dict[str, Any] = {**machine(), "memory_bytes": torch.cuda.get_device_properties(0).total_memory}
    families: dict[str, Callable[[], Any]] = {
        "host": host_rows,
        "memory": memory_rows,
        "optimizer": optimizer_rows,
        "attention": attention_rows,
        "masked_attention": masked_attention_rows,
        "matmul": matmul_rows,
        "gradient_matmul": gradient_matmul_rows,
        "operators": lambda: operator_rows(report),
    }
    for name, family in families.items():
        begun = time.perf_counter()
        try:
            rates[name] = family()
        except Exception as error:
            report(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        gc.collect()
        torch.cuda.empty_cache()
        report(f"{name}: {time.perf_counter() - begun:.1f} s")
    return rates
