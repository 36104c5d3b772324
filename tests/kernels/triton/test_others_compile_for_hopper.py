"""The kernels of the convolution, the norms and the scan compile for a Hopper GPU, without one, and spill nothing."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

offline = pytest.importorskip("offline", reason="Triton is not installed")

from hybridlab.kernels.convolution import short_triton  # noqa: E402
from hybridlab.kernels.normalization import norms_triton  # noqa: E402
from hybridlab.kernels.selective_scan import scan_triton, step_triton  # noqa: E402

KERNELS = {
    short_triton: ("forward_kernel", "backward_kernel", "step_kernel"),
    norms_triton: ("forward_kernel", "backward_kernel"),
    scan_triton: (
        "segment_states_kernel",
        "carry_kernel",
        "outputs_kernel",
        "segment_gradients_kernel",
        "gradients_kernel",
    ),
    step_triton: ("step_kernel",),
}


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def convolution(dtype: torch.dtype, *, packed: bool = False) -> None:
    B, T, D, W = 1, 4096, 4096, 4
    x, weight, bias, past = tensor(B, T, D, dtype=dtype), tensor(D, W), tensor(D), tensor(B, W - 1, D)
    of_token = (tensor(T, dtype=torch.int32), tensor(T, dtype=torch.int32)) if packed else (None, None)
    short_triton._forward(x, weight, bias, past, *of_token, True)
    short_triton._backward(x, x, weight, bias, past, *of_token, True)
    short_triton.short_convolution_step_triton(x[:, 0], weight, past, bias, True)


def bare_convolution(W: int) -> None:
    """Without bias, activation or past."""
    x, weight = tensor(1, 4096, 4096), tensor(4096, W)
    arguments = (x, weight, None, None, None, None, False)
    short_triton._forward(*arguments)
    short_triton._backward(x, *arguments)
    short_triton.short_convolution_step_triton(x[:, 0], weight, tensor(1, W - 1, 4096), None, False)


def norm(dtype: torch.dtype, gate: str, D: int, size: int) -> None:
    x = tensor(8, 4096, D, dtype=dtype)
    for weight in (tensor(D), None):
        arguments = (x, None if gate == "none" else x, weight, 1e-5, size, gate, True)
        norms_triton._forward(*arguments)
        norms_triton._backward(x, *arguments)


def scan(dtype: torch.dtype, N: int, *, bare: bool = False) -> None:
    """`bare`: no D, z, bias or initial state, as a scan of other models than Mamba has it."""
    B, T, D = 1, 4096, 2048
    x, row, channel = tensor(B, T, D, dtype=dtype), tensor(B, T, N, dtype=dtype), tensor(D, dtype=torch.float32)
    optional = (None, None, None) if bare else (channel, x, channel)
    arguments = (x, x, tensor(D, N, dtype=torch.float32), row, row, *optional, None)
    _, _, states, steps = scan_triton._forward(*arguments, not bare)
    scan_triton._backward(x, None, *arguments, states, steps, not bare)
    first, state = x[:, 0], tensor(B, D, N, dtype=torch.float32)
    row, rates = row[:, 0], arguments[2]
    optional = (None, None, None) if bare else (channel, first, channel)
    step_triton.selective_scan_step_triton(first, first, rates, row, row, state, *optional, not bare)


BF16, FP32 = torch.bfloat16, torch.float32
MOST_REGISTERS = {
    "convolution": (lambda: convolution(BF16), 144),
    "convolution fp32": (lambda: convolution(FP32), 176),
    "convolution packed": (lambda: convolution(BF16, packed=True), 184),
    "convolution, bare": (lambda: bare_convolution(4), 144),
    "convolution of two taps, bare": (lambda: bare_convolution(2), 144),
    "rms norm": (lambda: norm(BF16, "none", 2048, 2048), 128),
    "gated norm, gate first": (lambda: norm(BF16, "before", 2048, 2048), 128),
    "gated norm, gate last, groups": (lambda: norm(BF16, "after", 2048, 128), 128),
    "gated norm fp32, widest": (lambda: norm(FP32, "before", 4096, 4096), 128),
    "scan N16": (lambda: scan(BF16, 16), 255),
    "scan N16 fp32": (lambda: scan(FP32, 16), 255),
    "scan N32": (lambda: scan(BF16, 32), 255),
    "scan N1, bare": (lambda: scan(BF16, 1, bare=True), 255),
    "scan N16, bare": (lambda: scan(BF16, 16, bare=True), 255),
}
"""A call that launches kernels, and the registers a thread of any of them may take."""


@pytest.mark.parametrize("call, registers", MOST_REGISTERS.values(), ids=MOST_REGISTERS.keys())
def test_kernels_spill_nothing_and_stay_within_their_registers(call, registers) -> None:
    launches: list = []
    with ExitStack() as stack:
        for module, names in KERNELS.items():
            for name in names:
                stack.enter_context(patch.object(module, name, offline.Recorder(getattr(module, name), launches)))
        call()
    assert launches
    for launch in launches:
        taken = offline.compiled(launch)
        assert taken.spilled == 0, f"{launch.kernel.__name__}: {taken}"
        assert taken.registers <= registers, f"{launch.kernel.__name__}: {taken}, budget {registers}"
