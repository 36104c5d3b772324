"""Causal softmax attention over a cache, and over a window of it, by PyTorch's scaled_dot_product_attention.

A window of w means that a token sees itself and the w-1 tokens before it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHV: Tensor,
    window: int | None = None,
    scale: float | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """o [B,T,H,V]; the queries are the last T of the S tokens of the keys, which may have fewer heads, dividing H.

    ``scale`` multiplies the scores, 1/sqrt(K) where left out. ``visible`` [B,S] bool says instead which keys one query
    (T = 1) sees, in whatever order they lie (`growing_cache.remember`).
    """
    q_BTHK = q_BTHK if scale is None else q_BTHK * (scale * q_BTHK.shape[-1] ** 0.5)
    if visible is not None:
        return _one_of_many(q_BTHK, k_BSHK, v_BSHV, visible)
    q_BHTK, k_BHSK, v_BHSV = (x.transpose(1, 2) for x in (q_BTHK, k_BSHK, v_BSHV))
    T, S = q_BHTK.shape[2], k_BHSK.shape[2]
    if window is None or window >= S:
        o_BHTV = _causal(q_BHTK, k_BHSK, v_BHSV)
    elif T == S:
        o_BHTV = _windowed_from_nothing(q_BHTK, k_BHSK, v_BHSV, window)
    else:
        o_BHTV = _sdpa(q_BHTK, k_BHSK, v_BHSV, mask=_band(T, S, window, q_BHTK.device))
    return o_BHTV.transpose(1, 2)


def _one_of_many(q_B1HK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, visible_BS: Tensor) -> Tensor:
    """One token a row. Query heads that share keys stand in the place of time, so that no key is copied for them."""
    q_BGRK = q_B1HK[:, 0].unflatten(1, (k_BSGK.shape[2], -1))
    o_BGRV = _sdpa(q_BGRK, k_BSGK.transpose(1, 2), v_BSGV.transpose(1, 2), mask=visible_BS[:, None, None])
    return o_BGRV.flatten(1, 2)[:, None]


def mean_keys_seen(sequence_length: int, window: int | None = None) -> float:
    """Keys that causality (and the window) lets a token see, the mean over a sequence: (T+1)/2 without a window."""
    T = sequence_length
    w = T if window is None else min(window, T)
    return (w * (w + 1) / 2 + (T - w) * w) / T


def _sdpa(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    grouped = q_BHTK.shape[1] != k_BHSK.shape[1]
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSV, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _causal(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
    T, S = q_BHTK.shape[2], k_BHSK.shape[2]
    if T == 1:
        return _sdpa(q_BHTK, k_BHSK, v_BHSV)
    if T == S:
        return _sdpa(q_BHTK, k_BHSK, v_BHSV, causal=True)
    return _sdpa(q_BHTK, k_BHSK, v_BHSV, mask=_band(T, S, S, q_BHTK.device))


def _band(T: int, S: int, window: int, device: torch.device) -> Tensor:
    """[T,S] bool: which of S keys each of the last T tokens sees."""
    back_TS = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    return (back_TS >= 0) & (back_TS < window)


def _windowed_from_nothing(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, window: int) -> Tensor:
    """Blocks as long as the window: each sees itself and the block before, so the cost is linear in T."""
    T, w = q_BHTK.shape[2], window
    first_BHWV = _sdpa(q_BHTK[:, :, :w], k_BHTK[:, :, :w], v_BHTV[:, :, :w], causal=True)
    q, k, v = (F.pad(x, (0, 0, 0, -T % w)).unflatten(2, (-1, w)) for x in (q_BHTK, k_BHTK, v_BHTV))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3) for x in (k, v))
    blocks = [x.transpose(1, 2).flatten(0, 1) for x in (q[:, :, 1:], k, v)]
    rest = _sdpa(*blocks, mask=_band(w, 2 * w, w, q.device))
    rest_BHTV = rest.unflatten(0, (q.shape[0], -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first_BHWV, rest_BHTV[:, :, : T - w]], dim=2)
