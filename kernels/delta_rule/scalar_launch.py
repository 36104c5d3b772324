"""How the kernels of the delta rule with a scalar decay, or none, are launched.

Bytes and products of one head's token, K = V = 128 in bfloat16, chunks of 64 (minimum: 1.0 KB forward, 1.8 backward):

| kernel          | reads                               | writes                | KB  | products, kFLOP |
|-----------------|-------------------------------------|-----------------------|-----|-----------------|
| invert_chunks   | k                                   | A 128                 | 0.4 | 16 and the inverse's 82 |
| forward_scan    | q, k, v, A                          | o; U, states 512      | 1.9 | 164             |
| backward_scan   | q, k, do, A                         | dv, gradients 512     | 1.6 | 164             |
| chunk_gradients | q, k, do, U, dv, states, gradients  | dq, dk                | 2.8 | 230             |
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..gated_linear_attention.launch import (
    KINDS,
    Inputs,
    ceil_div,
    empty_rows,
    padded,
    provide_descriptor_memory,
    strides,
)
from ..gated_linear_attention.places import places
from ..gated_linear_attention.split import multiprocessors
from ..interpreter import correct_bfloat16
from .inverse import invert_chunks
from .scalar_gradients import chunk_gradients
from .scalar_scans import backward_scan, forward_scan

correct_bfloat16()

# What is nearer to 0 counts as this: a token's error is then what it wrote, divided by beta, whatever its beta. With
# 16-bit inputs it is far below what their rounding hides, and room for the inverse in float16.
LEAST_BETA = {torch.float32: 1e-15, torch.float16: 2.0**-14, torch.bfloat16: 2.0**-12}


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles of one configuration, and what runs them, but for the scans'."""

    time: int
    """Tokens of a chunk."""
    block_k: int
    """Columns of K that a program of `chunk_gradients` has."""
    block_v: int
    """Columns of V that it takes at a time."""
    stages: int
    """Such blocks in flight: loaded while another is computed."""


Task = Literal["forward", "keeping", "backward"]
"""What a scan is for: forward alone, forward with what a backward pass takes, backward."""


@dataclass(frozen=True)
class Scan:
    """How a scan runs."""

    block: int
    """Columns of V that a program holds."""
    warps: int
    stages: int
    """Chunks in flight."""


@cache
def tiling(dtype: torch.dtype, K: int, V: int) -> Tiling:
    """The tiles for keys of width K and values of width V."""
    if dtype == torch.float32:
        return Tiling(32, min(32, width(K)), min(16 if max(K, V) > 64 else 32, width(V)), 1)
    return Tiling(64, min(64, width(K)), min(64, width(V)), 2)


@cache
def scan_tiling(task: Task, dtype: torch.dtype, K: int, V: int, *, decays: bool, heads: int, room: int) -> Scan:
    """The tiles of a scan over `heads` heads of all sequences on `room` multiprocessors: the fastest measured."""
    widest, all_v = width(max(K, V)), width(V)
    if dtype == torch.float32:
        return Scan(16, 8, 1) if widest > 64 else Scan(min(32, all_v), 4, 1)
    if widest > 128:
        return Scan(min(64, all_v), 8, 1)
    if heads * ceil_div(V, 32) <= room:
        return Scan(min(32, all_v), 4, 3)
    wide = task == "keeping" or (task == "backward" and not decays)
    if wide and all_v == 128 and 4 * heads >= 3 * room:
        return Scan(128, 8, 3)
    return Scan(min(64, all_v), 4, 3 if task == "forward" and widest <= 64 else 2)


def width(columns: int) -> int:
    """Columns of the tile that holds so many: the matrix units take 16 at least."""
    return max(16, padded(columns))


