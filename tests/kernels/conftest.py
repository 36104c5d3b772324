"""Fresh buffers hold NaN in the kernels' tests: a result that reads what nobody wrote is then never right by luck."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def _poisoned(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def create_poisoned(*args, **kwargs) -> Tensor:
        fresh = create(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    return create_poisoned


@pytest.fixture(autouse=True)
def _empty_tensors_hold_nan(monkeypatch):
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def pytest_terminal_summary(terminalreporter) -> None:
    """The worst error of each quantity over all of an operation's configurations, where tests recorded them."""
    table: dict[str, dict[str, tuple[float, str]]] = {}
    for outcome in ("passed", "failed", "xfailed", "xpassed"):
        for report in terminalreporter.getreports(outcome):
            for errors in (value for name, value in report.user_properties if name == "errors"):
                row = table.setdefault(errors["of"], {})
                for quantity, found in errors.items():
                    if quantity != "of":
                        row[quantity] = max(row.get(quantity, (0.0, "")), tuple(found))
    if not table:
        return
    terminalreporter.section("worst relative errors")
    for name, row in sorted(table.items()):
        cells = " ".join(f"{quantity} {error:.1e} ({where})" for quantity, (error, where) in row.items())
        terminalreporter.write_line(f"{name}: {cells}")
