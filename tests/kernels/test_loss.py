"""The loss without its logits is the loss with them: in value, in gradients, and in what it holds in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hybridlab.kernels import linear_cross_entropy, linear_cross_entropy_reference
from hybridlab.kernels import loss as loss_folder
from hybridlab.kernels.loss import rows

from .agreement import assert_agree, outputs_and_gradients

OPTIONS = [{}, {"scale": 0.3}, {"cap": 2.0}, {"scale": 0.5, "cap": 3.0}]


def draw(*, N=37, D=12, V=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(V, (N,), generator=generator)
    targets[[3, 20]] = -100
    tensors = {"hidden": torch.randn(N, D, generator=generator), "weight": torch.randn(V, D, generator=generator)}
    return {name: x.to(dtype) for name, x in tensors.items()}, targets


def of(operation, targets):
    return lambda hidden, weight, **options: operation(hidden, weight, targets, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("logits", [1 << 26, 50 * 10, 1], ids=["one chunk", "ten rows a chunk", "one row a chunk"])
def test_equals_reference_in_value_and_gradients(logits, options, monkeypatch):
    monkeypatch.setattr(rows, "LOGITS", logits)
    tensors, targets = draw()
    assert_agree(of(linear_cross_entropy, targets), of(linear_cross_entropy_reference, targets), tensors, **options)


def test_fp64_inputs_are_computed_in_fp64():
    tensors, targets = draw(dtype=torch.float64)
    assert_agree(of(linear_cross_entropy, targets), of(linear_cross_entropy_reference, targets), tensors)


def test_where_all_logits_fit_it_is_bit_for_bit_what_pytorch_computes_from_them():
    tensors, targets = draw()
    direct = outputs_and_gradients(lambda hidden, weight: F.cross_entropy(F.linear(hidden, weight), targets), tensors)
    for name, x in outputs_and_gradients(of(linear_cross_entropy, targets), tensors).items():
        assert torch.equal(x, direct[name]), name


def test_chunks_keep_none_of_their_logits_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(rows, "LOGITS", 50 * 10)
    tensors, targets = draw(V=50)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        linear_cross_entropy(*(x.requires_grad_() for x in tensors.values()), targets)
    assert max(kept) <= tensors["weight"].numel() < targets.numel() * 50


def test_under_autocast_the_product_is_in_its_dtype_and_the_rest_is_not(monkeypatch):
    tensors, targets = draw()
    with torch.autocast("cpu", torch.bfloat16):
        whole = outputs_and_gradients(of(linear_cross_entropy, targets), tensors)
        monkeypatch.setattr(rows, "LOGITS", 50 * 10)
        parts = outputs_and_gradients(of(linear_cross_entropy, targets), tensors)
    logits = F.linear(tensors["hidden"].bfloat16(), tensors["weight"].bfloat16())
    assert torch.equal(whole["output 0"], F.cross_entropy(logits.float(), targets))
    for name, x in parts.items():
        torch.testing.assert_close(x, whole[name], rtol=1e-2, atol=1e-4)


def test_nothing_labelled_is_no_number():
    tensors, targets = draw()
    assert linear_cross_entropy(**tensors, targets=torch.full_like(targets, -100)).isnan()


def test_without_liger_the_kernels_are_refused_and_not_needed(monkeypatch):
    monkeypatch.setattr(loss_folder, "find_spec", lambda name: None)
    tensors, targets = draw()
    assert linear_cross_entropy(**tensors, targets=targets).isfinite()
    with pytest.raises(ValueError, match="linear_cross_entropy has no Triton kernels"):
        linear_cross_entropy(**tensors, targets=targets, backend="triton")


@pytest.mark.parametrize("change, message", [
    ({"hidden": torch.zeros(37, 11)}, r"hidden is \[N, D\] and weight \[V, D\]"),
    ({"hidden": torch.zeros(2, 37, 12)}, r"hidden is \[N, D\]"),
    ({"targets": torch.zeros(36, dtype=torch.int64)}, "targets has shape"),
    ({"weight": torch.zeros(50, 12, dtype=torch.int64)}, "floating point"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    tensors, targets = draw()
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{**tensors, "targets": targets, **change})
