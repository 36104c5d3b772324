"""A cache that grows by a token at a time without being copied each time."""

import torch
from torch import Tensor

SPARE_TOKENS = 256


def append(cache_BS: Tensor, new_BT: Tensor) -> Tensor:
    """[B,S+T,...]: the cache [B,S,...] and what is new, in the cache's dtype.

    Where it has to move, room for 256 more tokens is left behind it: what is returned is a view, whose stride between
    sequences tells the room. The next call writes there, so that only the returned tensor may be used on.
    """
    S, T = cache_BS.shape[1], new_BT.shape[1]
    if S == 0:
        # Copied, not kept: strides of the caller's tensor would tell of room that is not the cache's.
        return torch.empty(new_BT.shape, dtype=cache_BS.dtype, device=cache_BS.device).copy_(new_BT)
    if _room(cache_BS) >= T:
        grown = cache_BS.as_strided((cache_BS.shape[0], S + T, *cache_BS.shape[2:]), cache_BS.stride())
    else:
        shape = (cache_BS.shape[0], S + T + SPARE_TOKENS, *cache_BS.shape[2:])
        grown = torch.empty(shape, dtype=cache_BS.dtype, device=cache_BS.device)[:, : S + T]
        grown[:, :S] = cache_BS
    grown[:, S:] = new_BT
    return grown


def _room(cache_BS: Tensor) -> int:
    """Tokens that fit behind each sequence. A copy of a cache can have its strides but not its memory."""
    B, S = cache_BS.shape[:2]
    capacity = cache_BS.stride(0) // cache_BS[0, 0].numel()
    end = cache_BS.storage_offset() + B * cache_BS.stride(0)
    return capacity - S if end * cache_BS.itemsize <= cache_BS.untyped_storage().nbytes() else 0
