"""What the kernels of a decay per channel are launched with: tiles by rule, the chunks' places, buffers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..gated_linear_attention.launch import ceil_div, padded

WIDEST = 128  # the widest keys and values that the kernels have tiles for
NARROWEST = 16  # of a tile that the matrix units take
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Largest |log2| of a centred weight. Weights of 2^100 overflow only products that are masked away, j after i; float32's
# are split into three parts, of which the smallest should not underflow.
LIMITS = {torch.bfloat16: 100.0, torch.float16: 80.0, torch.float32: 80.0}
# float16 cannot hold such weights: there float32's products are taken.
CENTRED = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float32, torch.float32: tl.float32}

# The inverse's entries stay small where the recurrence does not explode: float16 has the room, and more mantissa.
SOLVED = {torch.bfloat16: tl.float16, torch.float16: tl.float16, torch.float32: tl.float32}


@dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, and what runs them."""

    time: int
    """Tokens of a chunk."""
    channels: int
    """Channels of a tile of the solving kernels."""
    score_channels: int
    """The same for the scores."""
    gradient_channels: int
    """The same for the gradients."""
    span: int
    """Channels of a program of the gradients, so many at a time."""
    values: int
    """Columns of v of a tile of the chunk-parallel kernels."""
    columns: int
    """Columns of the state that a program of the scan holds."""
    columns_back: int
    """The same for the backward scan."""
    score_stages: int = 1
    scan_warps: int = 4
    scan_stages: int = 1
    scan_warps_back: int = 4
    scan_stages_back: int = 1
    read_warps: int = 4


@cache
def tiling(dtype: torch.dtype, K: int, V: int, extra: bool) -> Tiling:
    """The tiles for keys of width K and values of width V (extra: dplr's): the fastest of those measured on an H100."""
    k_width, v_width = width(K), width(V)
    precise, measured = dtype == torch.float32, dtype == torch.bfloat16
    widest = 32 if precise else 64
    k_block, v_block, narrow = min(widest, k_width), min(widest, v_width), min(32, k_width)
    # With two keys to load, only one program of 64 columns fits a multiprocessor: a wider one then reads them once.
    wide = measured and v_width == k_width == WIDEST
    wide_forward = wide and extra
    return Tiling(
        time=32 if precise else 64, channels=k_block, score_channels=narrow, gradient_channels=narrow,
        span=k_width if k_width > 64 and not extra else narrow, values=WIDEST if wide else v_block,
        columns=WIDEST if wide_forward else v_block, columns_back=WIDEST if wide else v_block,
        score_stages=2 if measured else 1, scan_warps=8 if wide_forward else 4, scan_stages=1 if precise else 2,
        scan_warps_back=8 if wide else 4, scan_stages_back=1 if precise else 2, read_warps=8 if wide else 4,
    )  # fmt: skip


def width(x: int) -> int:
    """The tile width that holds x."""
    return max(NARROWEST, padded(x))


