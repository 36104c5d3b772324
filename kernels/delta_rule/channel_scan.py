"""The scan over chunks, forward and backward in time, and what its states give to each token.

| pass     | time     | state | reader | key | extra key, value | written | outputs                         |
|----------|----------|-------|--------|-----|------------------|---------|---------------------------------|
| forward  | forward  | S     | W      | b^  | k^, v (dplr)     | u       | o = q~ S + <q, k> v + <q, b> u  |
| backward | backward | dS    | W'     | a~  | q~, do           | dz      | dv = k^ dS' + <q, k>^T do + <a, k>^T dz |

    written = reader state + offset,    state' = 2^C state + key^T written + extra_key^T extra_value

The scan keeps the state transposed, [V, K], so that it and `written` enter the matrix units from registers, and leaves
behind the state that each chunk reads; everything else is parallel over chunks.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from ..gated_linear_attention.chunk_tiles import tile
from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import dot, power
from .channel_scores import load_beta, own_tile


@triton.jit(do_not_specialize=["T"])
def scan_states(
    reader, written, key, extra_key, extra_value, total, states, initial, final, cu_seqlens, T, H, value_strides,
    K: tl.constexpr, V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TIME: tl.constexpr,
    BLOCK: tl.constexpr, VARLEN: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, N * H). reader, key, extra_key: [places, H, TIME, K_WIDTH].

    written: [places, H, TIME, V_WIDTH], holds the offset and receives what is written. extra_value: [B, T, H, V].
    states: [places, H, V_WIDTH, K_WIDTH], each chunk's before it. initial, final: float32 [N, H, K, V] or None.
    """
    sequence, head = tl.program_id(1) // H, tl.program_id(1) % H
    if VARLEN:
        start = tl.load(cu_seqlens + sequence)
        length = tl.load(cu_seqlens + sequence + 1) - start
        first_place = start // TIME + sequence
        batch = sequence * 0
    else:
        start = sequence * 0
        length = T + start
        first_place = sequence * tl.cdiv(T, TIME)
        batch = sequence
    i, o_k = tl.arange(0, TIME), tl.arange(0, K_WIDTH)
    o_v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dtype = reader.dtype.element_ty
    state = tl.zeros([BLOCK, K_WIDTH], tl.float32)
    inside = (o_k[None, :] < K) & (o_v[:, None] < V)
    outer = (sequence.to(tl.int64) * H + head) * K * V + o_k[None, :] * V + o_v[:, None]
    if initial is not None:
        state = tl.load(initial + outer, mask=inside, other=0.0)
    chunks = tl.cdiv(length, TIME)
    for step in range(chunks):
        i_chunk = chunks - 1 - step if BACKWARD else step
        place = first_place + i_chunk
        b_reader = tl.load(own_tile(reader, place, head, H, i, o_k, TIME, K_WIDTH))
        to_written = own_tile(written, place, head, H, i, o_v, TIME, V_WIDTH)
        offset = tl.load(to_written)
        b_key = tl.load(own_tile(key, place, head, H, i, o_k, TIME, K_WIDTH))
        narrow = state.to(dtype)
        tl.store(own_tile(states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH), narrow)
        b_written = dot(narrow, tl.trans(b_reader), tl.trans(offset).to(tl.float32)).to(dtype)
        tl.store(to_written, tl.trans(b_written))
        state *= power(tl.load(total + (place.to(tl.int64) * H + head) * K_WIDTH + o_k))[None, :]
        state = dot(b_written, b_key, state)
        if extra_key is not None:
            first = start + i_chunk * TIME
            there = (i[:, None] < length - i_chunk * TIME) & (o_v[None, :] < V)
            value = tl.load(tile(extra_value, value_strides, batch, first, head, i, o_v, V), mask=there, other=0.0)
            b_extra = tl.load(own_tile(extra_key, place, head, H, i, o_k, TIME, K_WIDTH))
            state = dot(tl.trans(value), b_extra, state)
    if final is not None:
        tl.store(final + outer, state, mask=inside)


@triton.jit(do_not_specialize=["T"])
def read_states(
    reader, states, scores, given, solved_scores, solved, out, sequence_of, cu_seqlens, T, H, given_strides,
    out_strides, V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TIME: tl.constexpr,
    BLOCK: tl.constexpr, VARLEN: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Grid (places * H, blocks of V). out [B, T, H, V] = reader state + scores given + solved_scores solved.

    given: [B, T, H, V], or None with its scores. solved: [places, H, TIME, V_WIDTH]. BACKWARD: scores transposed.
    """
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i, o_k = tl.arange(0, TIME), tl.arange(0, K_WIDTH)
    o_v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (i[:, None] < length) & (o_v[None, :] < V)
    b_reader = tl.load(own_tile(reader, place, head, H, i, o_k, TIME, K_WIDTH))
    b_state = tl.load(own_tile(states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH))
    b_solved_scores = tl.load(own_tile(solved_scores, place, head, H, i, i, TIME, TIME))
    b_solved = tl.load(own_tile(solved, place, head, H, i, o_v, TIME, V_WIDTH))
    if scores is not None:
        b_scores = tl.load(own_tile(scores, place, head, H, i, i, TIME, TIME))
        b_given = tl.load(tile(given, given_strides, batch, start, head, i, o_v, V), mask=inside, other=0.0)
    b_out = dot(b_reader, tl.trans(b_state))
    b_out = dot(tl.trans(b_solved_scores) if BACKWARD else b_solved_scores, b_solved, b_out)
    if scores is not None:
        b_out = dot(tl.trans(b_scores) if BACKWARD else b_scores, b_given, b_out)
    tl.store(tile(out, out_strides, batch, start, head, i, o_v, V), b_out.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T"])
def beta_gradients(
    dz, v, beta, along_keys, dv, d_beta, sequence_of, cu_seqlens, T, H, v_strides, beta_strides, dv_strides,
    d_beta_strides, V: tl.constexpr, V_WIDTH: tl.constexpr, TIME: tl.constexpr, PARTS: tl.constexpr,
    VARLEN: tl.constexpr,
):  # fmt: skip
    """The delta rule's dv = beta dz and d_beta = v . dz - k . da. Grid (places * H).

    along_keys: float32 [places, H, PARTS, TIME], k . da of each block of channels (`channel_gradients`).
    """
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i, o_v = tl.arange(0, TIME), tl.arange(0, V_WIDTH)
    inside = (i[:, None] < length) & (o_v[None, :] < V)
    b_dz = tl.load(own_tile(dz, place, head, H, i, o_v, TIME, V_WIDTH)).to(tl.float32)
    b_v = tl.load(tile(v, v_strides, batch, start, head, i, o_v, V), mask=inside, other=0.0)
    b_beta = load_beta(beta, beta_strides, batch, start, head, length, i)
    b_dv = (b_dz * b_beta[:, None]).to(dv.dtype.element_ty)
    tl.store(tile(dv, dv_strides, batch, start, head, i, o_v, V), b_dv, mask=inside)
    b_d_beta = tl.sum(b_dz * b_v, 1)
    along_keys += tl.program_id(0).to(tl.int64) * PARTS * TIME
    for part in tl.static_range(PARTS):
        b_d_beta -= tl.load(along_keys + part * TIME + i)
    out = d_beta + batch.to(tl.int64) * d_beta_strides[0] + (start + i).to(tl.int64) * d_beta_strides[1]
    tl.store(out + head * d_beta_strides[2], b_d_beta.to(d_beta.dtype.element_ty), mask=i < length)
