"""AdamW with decay where decay makes sense, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from .config import TrainingConfig

NOT_DECAYED = (
    *("A_log", "log_A_real", "A_imag", "decay_down", "decay_up"),  # how long a recurrence remembers
    *("bonus", "mixes", "gate_bias"),  # vectors, one per head or per use
)
"""Matrices by shape only: pulling them to zero would choose a memory's length, not a small model."""


def optimizer_for(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW over two groups: matrices decay; norms, biases and what sets a recurrence's decay do not."""
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [parameter for name, parameter in parameters if decays(name, parameter)]
    kept = [parameter for name, parameter in parameters if not decays(name, parameter)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of step ``step`` (from 0): a linear warm-up that ends at the peak, then the schedule, which ends at
    ``final_learning_rate`` times the peak with the last step."""
    warmup = round(config.warmup * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    begin = warmup if config.schedule == "cosine" else max(warmup, config.steps - round(config.decay * config.steps))
    share = (step - begin + 1) / max(1, config.steps - begin)
    falling = 0.5 * (1 + math.cos(math.pi * share)) if config.schedule == "cosine" else 1 - share
    falling = 1.0 if step < begin else falling
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * falling)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to the parameter called ``name``."""
    return parameter.ndim >= 2 and "norm" not in name and name.rsplit(".", 1)[-1] not in NOT_DECAYED