@dataclass(frozen=True)
class Inputs:
    """One call's inputs, as the kernels want them; dplr's, or the delta rule's where k and a are None.

    q, a, b, k: [B, T, Hk, K] (b: the delta rule's keys), v: [B, T, H, V], beta: [B, T, H], decay: [B, T, H, K],
    cu_seqlens: int32 [N+1] or None. The last axis is dense.
    """

    q: Tensor
    a: Tensor | None
    b: Tensor
    k: Tensor | None
    v: Tensor
    beta: Tensor | None
    decay: Tensor
    scale: float
    cu_seqlens: Tensor | None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, T, H, K, V."""
        return (*self.v.shape[:3], self.q.shape[3], self.v.shape[3])  # pyright: ignore[reportReturnType]

    @property
    def group(self) -> int:
        """Heads of v that share one head of q, a, b and k."""
        return self.v.shape[2] // self.q.shape[2]

    @property
    def sequences(self) -> int:
        return self.v.shape[0] if self.cu_seqlens is None else self.cu_seqlens.numel() - 1

    @property
    def tiling(self) -> Tiling:
        return tiling(self.v.dtype, self.q.shape[3], self.v.shape[3], self.k is not None)

    @property
    def places(self) -> int:
        """Chunks, one place each. Packed sequences: sequence n's begin at its start // time + n."""
        B, T = self.v.shape[:2]
        time = self.tiling.time
        return B * ceil_div(T, time) if self.cu_seqlens is None else T // time + self.sequences

    def sequence_of(self) -> Tensor | None:
        """Packed sequences: which one a place belongs to, int32 [places]."""
        if self.cu_seqlens is None:
            return None
        device = self.v.device
        first = self.cu_seqlens[:-1] // self.tiling.time
        first += torch.arange(self.sequences, device=device, dtype=torch.int32)
        every = torch.arange(self.places, device=device, dtype=torch.int32)
        return (torch.searchsorted(first, every, right=True) - 1).int()

    def tile_sizes(self) -> dict[str, Any]:
        """The compile-time sizes that every kernel but one takes."""
        _, _, _, K, V = self.sizes
        return {"V": V, "K_WIDTH": width(K), "V_WIDTH": width(V), "TIME": self.tiling.time, "num_stages": 1}

    def score_options(self) -> dict[str, Any]:
        """The compile-time arguments of the kernels that know the decay."""
        size = self.tiling
        return {
            "K": self.q.shape[3],
            "GROUP": self.group,
            "TIME": size.time,
            "LEVELS": size.time.bit_length() - 1,
            "CENTRED": CENTRED[self.v.dtype],
            "VARLEN": self.cu_seqlens is not None,
            "num_warps": 4,
        }

    def score_strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides of q, a, b, k, beta and the decay."""
        return tuple(strides(x) for x in (self.q, self.a, self.b, self.k, self.beta, self.decay))


class Solved(NamedTuple):
    """What the forward pass leaves for the backward pass; a_k, q_k and k are None for the delta rule.

    q, a, b, k: weighted for the states, [places, H, TIME, width of K]. inverse, a_k, q_b, q_k: [places, H, TIME, TIME].
    u: what is written, [places, H, TIME, width of V]. states: each chunk's before it, transposed, [places, H, width of
    V, width of K]. total: log2 decay of a chunk, float32 [places, H, width of K]. lean: int8 [places, H].
    """

    q: Tensor
    a: Tensor
    b: Tensor
    inverse: Tensor
    q_b: Tensor
    u: Tensor
    states: Tensor
    total: Tensor
    lean: Tensor
    k: Tensor | None = None
    a_k: Tensor | None = None
    q_k: Tensor | None = None


def strides(x: Tensor | None) -> tuple[int, int, int]:
    """Strides of batch, time and head."""
    return (0, 0, 0) if x is None else x.stride()[:3]  # pyright: ignore[reportReturnType]


def empty_solved(x: Inputs) -> Solved:
    """Uninitialised memory for what the forward pass leaves."""
    _, _, H, K, V = x.sizes
    time, k_width, v_width = x.tiling.time, width(K), width(V)

    def tiles(rows: int, columns: int) -> Tensor:
        return x.v.new_empty((x.places, H, rows, columns))

    extra = x.k is not None
    return Solved(
        q=tiles(time, k_width), a=tiles(time, k_width), b=tiles(time, k_width),
        inverse=tiles(time, time), q_b=tiles(time, time), u=tiles(time, v_width), states=tiles(v_width, k_width),
        total=x.v.new_empty((x.places, H, k_width), dtype=torch.float32),
        lean=x.v.new_empty((x.places, H), dtype=torch.int8),
        k=tiles(time, k_width) if extra else None, a_k=tiles(time, time) if extra else None,
        q_k=tiles(time, time) if extra else None,
    )  # fmt: skip
