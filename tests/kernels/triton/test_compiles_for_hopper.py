"""Every shipped configuration compiles for a Hopper GPU, without one, within the resources recorded for it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

FAMILIES = [
    pytest.importorskip(name, reason="Triton is not installed") for name in ("budgets", "channel_delta_budgets")
]
PARAMETERS = [
    pytest.param(family, configuration, id=configuration.name, marks=[pytest.mark.slow] if configuration.slow else [])
    for family in FAMILIES
    for configuration in family.CONFIGURATIONS
]


@pytest.mark.parametrize(("budgets", "configuration"), PARAMETERS)
def test_resources_stay_within_the_budget(budgets, configuration) -> None:
    limits = budgets.budget(configuration)
    launches = configuration.launches()
    assert launches.keys() == limits.keys()
    for name, launch in launches.items():
        taken, limit = budgets.compiled(launch), limits[name]
        assert taken.registers <= limit.registers, f"{name}: {taken}, budget {limit}"
        assert taken.spilled <= limit.spilled, f"{name}: {taken}, budget {limit}"
        assert taken.shared <= limit.shared, f"{name}: {taken}, budget {limit}"
