"""Compiling what a call would launch, for a Hopper GPU and without one, and what the assembler says of it.

The launches are recorded from the very code that makes them, on tensors without memory, so that what is compiled here
is what is shipped.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from hybridlab.kernels.gated_linear_attention import (
    channel,
    decay_gradient,
    groups,
    normaliser,
    scans,
    split,
    summed_decays,
)
from hybridlab.kernels.gated_linear_attention.launch import Inputs
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
OPTIONS = {"num_warps", "num_stages"}
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.float64: "*fp64",
}
KERNELS = {
    normaliser: ("negative_products",),
    scans: ("forward_scan", "query_scan", "key_value_scan"),
    decay_gradient: ("decay_gradient",),
    channel: ("channel_scores", "channel_gradients"),
    split: ("segment_states", "carry_states"),
    summed_decays: ("chunk_decays",),
    groups: (
        "chunk_states",
        "key_value_scan",
        "group_weights",
        "group_key_gradients",
        "group_query_gradients",
    ),
}


@dataclass(frozen=True)
class Launch:
    """A kernel and the arguments it was launched with."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Resources:
    """What one thread or program of a compiled kernel takes."""

    registers: int
    spilled: int
    """Bytes of local memory a thread."""
    shared: int
    """Bytes of shared memory a program."""


class Recorder:
    """Stands in for a kernel: keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Recorder:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS & kwargs.keys()}
        arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
        self.launches.append(Launch(self.kernel, arguments, options))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of making them."""
    launches: list[Launch] = []
    patches = [
        patch.object(module, name, Recorder(getattr(module, name), launches))
        for module, names in KERNELS.items()
        for name in names
    ]
    for p in patches:
        p.start()
    try:
        yield launches
    finally:
        for p in patches:
            p.stop()


def launches_of(
    kind: str,
    dtype: torch.dtype,
    K: int,
    V: int,
    *,
    bonus: bool = False,
    group: int = 1,
    normalize: bool = False,
    value_scale: bool = False,
    tokens: int | None = None,
) -> list[Launch]:
    """Every kernel of one forward and backward pass, without initial state; `tokens`: of the forward pass of one
    sequence of so many, which is split along time."""
    B, T, H = (2, 4096, 16) if tokens is None else (1, tokens, 4 * group)

    def tensor(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    decay = {"head": tensor(H, dtype=torch.float32), "token": tensor(B, T, H, dtype=torch.float32)}.get(kind)
    if kind == "channel":
        decay = tensor(B, T, H, K)
    u = tensor(H, K, dtype=torch.float32) if bonus else None
    q, k, v = tensor(B, T, H // group, K), tensor(B, T, H // group, K), tensor(B, T, H, V)
    more = {"normalize": normalize}
    if value_scale:
        more |= {"value_scale": tensor(B, T, H, dtype=torch.float32), "skip": tensor(H, dtype=torch.float32)}
    x = Inputs(q, k, v, decay, kind, u, 0.125, None, **more)  # pyright: ignore[reportArgumentType]
    with recorded() as launches:
        if tokens is not None:
            run = channel.run_channel_forward if kind == "channel" else scans.run_forward
            with patch.object(split, "multiprocessors", lambda device: 132):
                run(x, None, True)
        elif kind == "channel":
            weighted = channel.run_channel_forward(x, None, False)[2]
            channel.run_channel_backward(x, None, tensor(B, T, H, V), None, weighted)
        elif group > 1:
            if value_scale:
                scans.run_forward(x, None, False)
            groups.run_group_backward(x, None, tensor(B, T, H, V), None, kind == "token")
        else:
            o, _, inverse = scans.run_forward(x, None, False)
            quotient = None if inverse is None else (o, inverse)
            scans.run_backward(x, None, tensor(B, T, H, V), None, kind == "token", None, quotient)
    return launches


def compiled(launch: Launch) -> Resources:
    """Compile one launch for Hopper and read its resources."""
    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    unspecialised = {p.name for p in launch.kernel.params if p.do_not_specialize}
    constexprs = {p.name for p in launch.kernel.params if p.is_constexpr}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if name in constexprs or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, tuple):
            signature[name] = tuple("i32" for _ in value)
            attributes |= {(i, j): DIVISIBLE for j, n in enumerate(value) if n % 16 == 0}
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(i,)] = DIVISIBLE
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and name not in unspecialised:
                attributes[(i,)] = DIVISIBLE
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    kernel = triton.compile(source, target=HOPPER, options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = {key: int(n) for key, n in re.findall(r"(REG|STACK):(\d+)", report.stdout + report.stderr)}
    return Resources(numbers["REG"], numbers["STACK"], kernel.metadata.shared)


DIVISIBLE = [["tt.divisibility", 16]]
