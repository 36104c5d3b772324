"""Caches of keys and values, in two forms that `remember` writes to and reads from.

Growing: [B,S,...], every token so far (or the last window-1), the same number for all rows. Prompts are read with it.
Fixed: [B,C,...], C slots a row; a row's token at position p goes to slot p mod C, so that rows may be of different
lengths, and neither shapes nor addresses change from token to token, as CUDA graphs ask. `fixed` makes it; the entry
``slots`` [C] in a state tells it from the other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layer import State

CACHES = ("keys", "values", "latents", "shared_keys")
"""The entries of a state that `remember` keeps, and that may grow; every other entry keeps its shape."""
SLOTS = "slots"
SPARE_TOKENS = 256


def remember(
    state: State, new: Mapping[str, Tensor], window: int | None = None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Puts what is new, entries [B,T,...] of ``CACHES``, into ``state``, and moves its ``position`` [B] on.

    Returns all that is in reach of the new tokens, entries [B,S,...] in the dtype of what is new, and which of it each
    row sees, [B,S] bool, or None where all rows see all (but for causality and the window, which ``attend`` minds).
    The state keeps what the next token may see: the last window-1 tokens. The fixed form takes one token at a time.
    """
    before_B = state["position"]
    state["position"] = before_B + next(iter(new.values())).shape[1]
    if SLOTS in state:
        for name, x_B1 in new.items():
            _put(state[name], x_B1, before_B)
        reach = {name: state[name].to(x.dtype) for name, x in new.items()}
        return reach, _visible(before_B, state[SLOTS], window)
    reach = {}
    for name, x_BT in new.items():
        seen = append(state[name], x_BT)
        kept = seen.shape[1] if window is None else min(seen.shape[1], window - 1)
        state[name] = seen if kept == seen.shape[1] else seen[:, seen.shape[1] - kept :].clone()
        reach[name] = seen.to(x_BT.dtype)
    return reach, None


def _put(cache_BC: Tensor, new_B1: Tensor, position_B: Tensor) -> None:
    B, C = cache_BC.shape[:2]
    slot = (position_B % C).view(B, *[1] * (cache_BC.ndim - 1)).expand_as(new_B1)
    cache_BC.scatter_(1, slot, new_B1.to(cache_BC.dtype))


def _visible(position_B: Tensor, slots_C: Tensor, window: int | None) -> Tensor:
    """[B,C] bool, for a token at ``position_B`` that is in its slot already."""
    age_BC = (position_B[:, None] - slots_C) % slots_C.shape[0]
    visible_BC = age_BC <= position_B[:, None]
    return visible_BC if window is None else visible_BC & (age_BC < window)


def fixed(state: State, batch_size: int, length: int, capacity: int) -> State:
    """An empty state of the fixed form for rows like those of the growing ``state`` after ``length`` tokens.

    Caches that have dropped tokens get room for their window, others for ``capacity`` tokens; entries that do not grow
    keep their shape.
    """
    made = {name: x.new_zeros(batch_size, *x.shape[1:]) for name, x in state.items() if name not in CACHES}
    for name in state.keys() & set(CACHES):
        kept = state[name].shape[1]
        slots = capacity if kept == length else kept + 1
        made[name] = state[name].new_zeros(batch_size, slots, *state[name].shape[2:])
        made[SLOTS] = torch.arange(slots, device=state[name].device)
    return made


def place(made: State, rows: Tensor, state: State, length: int) -> None:
    """Copies the growing ``state`` of ``len(rows)`` sequences, all ``length`` tokens long, into those rows."""
    for name, x in state.items():
        if name in CACHES:
            kept, C = x.shape[1], made[name].shape[1]
            slots = torch.arange(max(length - kept, length - C), length, device=x.device) % C
            made[name][rows[:, None], slots] = x[:, kept - len(slots) :].to(made[name].dtype)
        else:
            made[name][rows] = x


def widened(state: State, old: int, new: int) -> State:
    """A fixed state with room for ``new`` tokens where it had room for all of ``old``; windows keep theirs."""
    if SLOTS not in state or state[SLOTS].shape[0] != old:
        return {name: x.clone() for name, x in state.items()}
    grown = {name: x.clone() for name, x in state.items() if name not in CACHES}
    grown[SLOTS] = torch.arange(new, device=state[SLOTS].device)
    for name in state.keys() & set(CACHES):
        x = state[name]
        grown[name] = x.new_zeros(x.shape[0], new, *x.shape[2:])
        grown[name][:, :old] = x
    return grown


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
