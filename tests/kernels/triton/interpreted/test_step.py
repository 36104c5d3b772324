"""The one-token kernel advances the state as the recurrence says."""

import pytest
import torch
from hybridlab.kernels import gated_linear_attention_step
from hybridlab.kernels.gated_linear_attention.step_triton import gated_linear_attention_step_triton


@pytest.mark.parametrize("kind", ["none", "head", "token", "channel"])
@pytest.mark.parametrize("bonus", [False, True], ids=["", "bonus"])
@pytest.mark.parametrize("normalize", [False, True], ids=["", "normalised"])
def test_step_agrees_with_the_pytorch_form(kind: str, bonus: bool, normalize: bool) -> None:
    B, H, Hk, K, V = 2, 4, 2, 24, 40
    g = torch.Generator().manual_seed(0)
    q, k = (torch.rand(B, Hk, K, generator=g) + 0.1 for _ in range(2))
    v, state = torch.randn(B, H, V, generator=g), torch.rand(B, H, K, V + normalize, generator=g)
    shape = {"none": None, "head": (H,), "token": (B, H), "channel": (B, H, K)}[kind]
    decay = None if shape is None else -torch.rand(shape, generator=g)
    u = torch.rand(H, K, generator=g) if bonus else None
    exact_state = state.double()
    exact = gated_linear_attention_step(
        q.double(), k.double(), v.double(), exact_state,
        decay=None if decay is None else decay.double(), kind=kind, bonus=None if u is None else u.double(),
        normalize=normalize,
    )  # fmt: skip
    o = gated_linear_attention_step_triton(q, k, v, state, decay, kind, u, K**-0.5, normalize)
    torch.testing.assert_close(o.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.double(), exact_state, rtol=1e-5, atol=1e-5)
