"""The norms as one differentiable operator of PyTorch, computed by the Triton kernels."""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16
from ..operator import Operator

correct_bfloat16()

from .norm_kernels import backward_kernel, forward_kernel  # noqa: E402

Gate = Literal["none", "before", "after"]
GATES: dict[str, int] = {"none": 0, "before": 1, "after": 2}
WIDEST = 4096  # elements of a group that one program holds without spilling registers
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TILE = 2048  # elements that a program holds of each input, at least
SUMMING_TILE, SUMMING_WARPS = 4096, 16  # where it sums the weights' gradient over many tiles, one after another
SUMMING_PROGRAMS = 132  # one for each of an H100's multiprocessors: every one of them writes its sums


def supported(size: int, *tensors: Tensor | None) -> bool:
    """Whether the kernels can compute this: not empty, not fp64, and groups that fit in one program."""
    return 0 < size <= WIDEST and all(t.dtype in DTYPES and t.numel() > 0 for t in tensors if t is not None)


def norm_triton(
    x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, size: int, gate: Gate, *, mean: bool
) -> Tensor:
    """x normalised over runs of `size` of its last axis, by their mean square (`mean`) or their sum of squares.

    For arguments already checked and `supported`; z is gated with as `gate` says (norm_kernels has the equations).
    """
    return norm(x, z, weight, eps, size, gate, mean)


@cache
def tiling(size: int, summing: bool, gated: bool) -> dict[str, int]:
    """A tile of rows, or one row; eight elements a thread, loaded 16 bytes at once, in rows of 2048 or more.

    With one program a multiprocessor and no gate twice as many elements are under way: the registers have the room.
    """
    block = max(16, 1 << (size - 1).bit_length())
    if not summing:
        return {"ROWS": max(1, TILE // block), "BLOCK": block, "num_warps": max(4, block // 256)}
    wide = 1 if gated or block < 2048 else 2
    return {"ROWS": max(1, wide * SUMMING_TILE // block), "BLOCK": block, "num_warps": SUMMING_WARPS}


def _groups(x: Tensor, size: int) -> int:
    """Groups of rows [M, groups, size] that x can be seen as without a copy."""
    if size < x.shape[-1]:
        return x.shape[-1] // size
    # Heads of a joint projection: their rows do not follow one another evenly, but those of one head do.
    uneven = x.ndim > 2 and not x.is_contiguous() and x.stride(-3) != x.shape[-2] * x.stride(-2)
    return x.shape[-2] if uneven else 1


def _rows(x: Tensor | None, groups: int, size: int) -> tuple[Tensor | None, int, int]:
    """x, copied only where it must be, and the strides between its rows and between their groups."""
    if x is None:
        return None, 0, 0
    if x.is_contiguous():
        return x, groups * size, size
    rows = x.reshape(-1, groups, size)
    rows = rows if rows.stride(2) == 1 or size == 1 else rows.contiguous()
    return rows, rows.stride(0), rows.stride(1)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _forward(
    x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, size: int, gate: str, mean: bool
) -> Tensor:
    groups, y = _groups(x, size), _empty_like(x)
    M, tile = x.numel() // (groups * size), tiling(size, False, z is not None)
    rows, x_row, x_group = _rows(x, groups, size)
    gates, z_row, z_group = _rows(z, groups, size)
    forward_kernel[(-(-M // tile["ROWS"]), groups)](
        rows, gates, weight if weight is None else weight.contiguous(), y, x_row, x_group, z_row, z_group, M, eps,
        SIZE=size, GATE=GATES[gate], MEAN=mean, SHARED=size == x.shape[-1], **tile,
    )  # fmt: skip
    return y


def _backward(
    dy: Tensor, x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, size: int, gate: str, mean: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    groups = _groups(x, size)
    M, tile = x.numel() // (groups * size), tiling(size, weight is not None, z is not None)
    rows, x_row, x_group = _rows(x, groups, size)
    gates, z_row, z_group = _rows(z, groups, size)
    d_rows, dy_row, dy_group = _rows(dy, groups, size)
    dx, dz, parts = _empty_like(x), None if z is None else _empty_like(z), None
    programs, run = -(-M // tile["ROWS"]), 1
    if weight is not None:
        run = -(-programs // max(1, SUMMING_PROGRAMS // groups))
        programs = -(-programs // run)
        parts = torch.empty((programs, groups, size), dtype=torch.float32, device=x.device)
    backward_kernel[(programs, groups)](
        rows, gates, weight if weight is None else weight.contiguous(), d_rows, dx, dz, parts,
        x_row, x_group, z_row, z_group, dy_row, dy_group, M, eps, run,
        SIZE=size, GATE=GATES[gate], MEAN=mean, SHARED=size == x.shape[-1], **tile,
    )  # fmt: skip
    if parts is None or weight is None:
        return dx, dz, None
    dweight = parts.sum((0, 1)) if size == x.shape[-1] else parts.sum(0).flatten()
    return dx, dz, dweight.to(weight.dtype)


norm = Operator("norm", _forward, _backward, fake=lambda x, *_: _empty_like(x), tensors=3, learned=3, outputs=1)
