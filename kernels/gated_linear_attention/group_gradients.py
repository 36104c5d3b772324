"""The backward pass where heads share q and k (Mamba-2's groups), as kernels.

Gradients of q and k are sums over a group's heads. A scan for each head would write them per head only to be added up;
here the scans leave their states, and one program a chunk and group then goes over the heads, with the group's q and k
at hand: for the weights between tokens W, for dk and, when S has taken the place of dS in memory, for dq:

    W_ij = do_i . v_j 2^(c_i - c_j)
    dq_i = scale sum over heads of (2^c_i S do_i + sum over j <= i of W_ij k_j)
    dk_j = scale sum over heads of (2^(C - c_j) dS v_j + sum over i >= j of W_ij q_i)

States are left at every second chunk only, as they are most of what moves: S before a pair of chunks, dS after it, c
the decay inside the pair and C through all of it. W then is three tiles: of a pair's first chunk, of its second chunk's
queries with the first's keys, and of its second. dq and dk need the W_ij only summed over the heads. The decay's
gradient is `scan`'s sum, complete for each pair. With a value_scale, W_ij and dS v_j have it as a factor.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .places import slot, tokens_of
from .scan import EXCHANGE, PARTS, scan
from .summed_decays import PAIR, decay_from
from .tiles import NONE, dot, first_row, power, rows, rows_at, segment


@triton.jit(do_not_specialize=["T"])
def chunk_states(
    k, v, decay, value_scale, initial, saved, crossing, cu_seqlens, T, H, count, k_strides, v_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, sequences * H). saved [places, H, V, K]: dS^T after each pair, replaced by S^T before it.

    crossing: [blocks of V, places, H], <S, dS>, or None.
    """
    first_v = tl.program_id(0) * BLOCK
    i_sequence, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_sequence, cu_seqlens, T, T, 1, VARLEN)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, K)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, BLOCK)
    place = slot(sequence, start, T, TIME * PAIR, VARLEN) * H + head
    saved += place * K * V
    if crossing is not None:
        crossing += tl.program_id(0).to(tl.int64) * count * H + place
    if KIND != NONE:
        decay = decay_from(decay, decay_strides, batch, start, head, sequence, T, H, TIME, KIND, VARLEN)
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
        K, V, K, TIME, STAGES, PAIR, KIND, PRECISE, False, False, EXCHANGE, True,
    )  # fmt: skip


@triton.jit
def chunk_of(i_chunk, sequence_of, cu_seqlens, T, TIME: tl.constexpr, VARLEN: tl.constexpr):
    """Where a chunk lies: (its pair, whether it is the pair's first, batch, the pair's first token, tokens from there
    to the sequence's end, the chunk's first row in the pair).
    """
    pair, is_first = i_chunk // PAIR, i_chunk % PAIR == 0
    batch, start, length = tokens_of(pair, sequence_of, cu_seqlens, T, TIME * PAIR, VARLEN)
    return pair, is_first, batch, start, length, i_chunk % PAIR * TIME


