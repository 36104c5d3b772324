"""How the scans are launched: tile sizes by rule, inputs as the kernels want them, memory for tensor descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
import triton
from torch import Tensor

from .arguments import Kind
from .tiles import SUMMED

KINDS: dict[Kind, int] = {"none": 0, "head": 1, "token": 2, "channel": 3}
ALIGNMENT = 16  # bytes: what the copy engine asks of addresses and strides
HEADS = 8  # that a program takes where it reads a float32 [tokens, H] array by rows: 32 bytes of each


def padded(width: int) -> int:
    """The tile width that holds `width`: the next power of two."""
    return 1 << (width - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles of one configuration, and what runs them."""

    time: int
    """Tokens of a chunk."""
    block: int
    """Columns of the state, or rows of it, that one program holds."""
    warps: int
    stages: int
    """Chunks in flight: loaded while another is computed."""


@cache
def tiling(dtype: torch.dtype, K: int, V: int) -> Tiling:
    """The tiles for keys of width K and values of width V: the largest that spill no registers (tests hold that)."""
    widest = max(padded(K), padded(V))
    if dtype == torch.float32:
        return Tiling(time=32, block=32, warps=4, stages=1 if widest > 128 else 2)
    if widest > 128:
        return Tiling(time=64, block=64, warps=8, stages=1)
    return Tiling(time=64, block=min(64, widest), warps=4, stages=2)


@dataclass(frozen=True)
class Inputs:
    """One call's inputs, as the kernels want them.

    q, k: [B, T, Hk, K], v: [B, T, H, V], decay: None, [H], [B, T, H] or [B, T, H, K], cu_seqlens: int32 [N+1] or None.
    value_scale, skip: contiguous float32 [B, T, H] and [H], only where `groups.fused`.
    summed: the decay is `summed_decays.summed`'s.
    normalize: with the normaliser inside the scans; scale is 1 and the kind is not "channel".
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    kind: Kind
    bonus: Tensor | None
    scale: float
    cu_seqlens: Tensor | None
    normalize: bool = field(default=False, kw_only=True)
    summed: bool = field(default=False, kw_only=True)
    value_scale: Tensor | None = field(default=None, kw_only=True)
    skip: Tensor | None = field(default=None, kw_only=True)

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, T, H, K, V."""
        return (*self.v.shape[:3], self.q.shape[3], self.v.shape[3])  # pyright: ignore[reportReturnType]

    @property
    def group(self) -> int:
        """Heads of v that share one head of q and k."""
        return self.v.shape[2] // self.q.shape[2]

    @property
    def sequences(self) -> int:
        return self.v.shape[0] if self.cu_seqlens is None else self.cu_seqlens.numel() - 1

    @property
    def tiling(self) -> Tiling:
        return tiling(self.v.dtype, self.q.shape[3], self.v.shape[3])

    def places(self, every: int) -> int:
        """Entries of an array with one for every `every` tokens of a sequence (`places.slot` says which is whose)."""
        B, T = self.v.shape[:2]
        return B * -(-T // every) if self.cu_seqlens is None else T // every + self.sequences

    def decay_strides(self) -> tuple[int, int, int]:
        """Strides of batch, time and head of a scalar decay; 0 where it has no such axis."""
        if self.decay is None or self.kind == "channel":
            return (0, 0, 0)
        if self.summed:
            return (0, self.v.shape[2], 0)
        return (0, 0, self.decay.stride(0)) if self.kind == "head" else self.decay.stride()  # pyright: ignore

    def constants(self) -> dict[str, int | bool]:
        """The compile-time arguments that all scans take."""
        return {
            "K": self.q.shape[3],
            "V": self.v.shape[3],
            "TIME": self.tiling.time,
            "KIND": SUMMED.value if self.summed else KINDS[self.kind],
            "PRECISE": self.v.dtype == torch.float32,
            "VARLEN": self.cu_seqlens is not None,
            "BLOCK": self.tiling.block,
            "num_warps": self.tiling.warps,
            "STAGES": self.tiling.stages,
        }


def strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of batch, time and head of a [B, T, H, width] tensor."""
    return x.stride()[:3]  # pyright: ignore[reportReturnType]


def aligned(x: Tensor) -> Tensor:
    """x [B, T, H, width] itself where the copy engine can read it, else a copy with rows at aligned addresses."""
    size = x.element_size()
    fits = x.stride(3) == 1 and x.stride(1) > 0 and x.data_ptr() % ALIGNMENT == 0
    if fits and all(stride * size % ALIGNMENT == 0 for stride in x.stride()[:3]):
        return x
    copy = empty_rows(x.shape, x.dtype, x.device)
    return copy.copy_(x)


def empty_rows(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised [B, T, H, width] tensor whose rows start at aligned addresses; contiguous if width allows."""
    width, step = shape[-1], ALIGNMENT // dtype.itemsize
    if width % step == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.empty((*shape[:-1], ceil_div(width, step) * step), dtype=dtype, device=device)[..., :width]


def provide_descriptor_memory(device: torch.device) -> None:
    """Let Triton take the few bytes that a kernel's tensor descriptors need from PyTorch's allocator.

    Triton keeps the allocator per thread and autograd runs backward passes on threads of its own: so before every
    launch.
    """

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device=device)

    triton.set_allocator(allocate)
