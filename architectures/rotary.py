"""Rotary positions: RoFormer (Su et al. 2021), equation 34, in the half-split layout of GPT-NeoX and Llama.

The first ``n_rotated`` of a head's channels are rotated, channel i with channel i + n_rotated/2, by the angle
position * base^(-2i/n_rotated); the rest pass through (partial rotation, as GPT-NeoX has it).
"""

import torch
from torch import Tensor


def rotation_tables(position_BT: Tensor, n_rotated: int, base: float) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [B,T,1,n_rotated/2] in fp32, ready to multiply [B,T,H,.]."""
    exponent = torch.arange(0, n_rotated, 2, device=position_BT.device, dtype=torch.float32) / n_rotated
    angle = position_BT[..., None, None].float() * base**-exponent
    return angle.cos(), angle.sin()


def rotate(x_BTHK: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """x with its leading channels rotated; dtype kept."""
    cos, sin = (table.to(x_BTHK.dtype) for table in tables)
    half = cos.shape[-1]
    first, second, rest = x_BTHK.split([half, half, x_BTHK.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


def positions(batch_size: int, length: int, start_B: Tensor | None, device: torch.device) -> Tensor:
    """[B,T] int64 (or [1,T] from nothing): the positions of ``length`` tokens after ``start_B`` seen ones."""
    steps = torch.arange(length, device=device)
    return steps[None] if start_B is None else start_B[:, None] + steps
