"""Initial values that several papers share."""

import math

import torch
from torch import Tensor


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """[size] values between low and high, uniform in the logarithm: Mamba's initial steps."""
    return torch.empty(size).uniform_(math.log(low), math.log(high)).exp()


def inverse_softplus(y: Tensor) -> Tensor:
    """x such that log(1 + e^x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))
