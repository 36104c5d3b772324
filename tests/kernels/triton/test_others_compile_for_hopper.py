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
from hybridlab.kernels.selective_scan import scan_triton  # noqa: E402

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
}


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def convolution(dtype: torch.dtype, *, packed: bool = False) -> None:
    B, T, D, W = 1, 4096, 4096, 4
    x, weight, bias, past = tensor(B, T, D, dtype=dtype), tensor(D, W), tensor(D), tensor(B, W - 1, D)
    of_token = (tensor(T, dtype=torch.int32), tensor(T, dtype=torch.int32)) if packed else (None, None)
    short_triton._run_forward(x, weight, bias, past, *of_token, True)
    short_triton._run_backward(x, x, weight, bias, past, *of_token, True)
    short_triton.short_convolution_step_triton(x[:, 0], weight, past, bias, "silu")


def norm(dtype: torch.dtype, gate: str, D: int, size: int) -> None:
    x = tensor(8, 4096, D, dtype=dtype)
    arguments = (x, None if gate == "none" else x, tensor(D), 1e-5, 1 / size, size, gate)
    norms_triton._run_forward(*arguments)
    norms_triton._run_backward(x, *arguments)


def scan(dtype: torch.dtype, N: int) -> None:
    B, T, D = 1, 4096, 2048
    x, row, channel = tensor(B, T, D, dtype=dtype), tensor(B, T, N, dtype=dtype), tensor(D, dtype=torch.float32)
    arguments = (x, x, tensor(D, N, dtype=torch.float32), row, row, channel, x, channel, None)
    _, _, states, steps = scan_triton._run_forward(*arguments, True)
    scan_triton._run_backward(x, None, *arguments, states, steps, True)


BF16, FP32 = torch.bfloat16, torch.float32
MOST_REGISTERS = {
    "convolution": (lambda: convolution(BF16), 144),
    "convolution fp32": (lambda: convolution(FP32), 176),
    "convolution packed": (lambda: convolution(BF16, packed=True), 184),
    "rms norm": (lambda: norm(BF16, "none", 2048, 2048), 72),
    "gated norm, gate first": (lambda: norm(BF16, "before", 2048, 2048), 112),
    "gated norm, gate last, groups": (lambda: norm(BF16, "after", 2048, 128), 104),
    "gated norm fp32, widest": (lambda: norm(FP32, "before", 4096, 4096), 96),
    "scan N16": (lambda: scan(BF16, 16), 255),
    "scan N16 fp32": (lambda: scan(FP32, 16), 255),
    "scan N32": (lambda: scan(BF16, 32), 255),
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
