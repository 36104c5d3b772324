"""One trial, from its configuration to its record.

    trial.json      the configuration, first
    curve.jsonl     rows while it trains
    checkpoint/     what a killed trial continues from, then the finished model
    record.json     last, and whole: a trial is done when this exists

Guarantees:

- a trial whose record says ``finished`` is never run again: ``run_trial`` hands its record back;
- a trial ends as ``finished``, ``diverged``, ``out_of_memory`` or ``failed``, with its reason in one line, and its
  record keeps what was measured before the end; a process that is killed leaves no record, and the next one continues
  from the checkpoint.
"""

import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..architectures import HybridModel, ModelConfig, bill
from ..experiments import Task
from .atomic import finite, write_json
from .checkpoint import drop_training, save_model
from .config import TrialConfig
from .efficiency import measure
from .environment import fingerprint
from .evaluation import evaluate
from .folders import read_record, write_record
from .tasks import build_task
from .training import Diverged, Report, Training
from .trial_id import trial_id

__all__ = ["run_trial", "trial_id"]

BILLED_LENGTHS = (1024, 16384, 131072)
"""Tokens of context at which every record has the computed bytes of the decoding state."""


def run_trial(
    trial: TrialConfig,
    folder: Path,
    *,
    report: Report = lambda row: None,
    threads: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Run a trial in its folder, or what is left of it, and return its record.

    Args:
        report: gets every row of the curve as it is written.
        threads: of PyTorch; none leaves them as they are.
        device: none takes the GPU if there is one.
    """
    folder = Path(folder)
    done = read_record(folder)
    if done is not None and done["status"] == "finished":
        return done
    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    write_json(folder / "trial.json", {"id": trial_id(trial)} | trial.to_dict())
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begun = time.monotonic()
    metrics: dict[str, Any] = {}
    status, reason = _outcome(trial, folder, report, device, metrics)
    record = _identity(trial) | {
        "status": status,
        "reason": reason,
        "metrics": finite(metrics),
        "config": trial.to_dict(),
        "environment": fingerprint(),
        "started": started,
        "seconds": round(time.monotonic() - begun, 3),
    }
    write_record(folder, record)
    if status == "finished":
        drop_training(folder / "checkpoint")
    return record


def _identity(trial: TrialConfig) -> dict[str, Any]:
    costs = bill(ModelConfig.from_dict(trial.model))
    return {
        "id": trial_id(trial),
        "name": trial.name,
        "pattern": trial.model["pattern"],
        "task": trial.task_name,
        "seed": trial.seed,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "mismatch": trial.mismatch,
    }


def _outcome(
    trial: TrialConfig, folder: Path, report: Report, device: torch.device, metrics: dict[str, Any]
) -> tuple[str, str | None]:
    """Status and reason; ``metrics`` is filled as far as the trial gets."""
    (folder / "traceback.txt").unlink(missing_ok=True)
    try:
        return "finished", _run(trial, folder, report, device, metrics)
    except Diverged as error:
        return "diverged", str(error)
    except Exception as error:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return ("out_of_memory" if _is_out_of_memory(error) else "failed"), reason
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next trial of this process starts with all of it


def _run(trial: TrialConfig, folder: Path, report: Report, device: torch.device, metrics: dict[str, Any]) -> str | None:
    """Train, save, evaluate, measure; returns why training ended early, if it did."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    task = build_task(trial.task)
    metrics |= _billed(trial, task)
    torch.manual_seed(trial.seed)
    model = HybridModel(ModelConfig.from_dict(trial.model)).to(device)
    training = Training(trial, model, task, folder, report)
    try:
        training.run()
    finally:
        progress = training.progress
        metrics |= progress.metrics | {
            "train/steps": progress.step,
            "efficiency/train_tokens_per_second": progress.tokens_per_second,
        }
        if device.type == "cuda":
            metrics["efficiency/peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    save_model(folder / "checkpoint", model, task.tokenizer, task.sequence_length)
    model.eval()
    metrics |= evaluate(model, task, "test", trial)
    metrics |= measure(model, trial.evaluation.efficiency)
    if trial.evaluation.lm_eval.tasks and task.tokenizer is not None:
        from .lm_eval_scores import lm_eval_scores  # seconds to import, and probes never need it

        metrics |= lm_eval_scores(model, task.tokenizer, trial.evaluation.lm_eval, folder)
    return progress.stopped


def _billed(trial: TrialConfig, task: Task) -> dict[str, float]:
    costs = bill(ModelConfig.from_dict(trial.model))
    lengths = sorted({*BILLED_LENGTHS, *trial.evaluation.efficiency.lengths})
    states = {f"bill/state_bytes/{length}": float(costs.state_bytes(length)) for length in lengths}
    return {"bill/flops_per_token": costs.flops_per_token(task.sequence_length)} | states


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # PyTorch's CPU allocator