@dataclass(frozen=True)
class DeltaInputs(Inputs):
    """One call's inputs, as the kernels want them; beta: [B, T, H]."""

    beta: Tensor

    @property
    def tiles(self) -> Tiling:
        return tiling(self.v.dtype, self.q.shape[3], self.v.shape[3])

    @property
    def widths(self) -> tuple[int, int]:
        """The tiles' widths of K and V."""
        return width(self.q.shape[3]), width(self.v.shape[3])

    def shared_constants(self) -> dict[str, Any]:
        """The compile-time arguments that all kernels take."""
        return {
            "K": self.q.shape[3],
            "FULL_K": self.widths[0],
            "GROUP": self.group,
            "TIME": self.tiles.time,
            "LEAST": LEAST_BETA[self.v.dtype],
            "KIND": KINDS[self.kind],
            "PRECISE": self.v.dtype == torch.float32,
            "VARLEN": self.cu_seqlens is not None,
        }

    def scan(self, task: Task) -> Scan:
        """How a scan runs."""
        K, V = self.sizes[3:]
        heads, room = self.sequences * self.v.shape[2], multiprocessors(self.v.device)
        return scan_tiling(task, self.v.dtype, K, V, decays=self.decay is not None, heads=heads, room=room)

    def scan_constants(self, scan: Scan) -> dict[str, Any]:
        """The compile-time arguments that the scans take."""
        own = {"BLOCK": scan.block, "num_warps": scan.warps, "num_stages": scan.stages}
        return {**self.shared_constants(), "V": self.v.shape[3], "FULL_V": self.widths[1], **own}


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass; written and states are None where none will follow.

    inverse: [B, T, H, chunk]. written: [B, T, H, V]. states, before each chunk: [chunks, H, width of V, width of K].
    """

    inverse: Tensor
    written: Tensor | None
    states: Tensor | None


def empty_kept(x: DeltaInputs, keep: bool) -> Kept:
    """Uninitialised memory for what is kept."""
    B, T, H, _, _ = x.sizes
    inverse = empty_rows((B, T, H, x.tiles.time), x.v.dtype, x.v.device)
    if not keep:
        return Kept(inverse, None, None)
    return Kept(inverse, empty_rows(x.v.shape, x.v.dtype, x.v.device), empty_states(x))


def empty_states(x: DeltaInputs) -> Tensor:
    width_k, width_v = x.widths
    return x.v.new_empty((x.places(x.tiles.time), x.v.shape[2], width_v, width_k))


def run_forward(
    x: DeltaInputs, initial: Tensor | None, want_final: bool, keep: bool
) -> tuple[Tensor, Tensor | None, Kept]:
    """o [B, T, H, V], the final states [N, H, K, V] (None unless wanted), and what a backward pass takes."""
    provide_descriptor_memory(x.v.device)
    _, T, H, K, V = x.sizes
    o, kept = empty_rows(x.v.shape, x.v.dtype, x.v.device), empty_kept(x, keep)
    at = places(x, x.tiles.time)
    invert_chunks[(at.count * H,)](
        x.k, x.beta, x.decay, kept.inverse, at.sequence_of, x.cu_seqlens, T, H,
        strides(x.k), x.beta.stride(), x.decay_strides(), strides(kept.inverse),
        LEVELS=x.tiles.time.bit_length() - 1, **x.shared_constants(), num_warps=4, num_stages=1,
    )  # fmt: skip
    final = x.v.new_empty((x.sequences, H, K, V), dtype=torch.float32) if want_final else None
    scan = x.scan("keeping" if keep else "forward")
    forward_scan[(x.sequences * H * ceil_div(V, scan.block),)](
        x.q, x.k, x.v, x.beta, x.decay, kept.inverse, initial, o, kept.written, kept.states, final, x.cu_seqlens,
        x.scale, T, H, strides(x.q), strides(x.k), strides(x.v), x.beta.stride(), x.decay_strides(),
        strides(kept.inverse), strides(o), (0, 0, 0) if kept.written is None else strides(kept.written),
        **x.scan_constants(scan),
    )  # fmt: skip
    return o, final, kept


class Gradients(NamedTuple):
    """q, k: for each head of v, [B, T, H, K]. decay: [B, T, H]; decay and initial: None without such an input."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    decay: Tensor | None
    initial: Tensor | None


def run_backward(x: DeltaInputs, initial: Tensor | None, do: Tensor, d_final: Tensor | None, kept: Kept) -> Gradients:
    """All gradients; d_final: contiguous or None."""
    assert kept.written is not None
    provide_descriptor_memory(x.v.device)
    B, T, H, K, V = x.sizes
    tiles = x.tiles
    dq, dk = (empty_rows((B, T, H, K), x.q.dtype, x.q.device) for _ in range(2))
    dv, d_states = empty_rows(x.v.shape, x.v.dtype, x.v.device), empty_states(x)
    d_initial = torch.empty_like(initial) if initial is not None else None
    scan = x.scan("backward")
    backward_scan[(x.sequences * H * ceil_div(V, scan.block),)](
        x.q, x.k, x.beta, x.decay, kept.inverse, do, d_final, dv, d_states, d_initial, x.cu_seqlens, x.scale, T, H,
        strides(x.q), strides(x.k), x.beta.stride(), x.decay_strides(), strides(kept.inverse), strides(do),
        strides(dv), **x.scan_constants(scan),
    )  # fmt: skip
    blocks, at = ceil_div(K, tiles.block_k), places(x, tiles.time)
    d_beta = torch.empty((B, T, H), dtype=x.beta.dtype, device=x.beta.device)
    d_decay = x.v.new_empty((blocks, B, T, H), dtype=torch.float32) if x.decay is not None else None
    chunk_gradients[(at.count * H * blocks,)](
        x.q, x.k, x.beta, x.decay, do, kept.written, dv, kept.states, d_states, dq, dk, d_beta, d_decay,
        at.sequence_of, x.cu_seqlens, x.scale, T, H, B * T,
        strides(x.q), strides(x.k), x.beta.stride(), x.decay_strides(), strides(do), strides(kept.written),
        strides(dv), strides(dq), V=V, FULL_V=x.widths[1], BLOCK_K=tiles.block_k, BLOCK_V=tiles.block_v,
        BLOCKS=blocks, **x.shared_constants(), num_warps=4, num_stages=tiles.stages,
    )  # fmt: skip
    if d_decay is not None:
        d_decay = d_decay[0] if blocks == 1 else d_decay.sum(0)
    return Gradients(dq, dk, dv, d_beta, d_decay, d_initial)
