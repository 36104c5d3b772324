"""Attention to the best chunks, and gated retention, against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import chunk_attention, layer_config

D_MODEL = 32


def built(name, **options):
    torch.manual_seed(0)
    return layer_config(name, options).build(D_MODEL).eval()


def inputs(T=23):
    return torch.randn(2, T, D_MODEL, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"chunk": 100, "top_k": 1}, {"chunk": 3, "top_k": 8}, {"chunk": 5, "top_k": 50}])
def test_with_room_for_every_chunk_it_is_attention(options):
    sparse, dense = built("sparse_attn", n_heads=4, n_kv_heads=2, **options), built("attn", n_heads=4, n_kv_heads=2)
    torch.testing.assert_close(sparse(inputs())[0], dense(inputs())[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_query_finds_the_chunk_that_holds_its_key(monkeypatch):
    """One token's key is the query's own; its chunk must be the one that is seen, wherever it is."""
    monkeypatch.setattr(chunk_attention, "QUERIES_AT_ONCE", 3)
    q = torch.zeros(1, 12, 1, 4)
    q[0, 11, 0, 2] = 10.0
    for place in range(9):
        k, v = torch.zeros(1, 12, 1, 4), torch.arange(12.0).view(1, 12, 1, 1)
        k[0, place, 0, 2] = 10.0
        o = chunk_attention.attend_chunks(q, k, v, torch.arange(12)[None], chunk=3, top_k=2)
        assert o[0, 11, 0, 0].item() == pytest.approx(place, abs=1e-4)


@torch.no_grad()
def test_a_chunk_that_was_not_chosen_changes_nothing():
    layer = built("sparse_attn", chunk=4, top_k=1, n_heads=2)
    x, changed = inputs(), inputs()
    changed[:, :4] += 1
    torch.testing.assert_close(layer(changed)[0][:, 4:], layer(x)[0][:, 4:])


@torch.no_grad()
def test_gated_retention_equals_its_parallel_formula():
    """Sun et al. 2024, equation 5: (Q Kᵀ ∘ D) V with D_nm the product of the decays after m up to n."""
    layer, x, T = built("gated_retention", n_heads=2), inputs(), 23
    q, k, v, g = layer.qkvg_proj(x).chunk(4, dim=-1)
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(8) / 8)
    turn = torch.polar(torch.ones_like(angle), angle)

    def turned(m):
        m = m.unflatten(-1, (2, 2, 8))
        return (torch.complex(m[..., 0, :], m[..., 1, :]) * turn[:, None]).transpose(1, 2)

    gamma = torch.sigmoid(layer.decay_proj(x)).double() ** (1 / 16)
    D = torch.zeros(2, 2, T, T, dtype=torch.float64)
    for n in range(T):
        for m in range(n + 1):
            D[:, :, n, m] = gamma[:, m + 1 : n + 1].prod(1)
    scores = (turned(q) @ turned(k).conj().transpose(2, 3)).real / 4
    o = (scores * D.float()) @ v.unflatten(-1, (2, 16)).transpose(1, 2)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = layer.out_proj(F.silu(g) * o.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-5, atol=1e-5)
