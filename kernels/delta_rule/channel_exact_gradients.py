"""The gradients of `channel_gradients`, for the few chunks whose decay is too strong for the lean form.

Pairs of tokens level by level, as `channel_scores` forms their scores; the states with weights of their own. Slow, and
right for any decay.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from ..gated_linear_attention.chunk_tiles import load_decay, sums, tile
from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import dot, power
from .channel_scores import exact_weights, level_weights, load_beta, load_input, own_tile


@triton.jit(do_not_specialize=["T"])
def exact_gradients(
    q, a, b, k, beta, decay, do, v, u, dz, states, d_states, dq, da, db, dk, d_decay, along_keys, lean,
    sequence_of, cu_seqlens, scale, T, H, q_strides, a_strides, b_strides, k_strides, beta_strides, decay_strides,
    do_strides, v_strides, gradient_strides,
    K: tl.constexpr, V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr, CENTRED: tl.constexpr,
    VARLEN: tl.constexpr,
):  # fmt: skip
    """Arguments as in `channel_gradients`."""
    EXTRA: tl.constexpr = k is not None
    PARTS: tl.constexpr = K_WIDTH // SPAN
    part = tl.program_id(0) % PARTS
    place, head = tl.program_id(0) // PARTS // H, tl.program_id(0) // PARTS % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    if tl.load(lean + place.to(tl.int64) * H + head) != 0:
        return
    i, o_v = tl.arange(0, TIME), tl.arange(0, V_WIDTH)
    inside_v = (i[:, None] < length) & (o_v[None, :] < V)
    until = i[:, None] <= i[None, :]
    out = dq.dtype.element_ty
    dtype = do.dtype.element_ty
    b_do = load_input(do, do_strides, batch, start, head, i, o_v, inside_v, V)
    b_dz = tl.load(own_tile(dz, place, head, H, i, o_v, TIME, V_WIDTH))
    b_u = tl.load(own_tile(u, place, head, H, i, o_v, TIME, V_WIDTH))
    d_qb, d_ab = dot(b_do, tl.trans(b_u)).to(CENTRED), dot(b_dz, tl.trans(b_u)).to(CENTRED)
    own_qb = tl.sum(b_do.to(tl.float32) * b_u, 1)[:, None]
    if EXTRA:
        b_v = load_input(v, v_strides, batch, start, head, i, o_v, inside_v, V)
        d_qk, d_ak = dot(b_do, tl.trans(b_v)).to(CENTRED), dot(b_dz, tl.trans(b_v)).to(CENTRED)
        own_qk = tl.sum(b_do.to(tl.float32) * b_v, 1)[:, None]
    else:
        b_beta = load_beta(beta, beta_strides, batch, start, head, length, i)
    along_key = tl.zeros([TIME], tl.float32)
    for step in range(SPAN // BLOCK):
        o_k = part * SPAN + step * BLOCK + tl.arange(0, BLOCK)
        inside = (i[:, None] < length) & (o_k[None, :] < K)
        b_q = load_input(q, q_strides, batch, start, head // GROUP, i, o_k, inside, K).to(tl.float32) * scale
        b_b = load_input(b, b_strides, batch, start, head // GROUP, i, o_k, inside, K).to(tl.float32)
        if EXTRA:
            b_a = load_input(a, a_strides, batch, start, head // GROUP, i, o_k, inside, K).to(tl.float32)
        else:
            b_a = b_b * -b_beta[:, None]
        g = load_decay(tile(decay, decay_strides, batch, start, head, i, o_k, K), inside, dtype)
        state = tl.load(own_tile(states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH))
        d_state = tl.load(own_tile(d_states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH))
        of_q, of_a, of_w, total = exact_weights(g, dtype, TIME, EXTRA)
        b_dq, b_da, b_db = dot(b_do, state) * of_q, dot(b_dz, state) * of_a, dot(b_u, d_state) * of_w
        along, along_a = b_q * b_dq - b_b * b_db, b_a * b_da
        crossing = tl.sum(state.to(tl.float32) * d_state, 0) * power(total) + tl.sum(b_b * b_db, 0)
        b_dq += own_qb * b_b
        b_db += own_qb * b_q
        if EXTRA:
            b_k = load_input(k, k_strides, batch, start, head // GROUP, i, o_k, inside, K).to(tl.float32)
            b_dk = dot(b_v, d_state) * of_w
            along -= b_k * b_dk
            crossing += tl.sum(b_k * b_dk, 0)
            b_dq += own_qk * b_k
            b_dk += own_qk * b_q
        for log2_half in range(LEVELS):
            x, x_a, pairs = level_weights(g, log2_half, dtype, TIME, EXTRA)
            q_x, a_x, b_x = (b_q * x).to(CENTRED), (b_a * x_a).to(CENTRED), (b_b * x).to(CENTRED)
            qb, ab = tl.where(pairs, d_qb, 0.0).to(CENTRED), tl.where(pairs, d_ab, 0.0).to(CENTRED)
            from_q, from_a = dot(qb, b_x), dot(ab, b_x)
            from_b = dot(tl.trans(ab), a_x, dot(tl.trans(qb), q_x))
            if EXTRA:
                k_x = (b_k * x).to(CENTRED)
                qk, ak = tl.where(pairs, d_qk, 0.0).to(CENTRED), tl.where(pairs, d_ak, 0.0).to(CENTRED)
                from_q, from_a = dot(qk, k_x, from_q), dot(ak, k_x, from_a)
                from_k = dot(tl.trans(ak), a_x, dot(tl.trans(qk), q_x))
                b_dk += from_k * x
                along -= k_x.to(tl.float32) * from_k
            b_dq += from_q * x
            b_da += from_a * x_a
            b_db += from_b * x
            along += q_x.to(tl.float32) * from_q - b_x.to(tl.float32) * from_b
            along_a += a_x.to(tl.float32) * from_a
        b_dg = sums(until, along + along_a, dtype) + crossing[None, :]
        tl.store(tile(dq, gradient_strides, batch, start, head, i, o_k, K), (b_dq * scale).to(out), mask=inside)
        if EXTRA:
            b_dg -= along_a
            tl.store(tile(da, gradient_strides, batch, start, head, i, o_k, K), b_da.to(out), mask=inside)
            tl.store(tile(dk, gradient_strides, batch, start, head, i, o_k, K), b_dk.to(out), mask=inside)
        else:
            along_key += tl.sum(b_b * b_da, 1)
            b_db -= b_beta[:, None] * b_da
        tl.store(tile(db, gradient_strides, batch, start, head, i, o_k, K), b_db.to(out), mask=inside)
        to_decay = tile(d_decay, gradient_strides, batch, start, head, i, o_k, K)
        tl.store(to_decay, b_dg.to(d_decay.dtype.element_ty), mask=inside)
    if not EXTRA:
        along_keys += tl.program_id(0).to(tl.int64) * TIME
        tl.store(along_keys + i, along_key)
