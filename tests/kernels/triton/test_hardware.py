"""The kernels are refused where they are known to be wrong, and nowhere else."""

import pytest
from hybridlab.kernels.hardware import distrust


@pytest.mark.parametrize("version", [(3, 4, 0), (3, 6, 0), (3, 7, 0)])
def test_triton_that_is_wrong_on_hopper_is_refused_there(version: tuple[int, int, int]) -> None:
    reason = distrust(version, (9, 0))
    assert reason is not None
    assert "3.7.1" in reason


@pytest.mark.parametrize(("version", "capability"), [((3, 7, 1), (9, 0)), ((3, 8, 0), (9, 0)), ((3, 6, 0), (8, 0))])
def test_other_machines_are_trusted(version: tuple[int, int, int], capability: tuple[int, int]) -> None:
    assert distrust(version, capability) is None


@pytest.mark.parametrize(("version", "capability"), [(None, (9, 0)), ((3, 3, 0), (9, 0)), ((3, 7, 1), (7, 5))])
def test_missing_or_old_is_refused_with_a_reason(
    version: tuple[int, int, int] | None, capability: tuple[int, int]
) -> None:
    assert distrust(version, capability)
