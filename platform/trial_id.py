"""A trial's identity: the hash of what determines its result, and of nothing else."""

import dataclasses
import hashlib
from typing import Any

from .config import TrialConfig
from .tasks import canonical

NOT_THE_RESULT = ("log_every", "checkpoint_every")
"""Training options that change when something is written, not what is learned."""


def identity(trial: TrialConfig) -> dict[str, Any]:
    """What is hashed: model, task, training, evaluation and seed. Names, axes and the mismatch are how a trial is
    shown."""
    training = {key: value for key, value in dataclasses.asdict(trial.training).items() if key not in NOT_THE_RESULT}
    return {
        "model": dict(trial.model),
        "task": dict(trial.task),
        "training": training,
        "evaluation": dataclasses.asdict(trial.evaluation),
        "seed": trial.seed,
    }


def trial_id(trial: TrialConfig) -> str:
    """Twelve hex digits, the same on every machine and in every process.

    The first is a letter: shells, spreadsheets and lm-eval's arguments take ``123456789012`` and ``1234e5678901`` for
    numbers.
    """
    digits = hashlib.sha256(canonical(identity(trial)).encode()).hexdigest()
    return "abcdef"[int(digits[12], 16) % 6] + digits[1:12]
