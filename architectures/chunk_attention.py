"""Attention to the best chunks (MoBA, Lu et al. 2025; RWKV-X, Hou et al. 2025): a query sees its own chunk of tokens,
up to itself, and of the earlier chunks those ``top_k - 1`` whose mean key it fits best.

The PyTorch form scores all keys and masks; a query's chunks are chosen head by head, and no gradient goes through the
choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_ONCE = 512
"""Bounds the mask, which has an entry for every query, head and key."""


def attend_chunks(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    position_BT: Tensor,
    *,
    chunk: int,
    top_k: int,
    scale: float | None = None,
) -> Tensor:
    """o [B,T,H,V] for queries at ``position_BT`` (or [1,T]); key s is that of the token at position s."""
    k_BHSK, v_BHSV = (m.repeat_interleave(q_BTHK.shape[2] // m.shape[2], 2).transpose(1, 2) for m in (k_BSGK, v_BSGV))
    mean_BHNK = _means(k_BHSK, chunk)
    outputs = []
    for q_BTHK_, position_BT_ in zip(
        q_BTHK.split(QUERIES_AT_ONCE, 1), position_BT.split(QUERIES_AT_ONCE, 1), strict=True
    ):
        q_BHTK = q_BTHK_.transpose(1, 2)
        seen_BHTS = _seen(q_BHTK, mean_BHNK, position_BT_, k_BHSK.shape[2], chunk, top_k)
        o_BHTV = F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSV, attn_mask=seen_BHTS, scale=scale)
        outputs.append(o_BHTV.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _means(k_BHSK: Tensor, chunk: int) -> Tensor:
    """[B,H,N,K]: the mean key of each chunk; that of an unfinished one is never asked for."""
    S = k_BHSK.shape[2]
    return F.pad(k_BHSK, (0, 0, 0, -S % chunk)).unflatten(2, (-1, chunk)).mean(3)


@torch.no_grad()
def _seen(q_BHTK: Tensor, mean_BHNK: Tensor, position_BT: Tensor, length: int, chunk: int, top_k: int) -> Tensor:
    """[B,H,T,S] bool: which keys each query sees."""
    N = mean_BHNK.shape[2]
    device = position_BT.device
    own_BT1 = position_BT[..., None] // chunk
    earlier_B1TN = (torch.arange(N, device=device) < own_BT1)[:, None]
    chosen_BHTN = earlier_B1TN
    if top_k - 1 < N - 1:
        with torch.autocast(q_BHTK.device.type, enabled=False):  # so that a prompt and a step choose alike
            score_BHTN = (q_BHTK.float() @ mean_BHNK.float().mT).masked_fill(~earlier_B1TN, -torch.inf)
        best_BHTR = score_BHTN.topk(top_k - 1, dim=-1).indices
        chosen_BHTN = torch.zeros_like(score_BHTN, dtype=torch.bool).scatter(-1, best_BHTR, True) & earlier_B1TN
    chosen_BHTN = chosen_BHTN | (torch.arange(N, device=device) == own_BT1)[:, None]
    s_S = torch.arange(length, device=device)
    return chosen_BHTN[..., s_S // chunk] & (s_S <= position_BT[..., None])[:, None]


def mean_seen(sequence_length: int, chunk: int, top_k: int) -> tuple[float, float]:
    """(chunks that a token chooses among, keys that it then sees), the means over a sequence.

    Where there are no more earlier chunks than it may have, there is nothing to choose.
    """
    candidates = keys = 0
    for own in range(-(-sequence_length // chunk)):
        tokens = min(chunk, sequence_length - own * chunk)
        candidates += tokens * own if own >= top_k else 0
        keys += tokens * min(own, top_k - 1) * chunk + tokens * (tokens + 1) // 2
    return candidates / sequence_length, keys / sequence_length
