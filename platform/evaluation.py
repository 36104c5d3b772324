"""What a model scores on its task's held-out splits."""

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from ..architectures import HybridModel
from ..experiments import Batch, Score, Task
from .config import TrialConfig


def labelled_logits(model: HybridModel, batch: Batch) -> Tensor:
    """Logits [N,V] at the labelled positions of a batch, in the order of ``batch.targets_N``; the head is computed
    nowhere else."""
    labelled_BT = batch.labelled_BT
    if bool(labelled_BT.all()):
        return model(batch.tokens_BT)[0].flatten(0, 1)
    return model(batch.tokens_BT, at_BT=labelled_BT)[0]


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.no_grad()
def evaluate(
    model: HybridModel, task: Task, split: Literal["validation", "test"], trial: TrialConfig
) -> dict[str, float]:
    """The task's metrics on a held-out split, as ``<split>/<metric>``: the same examples for every model and seed."""
    config = trial.evaluation
    wanted = config.validation_batches if split == "validation" else config.test_batches
    size = config.batch_size or trial.training.batch_size
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    score = Score()
    for index in itertools.islice(range(wanted), task.num_batches(split, size)):
        batch = task.batch(split, index, size).to(device)
        with autocast(trial.training.precision, device):
            logits_NV = labelled_logits(model, batch)
        score.update(logits_NV, batch)
    model.train(training)
    return {f"{split}/{name}": value for name, value in task.metrics(score, split).items()}
