"""RWKV's token shift: what a layer saw one token earlier."""

import torch
from torch import Tensor

from .layer import State


def shift(x_BTD: Tensor, state: State | None) -> Tensor:
    """[B,T,D]: x one token earlier, at first zeros or ``state["previous"]`` [B,D], which becomes the last token."""
    first_BD = torch.zeros_like(x_BTD[:, 0]) if state is None else state["previous"].to(x_BTD.dtype)
    if state is not None:
        state["previous"] = x_BTD[:, -1].to(state["previous"].dtype).clone()
    return torch.cat([first_BD[:, None], x_BTD[:, :-1]], dim=1)


def ramp(width: int) -> Tensor:
    """[width] from 0 to almost 1: RWKV initialises mixes and decays along the channels."""
    return torch.arange(width) / width
