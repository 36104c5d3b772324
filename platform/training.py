"""The training loop: one model, one task, from step 0 or from where a killed process left off.

Guarantees:

- a trial that continues from its checkpoint writes, from there on, the curve it would have written (bitwise on one
  machine: batches are functions of the step, and weights, moments, random states and running sums are saved);
- every ``log_every`` steps one row goes to the curve and to ``report``, with the mean training loss since the last row;
- a loss that is not finite, or far above guessing, ends training with ``Diverged``.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..architectures import HybridModel
from ..experiments import Task
from .checkpoint import load_training, save_training
from .config import TrialConfig
from .curve import Curve
from .evaluation import autocast, evaluate
from .optimization import learning_rate, optimizer_for

Report = Callable[[dict[str, Any]], None]


class Diverged(Exception):
    """Training has left the region where going on makes sense; the message says how."""


@dataclass
class Progress:
    """Where training stands; plain JSON, saved with every checkpoint."""

    step: int = 0
    """Steps taken."""
    row: int = 0
    """The step of the curve's last row."""
    loss_sum: float = 0.0
    """Sum of the training losses since that row."""
    seconds: float = 0.0
    """Wall time spent training by all processes that worked on this trial."""
    throughputs: list[float] = field(default_factory=list)
    """Tokens per second between rows; looks at held-out data and checkpoints are not counted."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last training loss and the last look at the validation split."""
    stopped: str | None = None
    """Why training ended before its last step."""

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the intervals after the first, which warms up; None before the first row."""
        measured = self.throughputs[1:] or self.throughputs
        return statistics.median(measured) if measured else None


class Training:
    """One process's share of training a trial's model, in place; the curve goes to ``folder/curve.jsonl``, what to
    continue from to ``folder/checkpoint``."""

    def __init__(self, trial: TrialConfig, model: HybridModel, task: Task, folder: Path, report: Report):
        self.trial, self.config = trial, trial.training
        self.model, self.task, self.report = model, task, report
        self.checkpoint = folder / "checkpoint"
        self.device = next(model.parameters()).device
        self.optimizer = optimizer_for(model, self.config)
        self.progress = Progress(**(load_training(self.checkpoint, model, self.optimizer) or {}))
        self.curve = Curve(folder / "curve.jsonl", resume_at=self.progress.step)
        self.loss_sum = torch.tensor(self.progress.loss_sum, dtype=torch.float64, device=self.device)
        self.begun = time.monotonic() - self.progress.seconds
        self.saved = self.interval_begun = time.monotonic()
        self.interval_tokens = 0

    def run(self) -> Progress:
        """Train to the end (nothing, if training had ended) and keep the last state.

        Raises:
            Diverged: the loss is not finite or far above guessing.
        """
        self.model.train()
        try:
            while self.progress.step < self.config.steps and self.progress.stopped is None:
                norm = self._step()
                if self._look_is_due() or self.progress.step % self.config.log_every == 0:
                    self._write_row(norm)
                self._save_if_due()
        finally:
            self.curve.close()
        return self.progress

    def _step(self) -> Tensor:
        """One optimiser step; returns the norm of the gradient before clipping."""
        config = self.config
        batch = self.task.batch("train", self.progress.step, config.batch_size, self.trial.seed).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.progress.step, config)
        with autocast(config.precision, self.device):
            loss = self.model.loss(batch.tokens_BT, batch.targets_BT)
            balance = self.model.auxiliary_loss()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + config.auxiliary_loss * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip or math.inf)
        self.optimizer.step()
        self.loss_sum += loss.detach()
        self.interval_tokens += batch.tokens_BT.numel()
        self.progress.step += 1
        return norm

    def _look_is_due(self) -> bool:
        step, every = self.progress.step, self.config.evaluate_every
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _write_row(self, norm: Tensor) -> None:
        """A row with the mean loss since the last one, and the validation metrics where a look is due."""
        progress = self.progress
        loss = self.loss_sum.item() / (
            progress.step - progress.row
        )  # waits for the device, so the clock below is honest
        speed = self.interval_tokens / (time.monotonic() - self.interval_begun)
        row: dict[str, Any] = {
            "step": progress.step,
            "train/loss": loss,
            "train/learning_rate": learning_rate(progress.step - 1, self.config),
            "train/gradient_norm": float(norm),
            "train/tokens_per_second": speed,
        }
        if (capacity := self.model.capacity()) is not None:
            row["train/expert_capacity"] = float(capacity)
        looked = self._look() if self._look_is_due() and math.isfinite(loss) else {}
        self.curve.append(row | looked)
        self.report(row | looked)
        progress.throughputs.append(speed)
        progress.metrics |= {"train/loss": loss} | looked
        self._check(loss, looked)
        progress.row = progress.step
        self.loss_sum.zero_()
        self.interval_begun, self.interval_tokens = time.monotonic(), 0

    def _look(self) -> dict[str, float]:
        return evaluate(self.model, self.task, "validation", self.trial)

    def _check(self, loss: float, looked: dict[str, float]) -> None:
        """Stop for success or for divergence."""
        step, guessing, bound = self.progress.step, math.log(self.task.vocab_size), self.config.divergence
        if not math.isfinite(loss):
            raise Diverged(f"training loss is {loss} at step {step}")
        if loss > bound * guessing:
            raise Diverged(
                f"training loss {loss:.4g} at step {step} is above {bound:g} times that of guessing, {guessing:.4g}"
            )
        if not math.isfinite(looked.get("validation/loss", 0.0)):
            raise Diverged(f"validation loss is {looked['validation/loss']} at step {step}")
        accuracy, enough = looked.get("validation/accuracy"), self.config.stop_at
        if accuracy is not None and enough is not None and accuracy >= enough and step < self.config.steps:
            self.progress.stopped = f"validation accuracy {accuracy:.4g} reached stop_at={enough:g} at step {step}"

    def _save_if_due(self) -> None:
        """A checkpoint every so often, and one at the end: a trial that dies while it is evaluated is not trained
        again."""
        begun = time.monotonic()
        ended = self.progress.step == self.config.steps or self.progress.stopped is not None
        every = self.config.checkpoint_every
        if every == 0 or (begun - self.saved < every and not ended):
            return
        self.progress.loss_sum = self.loss_sum.item()
        self.progress.seconds = begun - self.begun
        save_training(self.checkpoint, self.model, self.optimizer, asdict(self.progress))
        self.saved = time.monotonic()
        self.interval_begun += self.saved - begun
