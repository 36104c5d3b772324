"""The backward pass where heads share q and k (Mamba-2's groups), as kernels.

Gradients of q and k are sums over a group's heads. A scan for each head would write them per head only to be added up;
here the scans leave their states, and one program a chunk and group then goes over the heads, with the group's q and k
at hand, for dk and, when S has taken the place of dS in memory, for dq:

    W_ij = do_i . v_j 2^(c_i - c_j)
    dq_i = scale sum over heads of (2^c_i S do_i + sum over j <= i of W_ij k_j)
    dk_j = scale sum over heads of (2^(C - c_j) dS v_j + sum over i >= j of W_ij q_i)

with S before the chunk and dS after it. Both need the W_ij only summed over the heads. The decay's gradient is `scan`'s
sum, complete for each chunk. With a value_scale, W_ij and dS v_j have it as a factor.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .normaliser import of_tokens
from .places import slot, tokens_of
from .scan import EXCHANGE, LEAVE, scan
from .tiles import NONE, dot, first_row, power, rows, rows_at, scalar_decay, segment


@triton.jit(do_not_specialize=["T"])
def chunk_states(
    k, v, decay, value_scale, initial, saved, crossing, cu_seqlens, T, H, count, k_strides, v_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, sequences * H). saved [places, H, V, K]: dS^T after each chunk, replaced by S^T before it.

    crossing: [blocks of V, places, H], <S, dS>, or None.
    """
    first_v = tl.program_id(0) * BLOCK
    i_sequence, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_sequence, cu_seqlens, T, T, 1, VARLEN)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, K)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, BLOCK)
    place = slot(sequence, start, T, TIME, VARLEN) * H + head
    saved += place * K * V
    if crossing is not None:
        crossing += tl.program_id(0).to(tl.int64) * count * H + place
    if KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    if value_scale is not None:
        value_scale += (batch * T + start).to(tl.int64) * H + head
    o_v, o_k = first_v + tl.arange(0, BLOCK), tl.arange(0, K)
    if initial is not None:
        at = (i_sequence.to(tl.int64) * H + head) * K * V + o_k[None, :] * V + o_v[:, None]
        state = tl.load(initial + at, mask=o_v[:, None] < V, other=0.0)
    else:
        state = tl.zeros([BLOCK, K], tl.float32)
    scan(
        None, k_rows, v_rows, None, state, first_v, length, 1.0, decay, decay_strides[1], None, None, H,
        None, None, 0, crossing, 0, saved, o_v, o_k, K, 1, True,
        value_scale, None, None, None, None, None,
        K, V, K, TIME, STAGES, 1, KIND, PRECISE, False, False, LEAVE if crossing is None else EXCHANGE, True,
    )  # fmt: skip


