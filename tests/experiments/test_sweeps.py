"""Sweeps are found by name or path."""

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import sweep_names, sweep_path, sweeps


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    (tmp_path / "shipped").mkdir()
    for name in ("quickstart", "ratios"):
        (tmp_path / "shipped" / f"{name}.yaml").write_text("name: x\n")
    monkeypatch.setattr(sweeps, "_FOLDER", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_name_and_a_path_lead_to_the_file(shipped, tmp_path):
    assert sweep_names() == ["quickstart", "ratios"]
    assert sweep_path("ratios") == shipped / "ratios.yaml"
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    assert sweep_path(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"


@pytest.mark.usefixtures("shipped")
def test_an_unknown_name_proposes_the_nearest_and_a_missing_file_says_so():
    with pytest.raises(InvalidInput, match=r"^sweep 'quikstart' is unknown: did you mean 'quickstart'\?$"):
        sweep_path("quikstart")
    with pytest.raises(InvalidInput, match=r"^sweep 'my/sweep.yaml': no such file$"):
        sweep_path("my/sweep.yaml")
