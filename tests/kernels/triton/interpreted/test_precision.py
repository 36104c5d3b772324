"""The gradient of a scalar decay does not lose its accuracy along a sequence."""

import torch

from .compare import Problem, errors


def test_a_decay_per_token_keeps_its_gradient_within_half_a_percent() -> None:
    long = Problem(kind="token", T=1024, H=1, Hk=1, V=32, dtype=torch.bfloat16, state=False)
    assert errors(long)["ddecay"] <= 5e-3


def test_a_decay_per_token_of_heads_that_share_keys_keeps_it_too() -> None:
    long = Problem(kind="token", T=1024, H=2, Hk=1, V=16, dtype=torch.bfloat16, state=False)
    assert errors(long)["ddecay"] <= 5e-3


def test_a_decay_per_head_keeps_its_gradient_within_one_percent() -> None:
    long = Problem(kind="head", T=1024, dtype=torch.bfloat16, decay="slow", state=False)
    assert errors(long)["ddecay"] <= 1e-2
