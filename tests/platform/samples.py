"""Records and trials for tests that need no training."""

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

from hybridlab.architectures import ModelConfig
from hybridlab.platform.config import EvaluationConfig, TrainingConfig, TrialConfig
from hybridlab.platform.folders import sweep_folder, write_record
from hybridlab.platform.jobs import failed_record
from hybridlab.platform.trial_id import trial_id


def make_trial(seed: int = 0, name: str = "hybrid", pattern: str = "attn mlp", **changes: Any) -> TrialConfig:
    """A trial of a kind of task that no code knows; ``changes`` are fields of TrialConfig."""
    trial = TrialConfig(
        name=name,
        model=ModelConfig(pattern=pattern, d_model=16, vocab_size=32, layers={"attn": {"n_heads": 2}}).to_dict(),
        task_name="recall",
        task={"kind": "invented", "n_pairs": [4, 8], "label": "12", "ratio": 0.5},
        training=TrainingConfig(steps=5),
        evaluation=EvaluationConfig(),
        seed=seed,
    )
    return dataclasses.replace(trial, **changes)


def make_record(trial: TrialConfig, status: str = "finished", **metrics: float) -> dict[str, Any]:
    """A record of ``trial``; ``metrics`` with ``__`` for ``/``."""
    record = failed_record(trial, "", seconds=3.5)
    reason = None if status == "finished" else "because"
    named = {key.replace("__", "/"): value for key, value in metrics.items()}
    record |= {"status": status, "reason": reason, "metrics": named, "environment": {"torch": "2.13", "cuda": None}}
    return json.loads(json.dumps(record))


def place(sweep: str, trial: TrialConfig, status: str = "finished", **metrics: float) -> Path:
    """Write the trial's folder, with a record, a curve and a checkpoint; where it lies."""
    folder = sweep_folder(sweep) / trial_id(trial)
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(json.dumps(trial.to_dict()))
    rows = [{"step": step, "train/loss": 3.0 / step, "seconds": 1.0} for step in (1, 2, 3)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "tr')
    (folder / "checkpoint" / "model.safetensors").write_bytes(os.urandom(1000))
    (folder / "checkpoint" / "training.safetensors").write_bytes(os.urandom(1000))
    write_record(folder, make_record(trial, status, **metrics))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
