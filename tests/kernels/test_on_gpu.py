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

from .gpu_problems import CONFIGURATIONS, Configuration, errors, tolerance  # noqa: E402


def parameter(c: Configuration):
    marks = [] if c.shortfall is None else [pytest.mark.xfail(reason=c.shortfall, strict=False)]
    return pytest.param(c, id=str(c), marks=marks)


@pytest.mark.parametrize("configuration", map(parameter, CONFIGURATIONS))
def test_kernels_agree_with_fp64(configuration: Configuration, record_property) -> None:
    worst: dict[str, tuple[float, str]] = {}
    for problem in configuration.problems():
        for quantity, error in errors(configuration, problem).items():
            worst[quantity] = max(worst.get(quantity, (0.0, "")), (error, problem.name))
        torch.cuda.empty_cache()
    record_property("errors", {"of": f"{configuration.operation} {str(configuration.dtype)[6:]}", **worst})
    beyond = {q: found for q, found in worst.items() if not found[0] <= tolerance(configuration, q)}
    assert not beyond, {q: f"{error:.1e} at {name}" for q, (error, name) in beyond.items()}
