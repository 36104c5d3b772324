"""The forward pass: o from q, k and v by one scan forward in time (`scan`)."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .places import slot
from .scan import NOTHING, scan
from .summed_decays import decay_from
from .tiles import CHANNEL, NONE, first_row, rows, segment


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def forward_scan(
    q, k, v, decay, scores, total, initial, o, final, cu_seqlens,
    initial_sums, final_sums, inverse, value_scale, skip, scale, T, segment_length, segments, H,
    q_strides, k_strides, v_strides, o_strides, decay_strides, scores_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr, FULL_K: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr, AHEAD: tl.constexpr, NEAR: tl.constexpr,
    ONE_CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, segments * H). initial, final: [segments, H, K, V] or None; with AHEAD of whole sequences,
    and every segment first scans what came before it, AHEAD tokens at once, for its state alone (`split.cut`).

    value_scale [B, T, H], skip [H]: or None.
    With the normaliser (else None): inverse [B, T, H], 1 / den; initial_sums, final_sums: z [segments, H, K].
    """
    first_v = tl.program_id(0) * BLOCK
    i_segment, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_segment, cu_seqlens, T, segment_length, segments, VARLEN)
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, FULL_K, NEAR)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, FULL_K, NEAR)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, BLOCK, NEAR)
    o_rows = rows(o, o_strides, batch, start, head, length, V, TIME, BLOCK, NEAR)
    o_v, o_k = first_v + tl.arange(0, BLOCK), tl.arange(0, FULL_K)
    of_state = sequence if AHEAD else i_segment
    place = (of_state.to(tl.int64) * H + head) * K * V + o_k[None, :] * V + o_v[:, None]
    inside = (o_v[:, None] < V) & (o_k[None, :] < K)
    if initial is not None:
        state = tl.load(initial + place, mask=inside, other=0.0)
    else:
        state = tl.zeros([BLOCK, FULL_K], tl.float32)
    if AHEAD:
        first = start * 0
        before = tl.maximum(start, 1)  # no descriptor can be made of no rows
        decay_before = None
        total_before = None
        if KIND == CHANNEL:
            total_before = total + (slot(sequence, first, T, TIME, VARLEN) * H + head) * K
        elif KIND != NONE:
            decay_before = decay + first_row(decay_strides, batch, first, head)
        state, _ = scan(
            None, rows(k, k_strides, batch, first, head // GROUP, before, K, AHEAD, FULL_K, NEAR),
            rows(v, v_strides, batch, first, head, before, V, AHEAD, BLOCK, NEAR), None, state, first_v, start, scale,
            decay_before, decay_strides[1], total_before, None, H, None, None, 0, None, 0, None, o_v, o_k, 0, 0, False,
            None if value_scale is None else value_scale + (batch * T).to(tl.int64) * H + head,
            None, None, None, None, None,
            K, V, K, AHEAD, STAGES, 1, KIND, PRECISE, False, False, NOTHING, True,
        )  # fmt: skip
    score_rows = None
    if KIND == CHANNEL:
        score_rows = rows(scores, scores_strides, batch, start, head, length, TIME, TIME, TIME, NEAR)
        total += (slot(sequence, start, T, TIME, VARLEN) * H + head) * K
    elif KIND != NONE:
        decay = decay_from(decay, decay_strides, batch, start, head, sequence, T, H, TIME, KIND, VARLEN)
    if value_scale is not None:
        value_scale += (batch * T + start).to(tl.int64) * H + head
    if skip is not None:
        skip += head
    place_of_sums = (i_segment.to(tl.int64) * H + head) * K + o_k
    if inverse is not None:
        inverse += (batch * T + start).to(tl.int64) * H + head
        sums = tl.zeros([FULL_K], tl.float32)
        if initial_sums is not None:
            sums = tl.load(initial_sums + place_of_sums, mask=o_k < K, other=0.0)
    else:
        sums = None
    state, sums = scan(
        q_rows, k_rows, v_rows, o_rows, state, first_v, length, scale,
        decay, decay_strides[1], total, score_rows, H, None, None, 0, None, 0, None, o_v, o_k, 0, 0, first_v == 0,
        value_scale, None, inverse, sums, None, skip,
        K, V, K, TIME, STAGES, 1, KIND, PRECISE, False, False, NOTHING, True, ONE_CHUNK,
    )  # fmt: skip
    if final is not None and (AHEAD == 0 or start + length == T):
        tl.store(final + place, state, mask=inside)
    if final_sums is not None:
        tl.store(final_sums + place_of_sums, sums, mask=(o_k < K) & (first_v == 0))
