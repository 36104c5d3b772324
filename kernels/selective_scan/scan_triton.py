"""The selective scan as one differentiable operator of PyTorch, computed by the Triton kernels."""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16
from ..operator import Operator

correct_bfloat16()

from .scan_backward import gradients_kernel, segment_gradients_kernel  # noqa: E402
from .scan_forward import outputs_kernel, segment_states_kernel  # noqa: E402
from .scan_tiles import carry_kernel  # noqa: E402

WIDEST = 32  # states per channel that a thread's registers hold
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SEGMENT = 64
"""Tokens of a segment: enough segments to fill a GPU, few enough that their states are small beside the inputs, and
short enough that the backward pass's differences of sums lose nothing."""
PER_WARP = 1024  # elements of a program's tile of states: 32 registers a thread


def supported(N: int, *tensors: Tensor | None) -> bool:
    """Whether the kernels can compute this: not fp64, at most 32 states a channel."""
    return N <= WIDEST and all(t.dtype in DTYPES for t in tensors if t is not None)


def selective_scan_triton(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """`selective_scan` for arguments already checked and `supported`."""
    y, final, _, _ = scan(u, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus)
    return y, final if output_final_state else None


def _constants(u: Tensor, A: Tensor, dt_softplus: bool) -> tuple[tuple[int, int, int], dict[str, int | bool]]:
    """The grid (blocks of D, segments, B) and the compile-time arguments that the kernels share."""
    N = A.shape[1]
    width = max(4, 1 << (N - 1).bit_length())
    block = max(32, PER_WARP // width)
    grid = (-(-u.shape[2] // block), -(-u.shape[1] // SEGMENT), u.shape[0])
    constants = {"N": N, "WIDTH": width, "BLOCK": block, "SEGMENT": SEGMENT, "SOFTPLUS": dt_softplus, "num_warps": 1}
    return grid, constants


def _dense(x: Tensor) -> Tensor:
    """x [B, T, width] itself where its last axis is dense, else a copy."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _by_state(A: Tensor) -> Tensor:
    """[..., D, N] as contiguous fp32 [..., N, D]."""
    return A.float().mT.contiguous()


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else x.stride()[:2]  # pyright: ignore[reportReturnType]


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _carry(states: Tensor, steps: Tensor, A: Tensor, first: Tensor | None, *, reverse: bool) -> Tensor:
    """Turn what each segment makes of an empty state into what it starts from, in place; return the last state."""
    batch, segments, N, channels = states.shape
    last = torch.empty((batch, N, channels), dtype=torch.float32, device=states.device)
    block = min(128, max(32, 1 << (channels - 1).bit_length()))
    carry_kernel[(-(-channels // block), N, batch)](
        states,
        steps,
        A,
        first,
        last,
        segments,
        channels,
        N=N,
        BLOCK=block,
        REVERSE=reverse,
        num_warps=max(1, block // 32),
    )
    return last


def _forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, dt_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and for the backward pass the states before each segment and the sums of its time steps."""
    batch, T, channels = u.shape
    grid, constants = _constants(u, A, dt_softplus)
    u, dt, B, C, z, A = _dense(u), _dense(dt), _dense(B), _dense(C), z if z is None else _dense(z), _by_state(A)
    D, dt_bias = _contiguous(D), _contiguous(dt_bias)
    states = torch.empty((batch, grid[1], A.shape[0], channels), dtype=torch.float32, device=u.device)
    steps = torch.empty((batch, grid[1], channels), dtype=torch.float32, device=u.device)
    segment_states_kernel[grid](
        u, dt, A, B, dt_bias, states, steps, _strides(u), _strides(dt), _strides(B), T, channels, **constants
    )
    final = _carry(states, steps, A, None if initial_state is None else _by_state(initial_state), reverse=False)
    y = torch.empty((batch, T, channels), dtype=u.dtype, device=u.device)
    outputs_kernel[grid](
        u, dt, A, B, C, D, z, dt_bias, states, y,
        _strides(u), _strides(dt), _strides(B), _strides(C), _strides(z), T, channels, **constants,
    )  # fmt: skip
    return y, final.mT, states, steps


def _backward(
    dout: Tensor, d_final: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, dt_bias: Tensor | None, initial_state: Tensor | None, states: Tensor, steps: Tensor,
    dt_softplus: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    given = (u, dt, A, B, C, D, z, dt_bias, initial_state)
    batch, T, channels = u.shape
    grid, constants = _constants(u, A, dt_softplus)
    u, dt, B, C, z, A = _dense(u), _dense(dt), _dense(B), _dense(C), z if z is None else _dense(z), _by_state(A)
    D, dt_bias, dout = _contiguous(D), _contiguous(dt_bias), _dense(dout)
    ends = torch.empty_like(states)
    segment_gradients_kernel[grid](
        dout,
        dt,
        A,
        C,
        z,
        dt_bias,
        ends,
        _strides(dout),
        _strides(dt),
        _strides(C),
        _strides(z),
        T,
        channels,
        **constants,
    )
    d_initial = _carry(ends, steps, A, None if d_final is None else _by_state(d_final), reverse=True)

    def rows(dtype: torch.dtype) -> Tensor:
        return torch.empty((batch, T, channels), dtype=dtype, device=u.device)

    du, ddt, terms, dz = rows(u.dtype), rows(dt.dtype), rows(torch.float32), None if z is None else rows(z.dtype)
    dB, dC = (steps.new_empty((grid[0], batch, T, A.shape[0])) for _ in range(2))
    dA, dD, dbias = torch.empty_like(states), torch.empty_like(steps), torch.empty_like(steps)
    gradients_kernel[grid](
        u, dt, A, B, C, D, z, dt_bias, dout, states, ends, terms, du, ddt, dz, dA, dB, dC, dD, dbias,
        _strides(u), _strides(dt), _strides(B), _strides(C), _strides(z), _strides(dout), T, channels, **constants,
    )  # fmt: skip
    sums = (du, ddt, dA.sum((0, 1)).mT, dB.sum(0), dC.sum(0), dD.sum((0, 1)), dz, dbias.sum((0, 1)), d_initial.mT)
    return tuple(
        None if x is None or d is None else d.to(x.dtype).contiguous() for x, d in zip(given, sums, strict=True)
    )


def _fake(u, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus):
    batch, T, channels = u.shape
    N, segments = A.shape[1], -(-T // SEGMENT)
    single = {"dtype": torch.float32, "device": u.device}
    return (
        torch.empty(u.shape, dtype=u.dtype, device=u.device),
        torch.empty((batch, N, channels), **single).mT,
        torch.empty((batch, segments, N, channels), **single),
        torch.empty((batch, segments, channels), **single),
    )


scan = Operator(
    "selective_scan",
    _forward,
    _backward,
    fake=_fake,
    tensors=9,
    learned=9,
    outputs=2,
    flops=lambda u, dt, A, *_: 4 * u.numel() * A[-1],
)
