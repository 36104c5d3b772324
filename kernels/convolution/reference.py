"""The convolutions in fp64, one output after another: what the faster forms are judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..packing import check_cu_seqlens, spans
from .arguments import Activation, check_long, check_short


def short_convolution_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Arguments, shapes and errors as in `short_convolution`; results are fp64."""
    B, T, D = x.shape
    sequences = B if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
    check_short(x, weight, bias, activation, initial_state, sequences)
    W = weight.shape[1]
    x, weight = x.double(), weight.double()
    rows = [x[row, start:end] for row, start, end in spans(cu_seqlens, B, T)]

    outputs, finals = [], []
    for n, row in enumerate(rows):
        past = x.new_zeros(W - 1, D) if initial_state is None else initial_state[n].double()
        padded = torch.cat([past, row])
        for t in range(len(row)):
            y = (weight.T * padded[t : t + W]).sum(0)
            y = y if bias is None else y + bias.double()
            outputs.append(y if activation is None else y / (1 + (-y).exp()))
        finals.append(padded[len(row) :])
    y = torch.stack(outputs).view(B, T, D)
    return y, torch.stack(finals) if output_final_state else None


def long_convolution_reference(x: Tensor, filters: Tensor, skip: Tensor | None = None) -> Tensor:
    """As `long_convolution`, summed term by term in fp64."""
    check_long(x, filters, skip)
    x, filters = x.double(), filters.double()
    outputs = []
    for t in range(x.shape[1]):
        first = max(0, t - filters.shape[1] + 1)
        newest_first = x[:, first : t + 1].flip(1)
        outputs.append(torch.einsum("bsd,ds->bd", newest_first, filters[:, : newest_first.shape[1]]))
    y = torch.stack(outputs, dim=1)
    return y if skip is None else y + skip.double() * x
