"""Small trials that take a second: two layers of width 16, a few steps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hybridlab.architectures import ModelConfig
from hybridlab.experiments import task_config
from hybridlab.platform.config import EfficiencyConfig, EvaluationConfig, LmEvalConfig, TrainingConfig, TrialConfig

LAYERS = {"attn": {"n_heads": 2}, "mamba2": {"head_dim": 8, "d_state": 8}, "mlp": {"ratio": 2.0}}


@pytest.fixture
def recall_trial() -> Callable[..., TrialConfig]:
    """``recall_trial(steps=20, ...)``: a recall trial; keywords are training options."""

    def make(pattern: str = "mamba2 attn mlp", seed: int = 0, **training: Any) -> TrialConfig:
        task = task_config({"kind": "recall", "n_pairs": 4, "vocab_size": 64, "sequence_length": 32})
        model = ModelConfig(pattern=pattern, d_model=16, vocab_size=64, layers=LAYERS)
        return TrialConfig(
            name="tiny",
            model=model.to_dict(),
            task_name="recall",
            task=task.to_dict(),
            training=TrainingConfig(**({"steps": 20, "batch_size": 8, "log_every": 5} | training)),
            evaluation=EvaluationConfig(
                validation_batches=2, test_batches=2, efficiency=EfficiencyConfig(lengths=[16], seconds=0.01)
            ),
            seed=seed,
        )

    return make


@pytest.fixture
def text_trial(recall_trial: Callable[..., TrialConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``text_trial(lm_eval=LmEvalConfig(...), steps=20, ...)``: language modelling on a small local text, in bytes."""
    monkeypatch.setenv("HYBRIDLAB_CACHE", str(tmp_path / "cache"))
    for i in range(40):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{i}.txt").write_text(f"def add_{i}(x):\n    return x + {i}\n" * 20)

    def make(lm_eval: LmEvalConfig | None = None, **training: Any) -> TrialConfig:
        task = task_config(
            {"kind": "language_modelling", "corpus": str(tmp_path / "text" / "*.txt"), "sequence_length": 32}
        )
        trial = recall_trial(**training)
        model = ModelConfig.from_dict({**trial.model, "vocab_size": task.build().vocab_size})
        evaluation = dataclasses.replace(trial.evaluation, lm_eval=lm_eval or LmEvalConfig())
        changes = {"model": model.to_dict(), "task_name": "text", "task": task.to_dict(), "evaluation": evaluation}
        return dataclasses.replace(trial, **changes)

    return make
