"""Modules that several layers are made of: the RMS norm and the short causal convolution, over the kernels."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..kernels import rms_norm, short_convolution, short_convolution_step
from .layer import State


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over the last W tokens. Its state is their tail, [B,W-1,channels]."""

    def __init__(self, channels: int, width: int, *, bias: bool, activation: Literal["silu"] | None = "silu") -> None:
        super().__init__()
        bound = width**-0.5  # as nn.Conv1d initialises a depthwise convolution
        self.weight = nn.Parameter(torch.empty(channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None
        self.activation: Literal["silu"] | None = activation

    def init_tail(self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
        """Zeros: nothing came before."""
        channels, width = self.weight.shape
        return torch.zeros(batch_size, width - 1, channels, device=device, dtype=dtype)

    def forward(self, x_BTE: Tensor, state: State | None, key: str = "conv") -> Tensor:
        """y [B,T,E]; ``state[key]`` is read and replaced where there is a state."""
        if state is None:
            return short_convolution(x_BTE, self.weight, self.bias, activation=self.activation)[0]
        if x_BTE.shape[1] == 1:
            return short_convolution_step(x_BTE[:, 0], self.weight, state[key], self.bias, self.activation)[:, None]
        y_BTE, tail = short_convolution(
            x_BTE, self.weight, self.bias, activation=self.activation, initial_state=state[key], output_final_state=True
        )
        assert tail is not None
        state[key] = tail.to(state[key].dtype)
        return y_BTE


def convolution_parameters(channels: int, width: int, bias: bool) -> int:
    """Parameters of a ShortConvolution."""
    return channels * (width + bias)


def tail_bytes(channels: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of a ShortConvolution's state, per sequence."""
    return (width - 1) * channels * dtype.itemsize
