"""Running a model on tensors without memory, so that the operators a GPU would run can be watched on any machine.

PyTorch's fake tensors have shapes and dtypes and nothing else. They are on the CPU here, since a PyTorch without CUDA
cannot place even these on a GPU; what differs there is put right: the forms of this project's operators, the attention
kernel that scaled_dot_product_attention chooses, and the functions that autocast computes in fp32 on CUDA alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ..kernels import assuming_triton

Precision = Literal["bf16", "fp32"]
_FP32_IN_CUDA_AUTOCAST = frozenset(
    (
        *("exp", "expm1", "log", "log1p", "log2", "log10", "pow", "__pow__", "__rpow__", "square", "rsqrt"),
        *("reciprocal", "cosh", "sinh", "softplus", "layer_norm", "group_norm", "norm", "logsumexp"),
    )
)
_FP32_BY_DTYPE = frozenset(("sum", "prod", "cumsum", "cumprod", "softmax", "log_softmax"))
_LOW = (torch.bfloat16, torch.float16)
WIDEST_FLASH = 256


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within it new tensors have no memory, and models run as on a GPU that this project's kernels are trusted on."""
    with assuming_triton(), FakeTensorMode(allow_non_fake_inputs=True), _CudaFunctions():
        yield


@contextmanager
def autocast_as_on_gpu(precision: Precision) -> Iterator[None]:
    """CUDA's autocast within ``as_on_gpu``; nothing for fp32."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        if precision == "bf16":
            torch.set_autocast_enabled("cuda", True)  # for code that asks whether it is on
            torch.set_autocast_dtype("cuda", torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class _CudaFunctions(TorchFunctionMode):
    """Functions that choose by device, or whose result's shape depends on values, as they would go on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and func.__self__ is torch.Tensor.is_cuda:  # pyright: ignore[reportAttributeAccessIssue]
            return True
        if name == "__bool__" and not args[0].ndim:
            return True  # asked of a batch: whether all of its positions are labelled
        if name == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        if name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            return args[0].flatten(0, args[1].ndim - 1)[: args[0].shape[0]]  # as many positions as sequences
        if torch.is_autocast_enabled("cpu"):
            if name in _FP32_IN_CUDA_AUTOCAST:
                return _in_fp32(func, args, kwargs)
            if name in _FP32_BY_DTYPE and any(_is_low(x) for x in args):
                kwargs = {"dtype": torch.float32} | kwargs
        return func(*args, **kwargs)


def _is_low(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in _LOW


def _in_fp32(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    def wide(x: Any) -> Any:
        return x.float() if _is_low(x) else x

    with torch.autocast("cpu", enabled=False):
        return func(*map(wide, args), **{key: wide(x) for key, x in kwargs.items()})


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that PyTorch takes on a GPU: flash attention without a mask, the memory-efficient one with a mask,
    plain operators for a mask with shared keys."""
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    aten = torch.ops.aten
    flash = attn_mask is None and q.dtype in _LOW and q.shape[-1] == v.shape[-1] <= WIDEST_FLASH
    if flash:
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=scale)[0]
    if q.shape[1] != k.shape[1]:
        return aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
    bias = None
    if attn_mask is not None:
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(q.dtype)
        bias = bias.expand(*q.shape[:2], q.shape[2], k.shape[2])
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, grad, 0.0, is_causal, scale=scale)[0]
