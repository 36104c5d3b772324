"""A forward and a backward function that launch kernels, made one differentiable operator of PyTorch.

It is registered with torch.library, so that torch.compile, autocast and activation checkpointing see an operator like
any other. Outside of these it is a plain autograd.Function: torch.library's dispatch costs more than small inputs take
on the GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .flops import count_flops, dispatched

Kernels = Callable[..., Any]


class Operator:
    """The operator `hybridlab::name`; called as `forward` is.

    forward(*tensors, *options): annotated with types, from which torch.library infers the schema; returns one tensor or
    several. The first `outputs` are the operator's results, the first of them shaped like the first tensor; the others
    are kept for the backward pass, and returned too. fake: the same for tensors without memory.
    backward(*gradients of the results, *tensors, *kept, *options): annotated too; returns the gradients of the first
    `learned` tensors, None where there is no such tensor. The gradient of a result that nobody used is None, but zeros
    for the first. flops: of the forward pass, by the shapes of its tensors; None where all is elementwise.
    """

    def __init__(
        self,
        name: str,
        forward: Kernels,
        backward: Kernels,
        *,
        fake: Kernels,
        tensors: int,
        learned: int,
        outputs: int,
        flops: Callable[..., int] | None = None,
    ) -> None:
        self.registered = torch.library.custom_op(f"hybridlab::{name}", forward, mutates_args=())
        whole = _without_none(backward, learned, of=outputs)
        registered_backward = torch.library.custom_op(f"hybridlab::{name}_backward", whole, mutates_args=())
        self.registered.register_fake(fake)

        @registered_backward.register_fake
        def _(*args: Any) -> tuple[Tensor, ...]:
            given = args[outputs : outputs + learned]
            return tuple(args[outputs].new_empty(0) if x is None else _contiguous_like(x) for x in given)

        if flops is not None:
            count_flops(self.registered)(flops)
            count_flops(registered_backward)(lambda *args: 2 * flops(*args[outputs : outputs + tensors]))

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            kept = output[outputs:] if isinstance(output, tuple) else ()
            ctx.save_for_backward(*inputs[:tensors], *kept)
            ctx.options = inputs[tensors:]
            ctx.set_materialize_grads(False)

        def gradients(ctx: Any, of_results: tuple[Tensor | None, ...], run: Kernels) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors
            first, *others = of_results[:outputs]
            found = run(torch.zeros_like(saved[0]) if first is None else first, *others, *saved, *ctx.options)
            known = tuple(None if x is None else d for x, d in zip(saved[:learned], found, strict=True))
            return known + (None,) * (tensors - learned + len(ctx.options))

        def differentiate(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
            return gradients(ctx, of_results, registered_backward)

        self.registered.register_autograd(differentiate, setup_context=save)

        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = forward(*inputs)
                save(ctx, inputs, output)
                if isinstance(output, tuple):
                    ctx.mark_non_differentiable(*output[outputs:])
                return output

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
                return gradients(ctx, of_results, backward)

        self._eager = Eager.apply

    def __call__(self, *inputs: Any) -> Any:
        if dispatched(inputs[0]):
            return self.registered(*inputs)
        return self._eager(*inputs)


class Step:
    """The operator `hybridlab::name`, one step of decoding: called as `run` is, which advances its argument "state".

    run: annotated with types; returns one tensor, which is not differentiated. fake: the same for tensors without
    memory. flops: by the shapes of the tensors.
    """

    def __init__(self, name: str, run: Kernels, *, fake: Kernels, flops: Callable[..., int]) -> None:
        self.registered = torch.library.custom_op(f"hybridlab::{name}", run, mutates_args=("state",))
        self.registered.register_fake(fake)
        count_flops(self.registered)(flops)
        self._run = run

    def __call__(self, *inputs: Any) -> Tensor:
        return self.registered(*inputs) if dispatched(inputs[0]) else self._run(*inputs)


def _without_none(backward: Kernels, learned: int, *, of: int) -> Kernels:
    """`backward` for torch.library, whose operators return tensors only: empty ones, of argument `of`'s, for None."""

    @wraps(backward)
    def whole(*args: Any) -> tuple[Tensor, ...]:
        return tuple(args[of].new_empty(0) if d is None else d for d in backward(*args))

    result = f"tuple[{', '.join(['Tensor'] * learned)}]"
    whole.__signature__ = inspect.signature(backward).replace(return_annotation=result)  # pyright: ignore
    return whole


def _contiguous_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
