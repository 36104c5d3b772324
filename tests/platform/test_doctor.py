"""The doctor finds what is wrong and says so."""

from types import SimpleNamespace

import pytest
import torch
from hybridlab import kernels
from hybridlab.platform import doctor
from hybridlab.platform.doctor import examine, to_json

from .samples import free_port


@pytest.fixture
def ray_is_well(monkeypatch):
    """Ray's own check has a test of its own; the others need no cluster."""
    monkeypatch.setattr(doctor, "_ray", lambda address: "replaced")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "runs"


def test_a_machine_that_can_run_sweeps_passes(runs):
    findings = {finding.name: finding for finding in examine()}
    assert {name for name, finding in findings.items() if not finding.ok} == set()
    assert "runs a task (1 CPU" in findings["ray"].detail
    assert f"kernel: {kernels.OPERATIONS[0].name}" in findings
    assert "torch 2." in findings["versions"].detail
    assert str(runs) in findings["mlflow"].detail


def test_a_wrong_kernel_fails_with_its_error(runs, monkeypatch, ray_is_well):
    class Wrong:
        name = "wrong"

        narrow = ("x",)

        def check(self, device, dtype):
            return 0.5

    class Broken:
        name = "broken"

        narrow = ("x",)

        def check(self, device, dtype):
            raise RuntimeError("no\nkernel")

    monkeypatch.setattr(kernels, "OPERATIONS", (Wrong(), Broken()))
    found = to_json(list(examine()))
    assert not found["ok"]
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["kernel: wrong"] == {
        "name": "kernel: wrong",
        "ok": False,
        "detail": "relative error 5.0e-01, above 1e-05",
    }
    assert checks["kernel: broken"]["detail"] == "no kernel"


def test_on_a_gpu_kernels_are_checked_in_bf16_too(monkeypatch):
    asked = []

    class Right:
        name, narrow = "right", ("x",)

        def check(self, device, dtype):
            asked.append((device, dtype))
            return 2e-3

    monkeypatch.setattr(kernels, "OPERATIONS", (Right(),))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [(f.name, f.ok) for f in doctor._kernels()] == [("kernel: right", False), ("kernel: right, bfloat16", True)]
    assert asked == [("cuda", torch.float32), ("cuda", torch.bfloat16)]


def test_what_does_not_answer_fails_and_the_rest_is_still_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "OPERATIONS", ())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    (tmp_path / "runs").write_text("a file where the folder should be")
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    port = free_port()
    findings = {finding.name: finding for finding in examine(f"127.0.0.1:{port}")}
    assert [name for name, finding in findings.items() if not finding.ok] == ["ray", "mlflow", "disk"]
    assert f"no Ray answers at '127.0.0.1:{port}'" in findings["ray"].detail
    assert all("\n" not in finding.detail for finding in findings.values())


def test_a_full_disk_fails(runs, monkeypatch, ray_is_well):
    monkeypatch.setattr(kernels, "OPERATIONS", ())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    disk = next(finding for finding in examine() if finding.name == "disk")
    assert not disk.ok
    assert "0.0 GiB free" in disk.detail
