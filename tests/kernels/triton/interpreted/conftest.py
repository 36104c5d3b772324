"""These tests run the Triton kernels on the CPU and need TRITON_INTERPRET=1 before Triton is imported.

`../test_interpreted.py` runs them so, in a process of their own; collected with the other tests they are left out.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel is given to fill holds NaN, so that what it leaves unwritten shows."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty

    def fill(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() and x.device.type == "cpu" else x

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: fill(empty(*args, **kwargs)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: fill(new_empty(*args, **kwargs)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
