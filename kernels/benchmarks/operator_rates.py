"""What this project's operators take, on the device and of the host's time to launch them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..convolution import short_convolution
from ..delta_rule import delta_rule
from ..gated_linear_attention import gated_linear_attention
from ..normalization import gated_rms_norm, l2_norm, rms_norm
from ..selective_scan import selective_scan
from .graphs import forward_and_both

Report = Callable[[str], None]
HOST_CALLS = 6
BF16, FP32 = torch.bfloat16, torch.float32


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
            forward, both = forward_and_both(call, given)
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
