"""The short convolution as one differentiable operator of PyTorch, computed by the Triton kernels."""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16
from ..operator import Operator, Step
from .arguments import Activation

correct_bfloat16()

from .short_kernels import backward_kernel, forward_kernel, step_kernel  # noqa: E402

WIDEST = 4  # taps that the kernels hold in registers
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
COLUMNS = 1024  # channels of one program: four for each of 256 threads, which load 8 bytes at a time in bfloat16
ENOUGH = 528  # programs that keep an H100 busy: four for each of its 132 multiprocessors


def supported(x: Tensor, weight: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels can compute this: not fp64, at most four taps."""
    given = [t for t in (x, weight, *others) if t is not None]
    return weight.shape[1] <= WIDEST and all(t.dtype in DTYPES for t in given)


def short_convolution_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`short_convolution` for arguments already checked and `supported`."""
    if weight.shape[1] == 1:
        initial_state = None  # it is empty
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.to(x.device)
    of_token = None if cu_seqlens is None else sequence_of_token(cu_seqlens, x.shape[1])
    starts, sequences = (None, None) if of_token is None else of_token
    y = convolve(x, weight, bias, initial_state, starts, sequences, activation == "silu")
    return y, final_state(x, weight, initial_state, cu_seqlens) if output_final_state else None


def sequence_of_token(cu_seqlens: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Of every token of the packed row: its sequence's first token, and its sequence; both int32 [T]."""
    tokens = torch.arange(T, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    sequences = torch.searchsorted(cu_seqlens, tokens, right=True) - 1
    return cu_seqlens[sequences].int(), sequences.int()


def final_state(x: Tensor, weight: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """The last W-1 inputs of each sequence, [N, W-1, D] in fp32, differentiably."""
    T, past = x.shape[1], weight.shape[1] - 1
    if cu_seqlens is None:
        if past <= T:
            return x[:, T - past :].float()
        before = x.new_zeros(x.shape[0], past, x.shape[2]) if initial_state is None else initial_state
        return torch.cat([before[:, T:].float(), x.float()], dim=1)
    positions = cu_seqlens[1:, None].long() + torch.arange(-past, 0, device=x.device)
    within = positions - cu_seqlens[:-1, None].long()
    state = x[0, positions.clamp_min(0)].float() * (within >= 0)[..., None]
    if initial_state is not None:
        slots = (within + past).clamp(max=past - 1)[..., None].expand(-1, -1, x.shape[2])
        state = torch.where((within >= 0)[..., None], state, initial_state.float().gather(1, slots))
    return state


def run_length(B: int, T: int, D: int) -> int:
    """Tokens that one program walks along: as many as leave enough programs, for three tokens are read twice a run."""
    blocks = B * _ceil_div(D, COLUMNS)
    for length in (128, 64, 32):
        if blocks * _ceil_div(T, length) >= ENOUGH:
            return length
    return 16


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _block(D: int) -> tuple[int, int]:
    """Channels of a program and the warps that hold them, four channels a thread."""
    block = min(COLUMNS, max(32, 1 << (D - 1).bit_length()))
    return block, max(1, block // 128)


def _dense(x: Tensor) -> Tensor:
    """x [B, T, D] itself where its channels are neighbours (a view of a joint projection is), else a copy."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, starts: Tensor | None,
    sequences: Tensor | None, silu: bool,
) -> Tensor:  # fmt: skip
    B, T, D = x.shape
    x, y = _dense(x), torch.empty((B, T, D), dtype=x.dtype, device=x.device)
    length, (block, warps) = run_length(B, T, D), _block(D)
    forward_kernel[(_ceil_div(D, block), _ceil_div(T, length), B)](
        x, weight.contiguous(), _contiguous(bias), _contiguous(past), starts, sequences, y,
        x.stride()[:2], T, D, length,
        WIDTH=weight.shape[1], BLOCK=block, SILU=silu, VARLEN=starts is not None, num_warps=warps,
    )  # fmt: skip
    return y


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, starts: Tensor | None,
    sequences: Tensor | None, silu: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    B, T, D = x.shape
    W = weight.shape[1]
    x, dy, dx = _dense(x), _dense(dy), torch.empty((B, T, D), dtype=x.dtype, device=x.device)
    length, (block, warps) = run_length(B, T, D), _block(D)
    runs = _ceil_div(T, length)
    parts = torch.empty((B * runs, W + 1, D), dtype=torch.float32, device=x.device)
    edge = None if past is None else torch.zeros(past.shape, dtype=torch.float32, device=x.device)
    backward_kernel[(_ceil_div(D, block), runs, B)](
        x, weight.contiguous(), _contiguous(bias), _contiguous(past), starts, sequences, dy, dx, parts, edge,
        x.stride()[:2], dy.stride()[:2], T, D, length,
        WIDTH=W, BLOCK=block, SILU=silu, VARLEN=starts is not None, num_warps=warps,
    )  # fmt: skip
    sums = parts.sum(0)
    dweight = torch.empty(weight.shape, dtype=weight.dtype, device=x.device).copy_(sums[:W].T)
    dbias = None if bias is None else sums[W].to(bias.dtype, copy=True)
    dpast = None if past is None or edge is None else _past_gradient(edge, weight).to(past.dtype)
    return dx, dweight, dbias, dpast


def _past_gradient(edge: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the inputs before the first: input i met output k ≤ i, through weight i - k."""
    gradient = torch.zeros_like(edge)
    for i in range(edge.shape[1]):
        for k in range(i + 1):
            gradient[:, i] += weight[:, i - k].float() * edge[:, k]
    return gradient


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


convolve = Operator(
    "short_convolution",
    _forward,
    _backward,
    fake=lambda x, *_: torch.empty(x.shape, dtype=x.dtype, device=x.device),
    tensors=6,
    learned=4,
    outputs=1,
    flops=lambda x, weight, *_: 2 * x.numel() * weight[-1],
)


def _run_step(x: Tensor, weight: Tensor, state: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    B, D = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty((B, D), dtype=x.dtype, device=x.device)
    block, warps = _block(D)
    step_kernel[(_ceil_div(D, block), B)](
        x, weight.contiguous(), _contiguous(bias), state, y, x.stride(0), D,
        WIDTH=weight.shape[1], BLOCK=block, SILU=silu, num_warps=warps,
    )  # fmt: skip
    return y


short_convolution_step_triton = Step(
    "short_convolution_step",
    _run_step,
    fake=lambda x, *_: torch.empty(x.shape, dtype=x.dtype, device=x.device),
    flops=lambda x, weight, *_: 2 * x.numel() * weight[-1],
)
"""`short_convolution_step` for arguments already checked and `supported`; state is contiguous."""
