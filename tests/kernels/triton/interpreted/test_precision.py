"""The gradient of a scalar decay does not lose its accuracy along a sequence."""

import torch

from .compare import Problem, errors


def test_a_decay_per_token_keeps_its_gradient_within_half_a_percent() -> None:
    long = Problem(kind="token", T=1024, H=1, Hk=1, V=32, dtype=torch.bfloat16, state=False)
    assert errors(long)["ddecay"] <= 5e-3
