"""The gradient of a scalar decay does not lose its accuracy along a sequence."""

import torch

from .compare import Problem, errors


def test_a_decay_per_token_keeps_its_gradient_within_half_a_percent() -> None:
    long = Problem(kind="token", T=1024, H=1, Hk=1, V=32, dtype=torch.bfloat16, state=False)
    assert errors(long)["ddecay"] <= 5e-3


def test_a_decay_per_token_of_heads_that_share_keys_keeps_it_too() -> None:
    long = Problem(kind="token", T=1024, H=2, Hk=1, V=16, dtype=torch.bfloat16, state=False)
    assert errors(long)["ddecay"] <= 5e-3


def test_a_decay_per_head_keeps_it_in_float32() -> None:
    long = Problem(kind="head", T=1024, dtype=torch.bfloat16, decay="slow", state=False)
    assert errors(long)["ddecay"] <= 1e-5


def test_what_a_token_gives_itself_does_not_hide_what_decays_leave() -> None:
    alone = Problem(kind="token", T=500, H=1, Hk=1, K=64, V=64, decay="uniform")
    assert errors(alone)["ddecay"] <= 4e-6  # 6e-6 with the diagonal in both of the sums that cancel