@triton.jit(do_not_specialize=["T"])
def group_key_gradients(
    q, k, v, do, decay, value_scale, d_states, dk, weights, arrived, remaining, d_scale, d_skip, sequence_of,
    cu_seqlens, scale, T, H, count,
    q_strides, k_strides, v_strides, do_strides, decay_strides, dk_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (places, groups). d_states [places, H, V, K]: dS^T after each chunk. dk: [B, T, groups, K].

    weights: [places, groups, TIME, TIME], W summed over a group's heads, for `group_query_gradients`. For the decay's
    gradient, or None: arrived [places, H, TIME], k . dk through dS, and remaining, q . dq - k . dk less q . dq through
    S. value_scale, d_scale: [B, T, H] float32, contiguous, or None. d_skip: [places, H], for its sum over the places,
    or None. count: of places.
    """
    place, group = tl.program_id(0), tl.program_id(1)
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i = tl.arange(0, TIME)
    reaches = i[:, None] >= i[None, :]
    b_q = rows(q, q_strides, batch, start, group, length, K, TIME, K).load([0, 0])
    b_k = rows(k, k_strides, batch, start, group, length, K, TIME, K).load([0, 0])
    # The group's heads lie side by side in a row, V columns each.
    v_rows = rows_at(v + first_row(v_strides, batch, start, group * GROUP), v_strides[1], length, GROUP * V, TIME, V)
    do += first_row(do_strides, batch, start, group * GROUP)
    do_rows = rows_at(do, do_strides[1], length, GROUP * V, TIME, V)
    d_states_of = rows_at(d_states, K, count * H * V, K, V, K)
    if KIND != NONE:
        decay += first_row(decay_strides, batch, start, group * GROUP)
    if arrived is not None or d_scale is not None:
        products = dot(b_q, tl.trans(b_k))
    if value_scale is not None:
        value_scale += (batch * T + start).to(tl.int64) * H + group * GROUP
    if d_scale is not None:
        d_scale += (batch * T + start).to(tl.int64) * H + group * GROUP
    first_head = place * H + group * GROUP
    b_dk = tl.zeros([TIME, K], tl.float32)
    all_weights = tl.zeros([TIME, TIME], tl.float32)
    for i_head in tl.range(GROUP, num_stages=STAGES):
        b_d_state = d_states_of.load([((first_head + i_head) * V).to(tl.int32), 0])
        b_v = v_rows.load([0, i_head * V])
        b_do = do_rows.load([0, i_head * V])
        if KIND != NONE:
            of_head = decay + i_head * decay_strides[2]
            c, all_c = scalar_decay(of_head, decay_strides[1], 0, length, TIME, KIND, PRECISE)
        b_weights = dot(b_do, tl.trans(b_v))
        if d_skip is not None:
            of_skip = tl.sum(tl.where(i[:, None] == i[None, :], b_weights, 0.0))
            tl.store(d_skip + first_head + i_head, of_skip)
        if KIND != NONE:
            b_weights *= power(c[:, None] - c[None, :])
        b_weights = tl.where(reaches, b_weights, 0.0)
        if value_scale is not None:
            b_scale = of_tokens(value_scale + i_head, 0, length, H, True, TIME)
            of_scale = tl.sum(b_weights * products, 0)
            b_weights *= b_scale[None, :]
        all_weights += b_weights
        to_state = dot(b_v, b_d_state)
        if KIND != NONE:
            to_state *= power(all_c - c)[:, None]
        if value_scale is not None:
            of_scale += tl.sum(to_state * b_k, 1)
            tl.store(d_scale + i.to(tl.int64) * H + i_head, of_scale * scale, mask=i < length)
            to_state *= b_scale[:, None]
        b_dk += to_state
        if arrived is not None:
            at = (first_head + i_head).to(tl.int64) * TIME + i
            b_arrived = tl.sum(to_state * b_k, 1)
            b_weights *= products
            tl.store(arrived + at, b_arrived)
            tl.store(remaining + at, tl.sum(b_weights, 1) - tl.sum(b_weights, 0) - b_arrived)
    all_weights = all_weights.to(b_q.dtype)
    weights += (place.to(tl.int64) * (H // GROUP) + group) * TIME * TIME
    tl.store(weights + i[:, None] * TIME + i[None, :], all_weights)
    b_dk = (b_dk + tl.trans(dot(tl.trans(b_q), all_weights))) * scale
    rows(dk, dk_strides, batch, start, group, length, K, TIME, K).store([0, 0], b_dk.to(b_k.dtype))


@triton.jit(do_not_specialize=["T"])
def group_query_gradients(
    q, k, do, decay, states, dq, weights, crossing, arrived, remaining, d_decay, sequence_of, cu_seqlens,
    scale, T, H, count, q_strides, k_strides, do_strides, decay_strides, dq_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Grid (places, groups). states [places, H, V, K]: S^T before each chunk. dq: [B, T, groups, K].

    d_decay: [B, T, H] float32, contiguous, or None. crossing: [BLOCKS, places, H]. The rest is from
    `group_key_gradients`.
    """
    place, group = tl.program_id(0), tl.program_id(1)
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i = tl.arange(0, TIME)
    b_q = rows(q, q_strides, batch, start, group, length, K, TIME, K).load([0, 0])
    do += first_row(do_strides, batch, start, group * GROUP)
    do_rows = rows_at(do, do_strides[1], length, GROUP * V, TIME, V)
    states_of = rows_at(states, K, count * H * V, K, V, K)
    if KIND != NONE:
        decay += first_row(decay_strides, batch, start, group * GROUP)
    if d_decay is not None:
        d_decay += (batch * T + start).to(tl.int64) * H + group * GROUP
    first_head = place * H + group * GROUP
    b_dq = tl.zeros([TIME, K], tl.float32)
    for i_head in tl.range(GROUP, num_stages=STAGES):
        b_state = states_of.load([((first_head + i_head) * V).to(tl.int32), 0])
        from_state = dot(do_rows.load([0, i_head * V]), b_state)
        if KIND != NONE:
            of_head = decay + i_head * decay_strides[2]
            c, all_c = scalar_decay(of_head, decay_strides[1], 0, length, TIME, KIND, PRECISE)
            from_state *= power(c)[:, None]
        b_dq += from_state
        if d_decay is not None:
            at = (first_head + i_head).to(tl.int64) * TIME + i
            across = 0.0
            for block in tl.static_range(BLOCKS):
                across += tl.load(crossing + tl.cast(block * count * H, tl.int64) + first_head + i_head)
            left = tl.sum(from_state * b_q, 1) + tl.load(remaining + at)
            gradient = across * power(all_c) + tl.sum(tl.load(arrived + at), 0) + tl.cumsum(left, 0, reverse=True)
            tl.store(d_decay + i.to(tl.int64) * H + i_head, gradient * scale, mask=i < length)
    b_k = rows(k, k_strides, batch, start, group, length, K, TIME, K).load([0, 0])
    weights += (place.to(tl.int64) * (H // GROUP) + group) * TIME * TIME
    all_weights = tl.load(weights + i[:, None] * TIME + i[None, :])
    b_dq = dot(all_weights, b_k, b_dq) * scale
    rows(dq, dq_strides, batch, start, group, length, K, TIME, K).store([0, 0], b_dq.to(b_q.dtype))
