"""A forward and a backward function become one operator: in eager mode, compiled, watched, and with inputs left out."""

from __future__ import annotations

import pytest
import torch
from hybridlab.kernels.operator import Operator, Step
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def scaled(x: Tensor, weight: Tensor | None, mask: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """factor · x ∘ weight ∘ mask, its sum, and x doubled for the backward pass, which halves it again."""
    y = factor * x * mask * (1.0 if weight is None else weight)
    return y, y.sum()[None], 2 * x


def scaled_backward(
    dy: Tensor, d_sum: Tensor | None, x: Tensor, weight: Tensor | None, mask: Tensor, kept: Tensor, factor: float
) -> tuple[Tensor, Tensor | None]:
    d = factor * mask * (dy if d_sum is None else dy + d_sum)
    return d * (1.0 if weight is None else weight), None if weight is None else d * kept / 2


def advance(x: Tensor, state: Tensor) -> Tensor:
    state += x
    return 3 * state


operator = Operator(
    "test_scaled",
    scaled,
    scaled_backward,
    fake=lambda x, *_: (torch.empty_like(x), x.new_empty(1), torch.empty_like(x)),
    tensors=3,
    learned=2,
    outputs=2,
    flops=lambda x, *_: x.numel(),
)
step = Step("test_advance", advance, fake=lambda x, state: torch.empty_like(x), flops=lambda x, state: x.numel())


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_(i < 2) for i in range(3)]


def plain(x, weight, mask, factor):
    return scaled(x, weight, mask, factor)[:2]


def called(x, weight, mask, factor):
    return operator(x, weight, mask, factor)[:2]


def registered(x, weight, mask, factor):
    return operator.registered(x, weight, mask, factor)[:2]


compiled = torch.compile(called, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("form", [called, registered, compiled])
@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)], ids=["both results", "the first", "the second"])
def test_gradients_are_those_of_the_forward_function(form, used, inputs):
    expected, actual = (
        torch.autograd.grad(sum(f(*inputs, 2.0)[i].square().sum() for i in used), inputs[:2]) for f in (plain, form)
    )
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("form", [called, registered])
def test_an_input_left_out_gets_no_gradient(form, inputs):
    x, _, mask = inputs
    (dx,) = torch.autograd.grad(form(x, None, mask, 2.0)[0].sum(), x)
    torch.testing.assert_close(dx, 2 * mask)


def test_it_keeps_the_rules_of_torch_library(inputs):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(operator.registered, (*inputs, 2.0), test_utils=checks)
    torch.library.opcheck(step.registered, (torch.randn(3), torch.randn(3)))


def test_flops_are_counted_and_a_backward_pass_twice(inputs):
    with FlopCounterMode(display=False) as counter:
        operator(*inputs, 2.0)[0].sum().backward()
        assert counter.get_total_flops() == 5 + 2 * 5
        step(torch.zeros(4), torch.zeros(4))
    assert counter.get_total_flops() == 19


def test_a_step_advances_its_state_in_place():
    state = torch.ones(2)
    assert step(torch.tensor([1.0, 2.0]), state).tolist() == [6, 9]
    assert state.tolist() == [2, 3]
