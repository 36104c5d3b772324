"""The loss by Liger's Triton kernel (Hsu et al. 2024), which turns a chunk of logits into their gradients in place.

So the forward pass also computes the gradients, for a gradient of one of the loss; the backward pass scales them. It is
an operator of torch.library, which torch.compile and tensors without memory can see.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..flops import count_flops
from ..interpreter import correct_bfloat16
from .rows import UNLABELLED, liger_chunk

correct_bfloat16()

DTYPES = (torch.bfloat16, torch.float32)
"""Not float16: gradients of a mean over thousands of positions, computed before they could be scaled, vanish there."""


def supported(hidden: Tensor, weight: Tensor) -> bool:
    """Whether Liger can compute this: products in bf16 or fp32, no empty input."""
    return hidden.numel() > 0 and _dtype(hidden, weight) in DTYPES


def linear_cross_entropy_liger(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, cap: float | None
) -> Tensor:
    """`linear_cross_entropy` for arguments already checked and `supported`."""
    dtype = _dtype(hidden, weight)
    learn = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    hidden = hidden if scale == 1.0 else hidden * scale
    return _loss(hidden.to(dtype), weight.to(dtype), targets, cap, learn)[0]


def _dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of the product: autocast's, else the wider."""
    device = hidden.device.type
    amp = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return amp or torch.promote_types(hidden.dtype, weight.dtype)


@torch.library.custom_op("hybridlab::linear_cross_entropy", mutates_args=())
def _loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, learn: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and, where `learn`, its gradients for hidden and weight (else empty)."""
    from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

    times, _ = liger_chunk(len(hidden), hidden.shape[1], len(weight))
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        loss, _, _, _, d_hidden, d_weight, _ = fused_linear_cross_entropy_forward(
            hidden.contiguous(), weight.contiguous(), targets, ignore_index=UNLABELLED, reduction="mean", softcap=cap,
            accum_dtype=torch.float32, compute_gradients=learn, weight_requires_grad=learn, chunk_mem_const=times,
        )  # fmt: skip
    if not learn or d_weight is None:
        return loss, hidden.new_empty(0), weight.new_empty(0)
    return loss, d_hidden, d_weight


@_loss.register_fake
def _(hidden, weight, targets, cap, learn):
    d_hidden, d_weight = (
        torch.empty(x.shape if learn else (0,), dtype=x.dtype, device=x.device) for x in (hidden, weight)
    )
    return hidden.new_empty((), dtype=torch.float32), d_hidden, d_weight


@count_flops(_loss)
def _flops(hidden, weight, targets, cap, learn):
    return (6 if learn else 2) * hidden.numel() * weight[0]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])


def _scale(ctx: Any, d_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    d_hidden, d_weight = (d * d_loss for d in ctx.saved_tensors)
    return d_hidden.to(ctx.saved_tensors[0].dtype), d_weight.to(ctx.saved_tensors[1].dtype), None, None, None


_loss.register_autograd(_scale, setup_context=_save)
