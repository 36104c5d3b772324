"""The split along T: with too few heads and sequences to fill the GPU, segments of a sequence are scanned at once.

1. `segment_states`: every segment's state from a zero start, and its decay. 2. `carry_states`: one short scan over
these gives each segment's true initial state. 3. The forward scan then runs on all segments side by side. Where a
sequence is short each segment scans what came before it itself, and 3 is all.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Inputs, ceil_div, padded, provide_descriptor_memory, strides
from .places import slot
from .tiles import CHANNEL, NONE, dot, first_row, load, power, rows, scalar_decay, segment

PROGRAMS_PER_MULTIPROCESSOR = 2  # that many scans run on one at a time
SHORTEST = 2  # chunks of a segment: with fewer, passing its state on costs more than it saves
FEWEST = 3  # segments: two read keys and values once more for no gain
SHORT = 16  # chunks of a sequence whose segments scan again what came before
NEAR = 8  # chunks of a segment too short for descriptors (`tiles.rows`)
TILES = 1 << 15  # elements of k and v in shared memory


@dataclass(frozen=True)
class Cut:
    """How the forward pass cuts each sequence along T."""

    count: int
    """Segments."""
    length: int
    """Tokens of a segment, but for the last."""
    ahead: int = 0
    """Tokens that a segment takes at once of what came before it, for its own initial state; 0 where states are passed
    on (`initial_states`)."""
    near: bool = False
    """Whether segments are read by pointers."""

    @property
    def passes_states_on(self) -> bool:
        """Whether `initial_states` is needed."""
        return self.count > 1 and not self.ahead


def cut(x: Inputs) -> Cut:
    """As many segments as fill the GPU; packed sequences are not cut."""
    _, T, H, _, V = x.sizes
    if x.cu_seqlens is not None:
        return Cut(1, T)
    chunks = ceil_div(T, x.tiling.time)
    # How many times a scan by one program a sequence, head and block of values fits onto the GPU.
    room = multiprocessors(x.v.device) / (x.sequences * H * ceil_div(V, x.tiling.block))
    # A short sequence's segments had better scan all that came before them once more, for its state alone, than have it
    # passed on. In float32 two scans in one kernel are too many registers.
    if chunks <= SHORT and not x.normalize and x.v.dtype != torch.float32:
        count = min(int(room if room >= 2 else PROGRAMS_PER_MULTIPROCESSOR * room), chunks)
        return _of_segments(x, count, _ahead(x)) if count > 1 else Cut(1, T)
    count = int(min(PROGRAMS_PER_MULTIPROCESSOR * room, chunks // SHORTEST))
    return _of_segments(x, count, 0) if count >= FEWEST else Cut(1, T)


def _of_segments(x: Inputs, count: int, ahead: int) -> Cut:
    """About `count` segments of whole chunks; pointers for the short ones, if float32 or Mamba-2's step leave registers
    for them."""
    T, time = x.sizes[1], x.tiling.time
    length = ceil_div(ceil_div(T, time), count) * time
    near = length <= NEAR * time and x.v.dtype != torch.float32 and x.value_scale is None
    return Cut(ceil_div(T, length), length, ahead, near)


def _ahead(x: Inputs) -> int:
    """More than a chunk, as the state is all that is wanted, as far as shared memory holds k and v twice. A decay per
    channel comes by chunks, and Mamba-2's step takes too many registers."""
    *_, K, V = x.sizes
    if x.kind == "channel" or x.value_scale is not None:
        return x.tiling.time
    return max(x.tiling.time, min(4 * x.tiling.time, TILES // (2 * padded(max(K, V)))))


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1, so no split, of a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def initial_states(
    x: Inputs,
    k: Tensor,
    total: Tensor | None,
    group: int,
    initial: tuple[Tensor | None, Tensor | None],
    pieces: Cut,
    want_final: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Each segment's initial state [B * count, H, K, V] and z [B * count, H, K], and if wanted the final ones of B.

    initial: those of the sequences. z (`normaliser`) is None without the normaliser.

    k, total: weighted, and the log2 decay of chunks, for a decay per channel (`scans.Weighted`); group: heads per head
    of k. `carry_states` takes z as states of one column.
    """
    provide_descriptor_memory(x.v.device)
    (B, T, H, K, V), count = x.sizes, pieces.count
    states = x.v.new_empty((B * count, H, K, V), dtype=torch.float32)
    per_channel = x.kind == "channel"
    decays = x.v.new_empty((B * count, H, K if per_channel else 1), dtype=torch.float32)
    sums = x.v.new_empty((B * count, H, K), dtype=torch.float32) if x.normalize else None
    block = x.tiling.block
    segment_states[(ceil_div(V, block), B * count * H)](
        k, x.v, None if per_channel else x.decay, total, states, sums, decays, T, pieces.length, count, H,
        strides(k), strides(x.v), x.decay_strides(),
        GROUP=group, FULL_K=padded(K), NEAR=pieces.near, **x.constants(),
    )  # fmt: skip
    final = x.v.new_empty((B, H, K, V), dtype=torch.float32) if want_final else None
    final_sums = x.v.new_empty((B, H, K), dtype=torch.float32) if want_final and x.normalize else None
    for of_segments, at_start, at_end, columns in ((states, initial[0], final, V), (sums, initial[1], final_sums, 1)):
        if of_segments is not None:
            carry_states[(ceil_div(K, CARRY), B * H)](
                of_segments, decays, at_start, at_end, count, H,
                K=K, V=columns, BLOCK_K=CARRY, FULL_V=padded(columns), PER_CHANNEL=per_channel, num_warps=4,
            )  # fmt: skip
    return states, sums, final, final_sums


CARRY = 8  # rows of the state that a program of `carry_states` holds


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def segment_states(
    k, v, decay, total, states, sums, decays, T, segment_length, segments, H, k_strides, v_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr, FULL_K: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, segments * H). states [segments, H, K, V] from zero, decays [segments, H, K or 1] (log2).

    sums [segments, H, K]: z from zero, or None.
    """
    first_v = tl.program_id(0) * BLOCK
    i_segment, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_segment, None, T, segment_length, segments, VARLEN)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, FULL_K, NEAR)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, BLOCK, NEAR)
    o_v, o_k = first_v + tl.arange(0, BLOCK), tl.arange(0, FULL_K)
    if KIND == CHANNEL:
        total += (slot(sequence, start, T, TIME, VARLEN) * H + head) * K
    elif KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    state = tl.zeros([BLOCK, FULL_K], tl.float32)
    all_decay = tl.zeros([FULL_K], tl.float32) if KIND == CHANNEL else 0.0
    if sums is not None:
        z = tl.zeros([FULL_K], tl.float32)
    for first in tl.range(0, length, TIME, num_stages=STAGES):
        b_k = load(k_rows, first, 0)
        value_t = tl.trans(load(v_rows, first, first_v))
        if KIND == CHANNEL:
            c = tl.load(total + (first // TIME) * H * K + o_k, mask=o_k < K, other=0.0)
            state *= power(c)[None, :]
            all_decay += c
        elif KIND != NONE:
            c, all_c = scalar_decay(decay, decay_strides[1], first, length, TIME, KIND, PRECISE)
            value_t = (value_t.to(tl.float32) * power(all_c - c)[None, :]).to(b_k.dtype)
            state *= power(all_c)
            all_decay += all_c.to(tl.float32)
            if sums is not None:
                z = z * power(all_c) + tl.sum(b_k.to(tl.float32) * power(all_c - c)[:, None], 0)
        elif sums is not None:
            z += tl.sum(b_k.to(tl.float32), 0)
        state = dot(value_t, b_k, state)
    place = i_segment.to(tl.int64) * H + head
    inside = (o_v[:, None] < V) & (o_k[None, :] < K)
    tl.store(states + place * K * V + o_k[None, :] * V + o_v[:, None], state, mask=inside)
    if first_v == 0:
        if KIND == CHANNEL:
            tl.store(decays + place * K + o_k, all_decay, mask=o_k < K)
        else:
            tl.store(decays + place, all_decay)
        if sums is not None:
            tl.store(sums + place * K + o_k, z, mask=o_k < K)


@triton.jit(do_not_specialize=["segments"])
def carry_states(
    states, decays, initial, final, segments, H,
    K: tl.constexpr, V: tl.constexpr, BLOCK_K: tl.constexpr, FULL_V: tl.constexpr, PER_CHANNEL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of K, B * H): replace each segment's own state by the one it starts from."""
    o_k, o_v = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, FULL_V)
    batch, head = tl.program_id(1) // H, tl.program_id(1) % H
    inside = (o_k[:, None] < K) & (o_v[None, :] < V)
    tile = o_k[:, None] * V + o_v[None, :]
    sequence = tl.program_id(1).to(tl.int64) * K * V
    state = tl.zeros([BLOCK_K, FULL_V], tl.float32)
    if initial is not None:
        state = tl.load(initial + sequence + tile, mask=inside, other=0.0)
    for i in range(segments):
        place = (batch.to(tl.int64) * segments + i) * H + head
        own = tl.load(states + place * K * V + tile, mask=inside, other=0.0)
        if PER_CHANNEL:
            keep = power(tl.load(decays + place * K + o_k, mask=o_k < K, other=0.0))[:, None]
        else:
            keep = power(tl.load(decays + place))
        tl.store(states + place * K * V + tile, state, mask=inside)
        state = state * keep + own
    if final is not None:
        tl.store(final + sequence + tile, state, mask=inside)
