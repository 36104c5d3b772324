"""The norms as one differentiable operator of PyTorch, computed by the Triton kernels.

Registered with torch.library, so that torch.compile, autocast and activation checkpointing see an operator like any
other.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16

correct_bfloat16()

from .norm_kernels import backward_kernel, forward_kernel  # noqa: E402

Gate = Literal["none", "before", "after"]
GATES: dict[str, int] = {"none": 0, "before": 1, "after": 2}
WIDEST = 4096  # elements of a group that one program holds without spilling registers
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TILE = 2048  # elements that a program holds of each input, at least
PROGRAMS = 528  # of a backward pass: four for each of an H100's 132 multiprocessors


def supported(size: int, *tensors: Tensor | None) -> bool:
    """Whether the kernels can compute this: not empty, not fp64, and groups that fit in one program."""
    return 0 < size <= WIDEST and all(t.dtype in DTYPES and t.numel() > 0 for t in tensors if t is not None)


def norm_triton(
    x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, size: int, gate: Gate, *, mean: bool
) -> Tensor:
    """x normalised over runs of `size` of its last axis, by their mean square (`mean`) or their sum of squares.

    For arguments already checked and `supported`; z is gated with as `gate` says (norm_kernels has the equations).
    """
    share = 1.0 / size if mean else 1.0
    run = _forward if torch.compiler.is_compiling() or type(x) is not Tensor else _Eager.apply
    return run(x, z, weight, eps, share, size, gate)


@dataclass(frozen=True)
class Tiling:
    """Rows and columns of a program's tile, and its warps."""

    rows: int
    block: int
    warps: int


def tiling(size: int) -> Tiling:
    """A tile of TILE elements or one row; eight elements a thread, loaded 16 bytes at once, in rows of 2048 or more."""
    block = max(16, 1 << (size - 1).bit_length())
    rows = max(1, TILE // block)
    return Tiling(rows, block, max(4, block // 256))


def _split(x: Tensor, size: int) -> tuple[int, int]:
    """(groups, stride of the weights between them) of rows [M, groups, size] that x can be seen as without a copy."""
    D = x.shape[-1]
    if size < D:
        return D // size, size
    # Heads of a joint projection: their rows do not follow one another evenly, but those of one head do.
    uneven = x.ndim > 2 and not x.is_contiguous() and x.stride(-3) != x.shape[-2] * x.stride(-2)
    return (x.shape[-2], 0) if uneven else (1, 0)


def _rows(x: Tensor, groups: int, size: int) -> Tensor:
    rows = x.reshape(-1, groups, size)
    return rows if rows.stride(2) == 1 or size == 1 else rows.contiguous()


def _run_forward(
    x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, share: float, size: int, gate: str
) -> Tensor:
    groups, weight_stride = _split(x, size)
    rows, y = _rows(x, groups, size), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    gates = None if z is None else _rows(z, groups, size)
    M, tile = rows.shape[0], tiling(size)
    forward_kernel[(-(-M // tile.rows), groups)](
        rows, gates, None if weight is None else weight.contiguous(), y,
        rows.stride()[:2], (0, 0) if gates is None else gates.stride()[:2], (groups * size, size), weight_stride,
        M, eps, share, SIZE=size, ROWS=tile.rows, BLOCK=tile.block, GATE=GATES[gate], num_warps=tile.warps,
    )  # fmt: skip
    return y


_forward = torch.library.custom_op("hybridlab::norm", _run_forward, mutates_args=())


@_forward.register_fake
def _(x, z, weight, eps, share, size, gate):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _run_backward(
    dy: Tensor, x: Tensor, z: Tensor | None, weight: Tensor | None, eps: float, share: float, size: int, gate: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, z and weight; empty where there is no such input."""
    groups, weight_stride = _split(x, size)
    rows, d_rows = _rows(x, groups, size), _rows(dy, groups, size)
    gates = None if z is None else _rows(z, groups, size)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dz = x.new_empty(0) if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
    M, tile = rows.shape[0], tiling(size)
    blocks = -(-M // tile.rows)
    run = -(-blocks // max(1, PROGRAMS // groups))
    programs = -(-blocks // run)
    parts = None
    if weight is not None:
        parts = torch.empty((programs, groups, size), dtype=torch.float32, device=x.device)
    backward_kernel[(programs, groups)](
        rows, gates, None if weight is None else weight.contiguous(), d_rows, dx, dz, parts,
        rows.stride()[:2], (0, 0) if gates is None else gates.stride()[:2], d_rows.stride()[:2], (groups * size, size),
        weight_stride, M, eps, share, run,
        SIZE=size, ROWS=tile.rows, BLOCK=tile.block, GATE=GATES[gate], num_warps=tile.warps,
    )  # fmt: skip
    if parts is None or weight is None:
        return dx, dz, x.new_empty(0)
    dweight = parts.sum(0).flatten() if weight_stride else parts.sum((0, 1))
    return dx, dz, dweight.to(weight.dtype)


_backward = torch.library.custom_op("hybridlab::norm_backward", _run_backward, mutates_args=())


@_backward.register_fake
def _(dy, x, z, weight, eps, share, size, gate):
    given = (t if t is not None else x.new_empty(0) for t in (x, z, weight))
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=x.device) for t in given)


def _save(ctx, inputs, output) -> None:
    x, z, weight, *ctx.options = inputs
    ctx.save_for_backward(x, z, weight)


def _gradients(ctx, dy: Tensor, backward: Callable[..., tuple[Tensor, ...]]):
    x, z, weight = ctx.saved_tensors
    dx, dz, dweight = backward(dy, x, z, weight, *ctx.options)
    return dx, None if z is None else dz, None if weight is None else dweight, None, None, None, None


def _differentiate(ctx, dy: Tensor):
    return _gradients(ctx, dy, _backward)


_forward.register_autograd(_differentiate, setup_context=_save)


class _Eager(torch.autograd.Function):
    """The same operator without torch.library's dispatch, which costs more than small inputs take on the GPU."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _run_forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor):
        return _gradients(ctx, dy, _run_backward)
