"""The loss by Liger's kernel gives what the reference gives; its soft cap needs a GPU (test_on_gpu.py)."""

from __future__ import annotations

import importlib

import pytest
import torch
from hybridlab.kernels import liger_chunk, linear_cross_entropy, linear_cross_entropy_reference
from hybridlab.kernels.loss import liger, rows

from ...agreement import outputs_and_gradients
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def draw(dtype=torch.float32, N=37, D=12, V=50):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(V, (N,), generator=generator)
    targets[[3, 20]] = -100
    tensors = {"hidden": torch.randn(N, D, generator=generator), "weight": torch.randn(V, D, generator=generator)}
    return {name: x.to(dtype) for name, x in tensors.items()}, targets


def errors(tensors, targets, **options):
    expected = outputs_and_gradients(
        lambda hidden, weight: linear_cross_entropy_reference(hidden, weight, targets, **options),
        {name: x.double() for name, x in tensors.items()},
    )
    actual = outputs_and_gradients(
        lambda hidden, weight: linear_cross_entropy(hidden, weight, targets, **options, backend="triton"), tensors
    )
    return {name: relative_error(actual[name], x) for name, x in expected.items()}


@pytest.mark.parametrize("logits", [1 << 26, 1], ids=["one chunk", "small chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_equals_reference_in_value_and_gradients(dtype, logits, monkeypatch):
    monkeypatch.setattr(rows, "LOGITS", logits)
    for options in ({}, {"scale": 0.3}):
        worst = errors(*draw(dtype), **options)
        assert max(worst.values()) <= TOLERANCE[dtype], worst


def test_the_logits_held_at_a_time_are_as_told(monkeypatch):
    monkeypatch.setattr(rows, "LOGITS", 1000)
    tensors, targets = draw()
    (N, D), V = tensors["hidden"].shape, len(tensors["weight"])
    module, held = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy"), []
    kernel = module.liger_cross_entropy_kernel

    class Launched:
        def __getitem__(self, grid):
            held.append(grid[0])  # a program a row
            return kernel[grid]

    monkeypatch.setattr(module, "liger_cross_entropy_kernel", Launched())
    linear_cross_entropy(tensors["hidden"].requires_grad_(), tensors["weight"], targets, backend="triton")
    assert max(held) == liger_chunk(N, D, V)[1] < N


def test_under_autocast_gradients_come_back_in_the_parameters_dtype():
    tensors, targets = draw()
    with torch.autocast("cpu", torch.bfloat16):
        worst = errors(tensors, targets)
        hidden = tensors["hidden"].clone().requires_grad_()
        linear_cross_entropy(hidden, tensors["weight"], targets, backend="triton").backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
    assert max(worst.values()) <= 1e-2, worst


def test_without_gradients_there_is_only_the_loss():
    tensors, targets = draw()
    with torch.no_grad():
        loss = linear_cross_entropy(tensors["hidden"].requires_grad_(), tensors["weight"], targets, backend="triton")
    assert not loss.requires_grad
    assert relative_error(loss, linear_cross_entropy_reference(**tensors, targets=targets)) <= 1e-6


def test_a_head_learns_over_a_frozen_model():
    tensors, targets = draw()
    weight = tensors["weight"].requires_grad_()
    expected = torch.autograd.grad(linear_cross_entropy_reference(tensors["hidden"], weight, targets), weight)
    actual = torch.autograd.grad(3 * linear_cross_entropy(tensors["hidden"], weight, targets, backend="triton"), weight)
    assert relative_error(actual[0], 3 * expected[0]) <= 1e-5


def test_the_operator_keeps_the_rules_of_torch_library():
    tensors, targets = draw(N=25)
    hidden, weight = (x.requires_grad_() for x in tensors.values())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for learn in (True, False):
        torch.library.opcheck(liger._loss, (hidden, weight, targets, None, learn), test_utils=checks[: 2 + learn])


def test_compiled_it_gives_the_same():
    tensors, targets = draw()

    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, targets, backend="triton")

    expected = outputs_and_gradients(loss, tensors)
    for name, x in outputs_and_gradients(torch.compile(loss, backend="aot_eager", fullgraph=True), tensors).items():
        assert torch.equal(x, expected[name]), name


def test_float16_is_left_to_pytorch():
    tensors, targets = draw(torch.float16)
    expected = linear_cross_entropy(**tensors, targets=targets, backend="torch")
    assert torch.equal(linear_cross_entropy(**tensors, targets=targets, backend="triton"), expected)
