"""A decay per channel, after the backward scan: the gradients of readers, writers and the decay, a chunk at a time.

Through the scores and through the states, with the weights of `channel_scores`,

    dq_i = sum over j <= i of (do_i . u_j) b_j 2^(c_i - c_j) + 2^c_i S do_i        and with v and k where dplr has them
    db_j = sum over i >= j of (u_j . do_i) q_i 2^(c_i - c_j) + 2^(C - c_j) dS' u_j

a as q with dz for do, k as b with v for u. A reader adds reader . d_reader to the gradient of its own exponent c_i, a
writer takes writer . d_writer from it; the decay at t has a part in all c_i from t on, and in what crosses the chunk,
2^C <S, dS'>. The two sides of a pair of tokens use the same rounded products, so that what must cancel does.

Here for chunks that the lean form was enough for; `exact_gradients` does the others.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from ..gated_linear_attention.chunk_tiles import load_decay, sums, tile
from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import dot, power
from .channel_scores import lean_weights, load_beta, load_input, own_tile


@triton.jit
def pair_products(x, y, pairs, dtype: tl.constexpr):
    """x y^T where `pairs`, else 0."""
    return tl.where(pairs, dot(x, tl.trans(y)), 0.0).to(dtype)


@triton.jit(do_not_specialize=["T"])
def channel_gradients(
    q, a, b, k, beta, decay, do, v, u, dz, states, d_states, dq, da, db, dk, d_decay, along_keys, lean,
    sequence_of, cu_seqlens, scale, T, H, q_strides, a_strides, b_strides, k_strides, beta_strides, decay_strides,
    do_strides, v_strides, gradient_strides,
    K: tl.constexpr, V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr, CENTRED: tl.constexpr,
    VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (places * H * parts of K). Arguments as in `channel_scores` and `scan_states`.

    dq, da, db, dk, d_decay: [B, T, H, K] with gradient_strides; the delta rule has neither da nor dk, and
    along_keys, float32 [places, H, parts, TIME], receives k . da for `beta_gradients`. SPAN: channels of a part.
    """
    EXTRA: tl.constexpr = k is not None
    PARTS: tl.constexpr = K_WIDTH // SPAN
    part = tl.program_id(0) % PARTS
    place, head = tl.program_id(0) // PARTS // H, tl.program_id(0) // PARTS % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i, o_v = tl.arange(0, TIME), tl.arange(0, V_WIDTH)
    inside_v = (i[:, None] < length) & (o_v[None, :] < V)
    before, until = i[:, None] > i[None, :], i[:, None] >= i[None, :]
    out = dq.dtype.element_ty
    dtype = do.dtype.element_ty
    # All loads of a step come before its first product, so that their latencies overlap.
    b_do = load_input(do, do_strides, batch, start, head, i, o_v, inside_v, V)
    b_dz = tl.load(own_tile(dz, place, head, H, i, o_v, TIME, V_WIDTH))
    b_u = tl.load(own_tile(u, place, head, H, i, o_v, TIME, V_WIDTH))
    if EXTRA:
        b_v = load_input(v, v_strides, batch, start, head, i, o_v, inside_v, V)
    else:
        b_beta = load_beta(beta, beta_strides, batch, start, head, length, i)
    if tl.load(lean + place.to(tl.int64) * H + head) == 0:
        return
    d_qb, d_ab = pair_products(b_do, b_u, until, CENTRED), pair_products(b_dz, b_u, before, CENTRED)
    if EXTRA:
        d_qk, d_ak = pair_products(b_do, b_v, until, CENTRED), pair_products(b_dz, b_v, before, CENTRED)
    along_key = tl.zeros([TIME], tl.float32)
    for step in range(SPAN // BLOCK):
        o_k = part * SPAN + step * BLOCK + tl.arange(0, BLOCK)
        inside = (i[:, None] < length) & (o_k[None, :] < K)
        g = load_decay(tile(decay, decay_strides, batch, start, head, i, o_k, K), inside, dtype)
        b_b = load_input(b, b_strides, batch, start, head // GROUP, i, o_k, inside, K)
        b_q = load_input(q, q_strides, batch, start, head // GROUP, i, o_k, inside, K)
        if EXTRA:
            b_a = load_input(a, a_strides, batch, start, head // GROUP, i, o_k, inside, K)
            b_k = load_input(k, k_strides, batch, start, head // GROUP, i, o_k, inside, K)
        state = tl.load(own_tile(states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH))
        d_state = tl.load(own_tile(d_states, place, head, H, o_v, o_k, V_WIDTH, K_WIDTH))
        crossing = tl.sum(state.to(tl.float32) * d_state, 0)
        x_q, x_a, x_w, half, total, _ = lean_weights(g, dtype, TIME, LEVELS, EXTRA)
        crossing *= power(total)
        if EXTRA:
            k_x = (b_k * x_w).to(CENTRED)
        else:
            b_a = b_b.to(tl.float32) * -b_beta[:, None]
        q_x, a_x, b_x = (b_q * (x_q * scale)).to(CENTRED), (b_a * x_a).to(CENTRED), (b_b * x_w).to(CENTRED)

        gradient = dot(d_qb, b_x, dot(b_do, state) * half)
        if EXTRA:
            gradient = dot(d_qk, k_x, gradient)
        along = q_x.to(tl.float32) * gradient
        gradient *= x_q * scale
        tl.store(tile(dq, gradient_strides, batch, start, head, i, o_k, K), gradient.to(out), mask=inside)

        gradient = dot(d_ab, b_x, dot(b_dz, state) * half)
        if EXTRA:
            gradient = dot(d_ak, k_x, gradient)
        along_a = a_x.to(tl.float32) * gradient
        along += along_a
        gradient *= x_a
        if EXTRA:
            tl.store(tile(da, gradient_strides, batch, start, head, i, o_k, K), gradient.to(out), mask=inside)
        else:
            along_key += tl.sum(b_b.to(tl.float32) * gradient, 1)
            through_a = gradient * b_beta[:, None]

        gradient = dot(b_u, d_state) * half
        crossing += tl.sum(b_x.to(tl.float32) * gradient, 0)
        gradient = dot(tl.trans(d_ab), a_x, dot(tl.trans(d_qb), q_x, gradient))
        along -= b_x.to(tl.float32) * gradient
        gradient *= x_w
        if not EXTRA:
            gradient -= through_a
        tl.store(tile(db, gradient_strides, batch, start, head, i, o_k, K), gradient.to(out), mask=inside)
        if EXTRA:
            gradient = dot(b_v, d_state) * half
            crossing += tl.sum(k_x.to(tl.float32) * gradient, 0)
            gradient = dot(tl.trans(d_ak), a_x, dot(tl.trans(d_qk), q_x, gradient))
            along -= k_x.to(tl.float32) * gradient
            gradient *= x_w
            tl.store(tile(dk, gradient_strides, batch, start, head, i, o_k, K), gradient.to(out), mask=inside)

        b_dg = sums(i[:, None] <= i[None, :], along, dtype) + crossing[None, :]
        if EXTRA:
            b_dg -= along_a
        to_decay = tile(d_decay, gradient_strides, batch, start, head, i, o_k, K)
        tl.store(to_decay, b_dg.to(d_decay.dtype.element_ty), mask=inside)
    if not EXTRA:
        along_keys += tl.program_id(0).to(tl.int64) * TIME
        tl.store(along_keys + i, along_key)
