"""The kernels of the delta rules with a decay per channel compile for a Hopper GPU, within their budget."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

budgets = pytest.importorskip("channel_delta_budgets", reason="Triton is not installed")

PARAMETERS = [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.slow else []) for c in budgets.CONFIGURATIONS]


@pytest.mark.parametrize("configuration", PARAMETERS)
def test_resources_stay_within_the_budget(configuration) -> None:
    limits = budgets.budget(configuration)
    launches = configuration.launches()
    assert launches.keys() == limits.keys()
    for name, launch in launches.items():
        taken, limit = budgets.compiled(launch), limits[name]
        assert taken.registers <= limit.registers, f"{name}: {taken}, budget {limit}"
        assert taken.spilled <= limit.spilled, f"{name}: {taken}, budget {limit}"
        assert taken.shared <= limit.shared, f"{name}: {taken}, budget {limit}"
