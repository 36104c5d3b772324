"""Mamba-2's step and skip as arguments of gated linear attention: what multiplying and adding outside gives."""

from __future__ import annotations

import pytest
import torch
from hybridlab.kernels import (
    gated_linear_attention,
    gated_linear_attention_reference,
    gated_linear_attention_step,
)

from .agreement import assert_agree

B, T, H, K, V = 2, 20, 4, 8, 6


def draw() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, B, T, 2, K, generator=g)
    v, dt = torch.randn(B, T, H, V, generator=g), torch.rand(B, T, H, generator=g)
    return {"q": q, "k": k, "v": v, "decay": -dt, "value_scale": dt, "skip": torch.randn(H, generator=g)}


def test_chunked_form_equals_reference_in_value_and_gradients():
    assert_agree(gated_linear_attention, gated_linear_attention_reference, draw(), output_final_state=True)


def test_reference_multiplies_what_enters_the_state_and_adds_what_skips_it():
    x = draw()
    dt, skip = x.pop("value_scale"), x.pop("skip")
    o, state = gated_linear_attention_reference(**x, value_scale=dt, skip=skip, output_final_state=True)
    v = x.pop("v").double()
    plain, plain_state = gated_linear_attention_reference(**x, v=v * dt[..., None], output_final_state=True)
    torch.testing.assert_close(o, plain + skip.double()[:, None] * v)
    torch.testing.assert_close(state, plain_state)


def test_steps_give_what_the_whole_sequence_gives():
    x = {name: t.double() for name, t in draw().items()}
    whole, _ = gated_linear_attention_reference(**x)
    state = torch.zeros(B, H, K, V, dtype=torch.float64)
    skip = x.pop("skip")
    for t in range(T):
        now = {name: tensor[:, t] for name, tensor in x.items()}
        q, k, v = now.pop("q"), now.pop("k"), now.pop("v")
        torch.testing.assert_close(gated_linear_attention_step(q, k, v, state, **now, skip=skip), whole[:, t])


@pytest.mark.parametrize("name", ["value_scale", "skip"])
def test_a_wrong_shape_is_named(name):
    x = draw()
    x[name] = x[name][..., :-1]
    with pytest.raises(ValueError, match=name):
        gated_linear_attention(**x)
