"""What PyTorch's own counter (torch.utils.flop_counter.FlopCounterMode) is told about this project's operators.

The counting rule is the bill's: a recurrence is its products with the state, token by token; how kernels cut it into
chunks is the machine's choice. A backward pass is twice its forward. Norms are elementwise and count nothing. Fourier
transforms, which PyTorch counts as nothing, are 5 n log₂ n for n complex numbers and half of that for real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import _FlopCounterMode, flop_registry, register_flop_formula

Formula = TypeVar("Formula", bound=Callable[..., int])


def count_flops(operator: Any) -> Callable[[Formula], Formula]:
    """Registers a formula for an operator made by ``torch.library.custom_op``.

    The formula gets the operator's arguments, a torch.Size in place of every tensor, and returns FLOPs.
    """
    namespace, name = operator._qualname.split("::")

    def register(formula: Formula) -> Formula:
        def counted(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
            return formula(*args, **kwargs)

        packet = getattr(getattr(torch.ops, namespace), name)
        register_flop_formula(packet)(counted)
        for mode in _get_current_dispatch_mode_stack():
            if isinstance(mode, _FlopCounterMode):  # it copied the formulas before this operator was imported
                mode.counter.flop_registry[packet] = flop_registry[packet]
        return formula

    return register


def dispatched(x: Tensor) -> bool:
    """Whether the operator of torch.library must run, and not the faster autograd function beside it: something that
    watches or replaces operators is at work (torch.compile, fake tensors, a FLOP counter)."""
    return torch.compiler.is_compiling() or type(x) is not Tensor or torch._C._len_torch_dispatch_stack() > 0


def flops_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Of one call of a registered operator; 0 for one without a formula."""
    formula = flop_registry.get(function._overloadpacket)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


if torch.ops.aten._grouped_mm not in flop_registry:  # PyTorch 2.11 to 2.13 count no grouped products

    @register_flop_formula(torch.ops.aten._grouped_mm)
    def _grouped(a_shape: Any, b_shape: Any, *_: Any, **__: Any) -> int:
        """Every row of the ragged side meets one matrix, whichever side that is."""
        return 2 * a_shape[-2] * a_shape[-1] * b_shape[-1]


def _transform_flops(shape: Any, dims: Any) -> int:
    """Of real numbers of that shape, over ``dims``: 5/2 log₂ of a transform's length for each (Cooley and Tukey's radix
    2, in real operations, whatever the library does for other lengths)."""
    return round(2.5 * math.prod(shape) * math.log2(math.prod(shape[d] for d in dims)))


def _of_real(shape: Any, dims: Any, *_: Any, **__: Any) -> int:
    return _transform_flops(shape, dims)


def _to_real(_: Any, dims: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return _transform_flops(out_shape, dims)


def _of_complex(shape: Any, dims: Any, *_: Any, **__: Any) -> int:
    return 2 * _transform_flops(shape, dims)


_TRANSFORMS: dict[str, Callable[..., int]] = {"_fft_r2c": _of_real, "_fft_c2r": _to_real, "_fft_c2c": _of_complex}

for _name, _formula in _TRANSFORMS.items():
    if getattr(torch.ops.aten, _name) not in flop_registry:
        register_flop_formula(getattr(torch.ops.aten, _name))(_formula)
