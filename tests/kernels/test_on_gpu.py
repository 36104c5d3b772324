"""On a GPU: every shipped configuration of every operation agrees with fp64. `make test-gpu` prints the worst errors.

Results are read from buffers that held NaN (conftest.py); every kernel is compiled in one of the parallel processes.
"""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

from .gpu_problems import CONFIGURATIONS, Configuration, errors, shortfall, tolerance  # noqa: E402


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_kernels_agree_with_fp64(configuration: Configuration, record_property) -> None:
    worst: dict[str, tuple[float, str]] = {}
    beyond, known = {}, {}
    for problem in configuration.problems():
        for quantity, error in errors(configuration, problem).items():
            worst[quantity] = max(worst.get(quantity, (0.0, "")), (error, problem.name))
            if not error <= tolerance(configuration, quantity):
                short = shortfall(configuration, quantity, problem.name)
                where = f"{quantity} {error:.1e} at {problem.name}"
                if short is not None and error <= short.bound:
                    known[where] = short.why
                else:
                    beyond[where] = tolerance(configuration, quantity)
        torch.cuda.empty_cache()
    record_property("errors", {"of": f"{configuration.operation} {str(configuration.dtype)[6:]}", **worst})
    assert not beyond
    if known:
        pytest.xfail("; ".join(f"{where}: {why}" for where, why in known.items()))
