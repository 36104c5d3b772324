"""A trial ends as one record, once, and says how it ended."""

import json
from pathlib import Path

import pytest
import torch
from hybridlab.architectures import ModelConfig, bill
from hybridlab.platform import trial as trial_module
from hybridlab.platform.checkpoint import load_model
from hybridlab.platform.config import TrialConfig
from hybridlab.platform.curve import read_curve
from hybridlab.platform.environment import fingerprint
from hybridlab.platform.training import Training
from hybridlab.platform.trial import run_trial, trial_id


def test_a_recall_trial_ends_as_a_record_of_everything(recall_trial, tmp_path: Path):
    trial = recall_trial()
    reported: list[dict] = []
    record = run_trial(trial, tmp_path, report=reported.append)

    assert (record["status"], record["reason"]) == ("finished", None)
    assert (record["id"], record["name"], record["task"], record["seed"]) == (trial_id(trial), "tiny", "recall", 0)
    costs = bill(ModelConfig.from_dict(trial.model))
    assert (record["parameters"], record["active_parameters"]) == (costs.parameters, costs.active_parameters)
    assert TrialConfig.from_dict(record["config"]) == trial
    assert record["environment"] == fingerprint()
    metrics = record["metrics"]
    assert {"train/loss", "validation/loss", "validation/accuracy", "test/loss", "test/accuracy"} <= metrics.keys()
    assert metrics["train/steps"] == 20
    assert metrics["bill/flops_per_token"] == costs.flops_per_token(32)
    assert metrics["bill/state_bytes/16384"] == costs.state_bytes(16384)
    assert metrics["efficiency/state_bytes/16"] == costs.state_bytes(16, torch.float32)
    assert metrics["efficiency/train_tokens_per_second"] > 0
    assert metrics["efficiency/decode_tokens_per_second/16"] > 0

    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert json.loads((tmp_path / "trial.json").read_text()) == {"id": trial_id(trial)} | trial.to_dict()
    assert read_curve(tmp_path / "curve.jsonl") == reported
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["model.json", "model.safetensors"]
    assert load_model(tmp_path / "checkpoint").config.to_dict() == trial.model


def test_a_finished_trial_is_handed_back_and_not_repeated(recall_trial, tmp_path: Path, monkeypatch):
    record = run_trial(recall_trial(), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(trial_module, "HybridModel", lambda config: pytest.fail("built again"))
    assert run_trial(recall_trial(), tmp_path) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_a_trial_killed_while_it_is_evaluated_is_not_trained_again(recall_trial, tmp_path: Path, monkeypatch):
    trial = recall_trial()

    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "measure", dies)
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial, tmp_path)
    assert not (tmp_path / "record.json").exists()
    monkeypatch.setattr(Training, "_step", lambda self: pytest.fail("trained again"))
    record = run_trial(trial, tmp_path)
    assert record["status"] == "finished"
    assert record["metrics"]["efficiency/train_tokens_per_second"] > 0
    assert record["metrics"]["validation/loss"] > 0


def test_divergence_is_a_result(recall_trial, tmp_path: Path):
    record = run_trial(recall_trial(learning_rate=1e30, gradient_clip=0.0, warmup=0.0), tmp_path)
    assert record["status"] == "diverged"
    assert "training loss" in record["reason"]
    assert record["metrics"]["train/steps"] == 5
    assert "test/loss" not in record["metrics"]
    assert "NaN" not in (tmp_path / "record.json").read_text()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("kernel\n  fell over"), "failed", "RuntimeError: kernel fell over"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", "OutOfMemoryError: CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "RuntimeError: DefaultCPUAlloc"),
    ],
    ids=["a bug", "GPU memory", "CPU memory"],
)
def test_a_failure_has_a_kind_and_is_taken_up_again(recall_trial, tmp_path, monkeypatch, error, status, reason):
    def fails(self):
        raise error

    trial = recall_trial()
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", fails)
        record = run_trial(trial, tmp_path)
    assert record["status"] == status
    assert record["reason"].startswith(reason)
    assert "\n" not in record["reason"]
    assert "fails" in (tmp_path / "traceback.txt").read_text()
    assert record["metrics"]["bill/flops_per_token"] > 0

    assert run_trial(trial, tmp_path)["status"] == "finished"
    assert not (tmp_path / "traceback.txt").exists()


def test_early_success_is_finished_with_its_reason(recall_trial, tmp_path: Path):
    record = run_trial(recall_trial(steps=40, evaluate_every=10, stop_at=1e-9, learning_rate=1e-2), tmp_path)
    assert record["status"] == "finished"
    assert record["reason"].startswith("validation accuracy")
    assert record["metrics"]["train/steps"] < 40


def test_a_record_does_not_depend_on_the_trial_before_it(recall_trial, tmp_path: Path):
    fresh = run_trial(recall_trial(), tmp_path / "fresh")
    run_trial(recall_trial(seed=1), tmp_path / "between")
    again = run_trial(recall_trial(), tmp_path / "again")
    learned = [key for key in fresh["metrics"] if key.startswith(("train/", "validation/", "test/"))]
    assert {key: fresh["metrics"][key] for key in learned} == {key: again["metrics"][key] for key in learned}


def test_language_modelling_reports_bits_per_byte_and_keeps_its_tokenizer(text_trial, tmp_path: Path):
    record = run_trial(text_trial(), tmp_path / "trial")
    assert record["status"] == "finished", record["reason"]
    assert 0 < record["metrics"]["test/bits_per_byte"] < 9
    assert not any(key.startswith("lm_eval/") for key in record["metrics"])
    assert (tmp_path / "trial" / "checkpoint" / "tokenizer.json").is_file()