@triton.jit(do_not_specialize=["T", "tokens"])
def group_weights(
    q, k, v, do, decays, value_scale, weights, of_queries, of_keys, d_skip,
    sequence_of, cu_seqlens, T, H, tokens, q_strides, k_strides, v_strides, do_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (3 * places, groups), a program a tile of W. weights: [places, groups, 3, TIME, TIME], W summed over a
    group's heads: of the first chunk, of the second's queries with the first's keys, of the second.

    of_queries, of_keys [2, H, tokens], or None: what a head's W gives to q . dq and, but for value_scale, k . dk,
    without the scale; first inside chunks, then from a pair's first chunk to its second, which alone they are read for.
    d_skip: [2 * places, H, PARTS], or None, for its sum over all but the heads.
    """
    place, tile, group = tl.program_id(0) // 3, tl.program_id(0) % 3, tl.program_id(1)
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME * PAIR, VARLEN)
    crosses = tile == 1
    of_query, of_key = (tile + 1) // 2, tile // 2  # their chunks
    first_q, first_k = of_query * TIME, of_key * TIME
    if length <= first_k:
        return
    i = tl.arange(0, TIME)
    reaches = (i[:, None] >= i[None, :]) | crosses  # else what is read must be finite, as it is made 0 in the end
    b_q = rows(q, q_strides, batch, start, group, length, K, TIME, K).load([first_q, 0])
    b_k = rows(k, k_strides, batch, start, group, length, K, TIME, K).load([first_k, 0])
    # The group's heads lie side by side in a row, V columns each.
    v_rows = rows_at(v + first_row(v_strides, batch, start, group * GROUP), v_strides[1], length, GROUP * V, TIME, V)
    do += first_row(do_strides, batch, start, group * GROUP)
    do_rows = rows_at(do, do_strides[1], length, GROUP * V, TIME, V)
    if of_queries is not None:
        products = tl.where(reaches, dot(b_q, tl.trans(b_k)), 0.0)
    token = batch * T + start + i
    is_key, is_query = first_k + i < length, first_q + i < length
    all_weights = tl.zeros([TIME, TIME], tl.float32)
    for i_head in tl.range(GROUP, num_stages=STAGES):
        head = group * GROUP + i_head
        b_weights = dot(do_rows.load([first_q, i_head * V]), tl.trans(v_rows.load([first_k, i_head * V])))
        if d_skip is not None:
            of_skip = tl.reshape(tl.where(i[:, None] == i[None, :], b_weights, 0.0), [PARTS, TIME * TIME // PARTS])
            at = ((place * PAIR + of_key) * H + head).to(tl.int64) * PARTS + tl.arange(0, PARTS)
            tl.store(d_skip + at, tl.sum(of_skip, 1), mask=tile != 1)
        if KIND != NONE:
            c_key = decays + ((place * PAIR + of_key) * H + head).to(tl.int64) * TIME
            c_query = decays + ((place * PAIR + of_query) * H + head).to(tl.int64) * TIME
            between = tl.where(crosses, tl.load(c_key + TIME - 1), 0.0)
            exponent = tl.load(c_query + i)[:, None] + (between - tl.load(c_key + i))[None, :]
            b_weights *= power(tl.minimum(exponent, 0.0))
        if value_scale is not None:
            b_scale = tl.load(value_scale + (token + first_k).to(tl.int64) * H + head, mask=is_key, other=0.0)
            all_weights += b_weights * b_scale[None, :]
        else:
            all_weights += b_weights
        if of_queries is not None:
            b_weights *= products
            at = (tl.where(crosses, H, 0) + head).to(tl.int64) * tokens + token
            tl.store(of_keys + at + first_k, tl.sum(b_weights, 0), mask=is_key)
            if value_scale is not None:
                b_weights *= b_scale[None, :]
            tl.store(of_queries + at + first_q, tl.sum(b_weights, 1), mask=is_query)
    all_weights = tl.where(reaches, all_weights, 0.0)
    weights += ((place.to(tl.int64) * (H // GROUP) + group) * 3 + tile) * TIME * TIME
    tl.store(weights + i[:, None] * TIME + i[None, :], all_weights.to(b_k.dtype))


@triton.jit(do_not_specialize=["T", "tokens"])
def group_key_gradients(
    q, k, v, decays, value_scale, d_states, dk, weights, of_keys, along, fresh, d_scale,
    sequence_of, cu_seqlens, scale, T, H, count, tokens, q_strides, k_strides, v_strides, dk_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (2 * places, groups). d_states [places, H, V, K]: dS^T after each pair. dk: [B, T, groups, K].

    For the decay's gradient, or None, as `decay_gradient` takes them: along [H, tokens], k . dk, and fresh
    [2, places, H], sums over either chunk of what came through dS. d_scale: [B, T, H]. weights, of_keys: from
    `group_weights`. count: of places.
    """
    i_chunk, group = tl.program_id(0), tl.program_id(1)
    pair, is_first, batch, start, length, first = chunk_of(i_chunk, sequence_of, cu_seqlens, T, TIME, VARLEN)
    later = tl.where(is_first, TIME, length)  # the pair's other chunk if it is that, else a tile of 0 past the end
    if length <= first:
        return
    i = tl.arange(0, TIME)
    q_rows = rows(q, q_strides, batch, start, group, length, K, TIME, K)
    b_k = rows(k, k_strides, batch, start, group, length, K, TIME, K).load([first, 0])
    v_rows = rows_at(v + first_row(v_strides, batch, start, group * GROUP), v_strides[1], length, GROUP * V, TIME, V)
    d_states_of = rows_at(d_states, K, count * H * V, K, V, K)
    token, here = batch * T + start + first + i, first + i < length
    b_dk = tl.zeros([TIME, K], tl.float32)
    for i_head in tl.range(GROUP, num_stages=STAGES):
        head = group * GROUP + i_head
        b_d_state = d_states_of.load([(pair * H + head) * V, 0])
        b_v = v_rows.load([first, i_head * V])
        factor = tl.full([TIME], 1.0, tl.float32)
        if KIND != NONE:
            of_chunk = decays + (i_chunk * H + head).to(tl.int64) * TIME
            of_later = decays + ((pair * PAIR + 1) * H + head).to(tl.int64) * TIME
            left = tl.load(of_chunk + TIME - 1) - tl.load(of_chunk + i)
            factor = power(left + tl.where(is_first, tl.load(of_later + TIME - 1), 0.0))
        if of_keys is not None:
            through = tl.sum(dot(b_k, tl.trans(b_d_state)) * b_v, 1) * factor * scale
            at = head.to(tl.int64) * tokens + token
            inside = tl.load(of_keys + at, mask=here, other=0.0)
            across = tl.load(of_keys + at + tokens.to(tl.int64) * H, mask=here & is_first, other=0.0)
            of_token = through + (inside + across) * scale
        if value_scale is not None:
            of_head = token.to(tl.int64) * H + head
            tl.store(d_scale + of_head, of_token, mask=here)
            b_scale = tl.load(value_scale + of_head, mask=here, other=0.0)
            factor *= b_scale
        b_dk = dot((b_v * factor[:, None]).to(b_v.dtype), b_d_state, b_dk)
        if along is not None:
            if value_scale is not None:
                through *= b_scale
                of_token *= b_scale
            tl.store(along + at, of_token, mask=here)
            of_pair = fresh + pair.to(tl.int64) * H + head
            tl.store(of_pair + i_chunk % PAIR * count * H, tl.sum(through, 0))
            tl.store(of_pair + count * H, 0.0, mask=is_first & (length <= TIME))
    weights += (pair.to(tl.int64) * (H // GROUP) + group) * 3 * TIME * TIME + i[:, None] * TIME + i[None, :]
    of_q = dot(tl.trans(q_rows.load([first, 0])), tl.load(weights + first * PAIR * TIME))
    of_q = dot(tl.trans(q_rows.load([later, 0])), tl.load(weights + TIME * TIME), of_q)
    b_dk = (b_dk + tl.trans(of_q)) * scale
    rows(dk, dk_strides, batch, start, group, length, K, TIME, K).store([first, 0], b_dk.to(b_k.dtype))


@triton.jit(do_not_specialize=["T", "tokens"])
def group_query_gradients(
    q, k, do, decays, states, dq, weights, of_queries, crossing, along, fresh,
    sequence_of, cu_seqlens, scale, T, H, count, tokens, q_strides, k_strides, do_strides, dq_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, VARLEN: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Grid (2 * places, groups). states [places, H, V, K]: S^T before each pair. dq: [B, T, groups, K].

    For the decay's gradient, or None: along [H, tokens], q . dq, and fresh[0], that of both chunks with 2^C <S, dS>
    more, from crossing [BLOCKS, places, H]. weights, of_queries: from `group_weights`. count: of places.
    """
    i_chunk, group = tl.program_id(0), tl.program_id(1)
    pair, is_first, batch, start, length, first = chunk_of(i_chunk, sequence_of, cu_seqlens, T, TIME, VARLEN)
    earlier = tl.where(is_first, length, 0)  # likewise
    if length <= first:
        return
    i = tl.arange(0, TIME)
    k_rows = rows(k, k_strides, batch, start, group, length, K, TIME, K)
    b_q = rows(q, q_strides, batch, start, group, length, K, TIME, K).load([first, 0])
    do += first_row(do_strides, batch, start, group * GROUP)
    do_rows = rows_at(do, do_strides[1], length, GROUP * V, TIME, V)
    states_of = rows_at(states, K, count * H * V, K, V, K)
    token, here = batch * T + start + first + i, first + i < length
    b_dq = tl.zeros([TIME, K], tl.float32)
    for i_head in tl.range(GROUP, num_stages=STAGES):
        head = group * GROUP + i_head
        b_state = states_of.load([(pair * H + head) * V, 0])
        from_state = dot(do_rows.load([first, i_head * V]), b_state)
        if KIND != NONE:
            of_chunk = decays + (i_chunk * H + head).to(tl.int64) * TIME
            of_pair = decays + (pair * PAIR * H + head).to(tl.int64) * TIME + TIME - 1
            of_first = tl.load(of_pair)
            from_state *= power(tl.load(of_chunk + i) + tl.where(is_first, 0.0, of_first))[:, None]
        b_dq += from_state
        if along is not None:
            at = head.to(tl.int64) * tokens + token
            inside = tl.load(of_queries + at, mask=here, other=0.0)
            across = tl.load(of_queries + at + tokens.to(tl.int64) * H, mask=here & (first > 0), other=0.0)
            tl.store(along + at, (tl.sum(from_state * b_q, 1) + inside + across) * scale, mask=here)
            through = 0.0
            for block in tl.static_range(BLOCKS):
                through += tl.load(crossing + (block * count + pair).to(tl.int64) * H + head)
            through *= power(of_first + tl.load(of_pair + H * TIME)) * scale
            of_pair = fresh + pair.to(tl.int64) * H + head
            tl.store(of_pair, tl.load(of_pair) + tl.load(of_pair + count * H) + through, mask=is_first)
    weights += (pair.to(tl.int64) * (H // GROUP) + group) * 3 * TIME * TIME + i[:, None] * TIME + i[None, :]
    b_dq = dot(tl.load(weights + first * PAIR * TIME), k_rows.load([first, 0]), b_dq)
    b_dq = dot(tl.load(weights + TIME * TIME), k_rows.load([earlier, 0]), b_dq) * scale
    rows(dq, dq_strides, batch, start, group, length, K, TIME, K).store([first, 0], b_dq.to(b_q.dtype))
