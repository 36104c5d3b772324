"""Which form of an operation runs is decided in one place."""

from __future__ import annotations

import pytest
import torch
from hybridlab.kernels import backend
from hybridlab.kernels.backend import resolve_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def resolve(name, device, *, has_triton=True):
    return resolve_backend(name, device, operation="an operation", has_triton=has_triton)


def test_without_a_gpu_auto_is_the_pytorch_form():
    assert resolve("auto", CPU) == "torch"


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("has_triton", [True, False])
def test_on_a_gpu_auto_is_triton_where_there_are_kernels_and_they_are_trusted(monkeypatch, trusted, has_triton):
    monkeypatch.setattr(backend, "triton_trusted", lambda device: trusted)
    expected = "triton" if trusted and has_triton else "torch"
    assert resolve("auto", CUDA, has_triton=has_triton) == expected


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_named_form_is_taken_on_any_device(device):
    assert resolve("torch", device) == "torch"
    assert resolve("triton", device) == "triton"


def test_unknown_forms_and_missing_kernels_are_refused():
    with pytest.raises(ValueError, match="'gpu' is not one of auto, torch, triton"):
        resolve("gpu", CPU)
    with pytest.raises(ValueError, match="an operation has no Triton kernels"):
        resolve("triton", CUDA, has_triton=False)
