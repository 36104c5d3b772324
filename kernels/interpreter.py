"""bfloat16 in Triton's interpreter.

With TRITON_INTERPRET=1 Triton runs kernels on the CPU through NumPy, which has no bfloat16: tiles of it are kept as
uint16 bit patterns. Triton 3.6 to 3.9 compute on those patterns as if they were numbers (dots, arithmetic, comparisons
and reductions give garbage) and truncate where a GPU rounds to nearest even. `correct_bfloat16` widens such tiles to
float32 before an operation and rounds the result back, so that a kernel's bfloat16 result is what a GPU would give.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

_BITS_OF_NAN = 0x7FC0
_ROUNDED = ("binary_op", "unary_op", "create_fma", "create_rsqrt", "create_erf")
_corrected = False


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bit patterns (uint16) to the float32 numbers they stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Numbers to bfloat16 bit patterns, rounding to nearest even as a GPU does."""
    numbers = np.ascontiguousarray(numbers, dtype=np.float32)
    bits = numbers.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(_BITS_OF_NAN), rounded).reshape(numbers.shape)


def correct_bfloat16() -> None:
    """Patch the interpreter, once; does nothing where kernels are compiled."""
    global _corrected
    if _corrected or not interpreting():
        return
    _corrected = True
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def is_bfloat16(x: Any) -> bool:
        return isinstance(x, handle) and x.dtype.scalar == tl.bfloat16

    def widened(x: Any) -> Any:
        return handle(widen(x.data), tl.float32) if is_bfloat16(x) else x

    def narrowed(x: Any) -> Any:
        return handle(narrow(x.data), tl.bfloat16)

    def on_numbers(method: Callable[..., Any], *, round_result: bool) -> Callable[..., Any]:
        def corrected(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not any(map(is_bfloat16, args)):
                return method(self, *args, **kwargs)
            result = method(self, *map(widened, args), **kwargs)
            is_number = result.dtype.scalar == tl.float32 and result.data.dtype == np.float32
            return narrowed(result) if round_result and is_number else result

        return corrected

    for name in _ROUNDED:
        if hasattr(builder, name):
            setattr(builder, name, on_numbers(getattr(builder, name), round_result=True))
    builder.create_dot = on_numbers(builder.create_dot, round_result=False)

    cast, convert = builder.cast_impl, builder.create_fp_to_fp

    def cast_rounding(self: Any, src: Any, dst_type: Any) -> Any:
        if is_bfloat16(src):
            return src if dst_type.scalar == tl.bfloat16 else cast(self, widened(src), dst_type)
        if dst_type.scalar == tl.bfloat16:
            return narrowed(src)
        return cast(self, src, dst_type)

    def convert_rounding(self: Any, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        truncates = rounding_mode == interpreter._ir.ROUNDING_MODE.RTZ
        if not truncates and tl.bfloat16 in (src.dtype.scalar, dst_type.scalar):
            return cast_rounding(self, src, dst_type)
        return convert(self, src, dst_type, rounding_mode)

    builder.cast_impl, builder.create_fp_to_fp = cast_rounding, convert_rounding

    for operation in (interpreter.ReduceOps, interpreter.ScanOps):
        operation.apply_impl = _over_float32(operation.apply_impl, tl)


def _over_float32(apply: Callable[..., Any], tl: Any) -> Callable[..., Any]:
    """A reduction or scan that widens its bfloat16 inputs, and rounds only its result."""

    def corrected(self: Any, inputs: Any) -> Any:
        narrow_inputs = [x.dtype.scalar == tl.bfloat16 for x in inputs]
        if not any(narrow_inputs):
            return apply(self, inputs)
        results = apply(self, tuple(x.to(tl.float32) if n else x for x, n in zip(inputs, narrow_inputs, strict=True)))
        many = isinstance(results, (list, tuple))
        rounded = [r.to(tl.bfloat16) if r.dtype.scalar == tl.float32 else r for r in (results if many else [results])]
        return rounded if many else rounded[0]

    return corrected
