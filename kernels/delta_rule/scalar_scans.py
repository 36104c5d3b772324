"""The two scans of the delta rule with no decay or one that all channels share, their states in registers.

With S [K, V] the state before a chunk, c the cumulative decay inside it, C its last entry and A from `inverse.py`,

    U  = A beta (v - e^c K S)                  what the tokens write
    o  = scale e^c Q S + M U                   M = scale lower(q_i . k_j e^(c_i - c_j))
    S' = e^C S + (e^(C - c) K)^T U

and backward in time, with dS' the gradient of the state after the chunk,

    dU = M^T dO + e^(C - c) K dS'
    dv = beta A^T dU
    dS = e^C dS' + scale (e^c Q)^T dO - (e^c K)^T dv.

A program holds a block of V's columns of the state. All is computed transposed, [columns of V, tokens]: states, values
and what is written then enter the matrix units from registers, one product after another, and only what tokens share
goes through shared memory.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..gated_linear_attention.places import slot
from ..gated_linear_attention.tiles import NONE, dot, first_row, power, rows, scalar_decay, segment
from .inverse import load_beta, since


@triton.jit(do_not_specialize=["T"])
def forward_scan(
    q, k, v, beta, decay, inverse, initial, o, written, states, final, cu_seqlens, scale, T, H,
    q_strides, k_strides, v_strides, beta_strides, decay_strides, inverse_strides, o_strides, written_strides,
    K: tl.constexpr, V: tl.constexpr, FULL_K: tl.constexpr, FULL_V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr,
    VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (sequences * H * blocks of V,). written (U): [B, T, H, V], states: [chunks, H, FULL_V, FULL_K]; or None."""
    i_block, i_head = tl.program_id(0) % tl.cdiv(V, BLOCK), tl.program_id(0) // tl.cdiv(V, BLOCK)
    first_v, i_sequence, head = i_block * BLOCK, i_head // H, i_head % H
    batch, start, length, sequence = segment(i_sequence, cu_seqlens, T, T, 1, VARLEN)
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, BLOCK)
    a_rows = rows(inverse, inverse_strides, batch, start, head, length, TIME, TIME, TIME)
    o_rows = rows(o, o_strides, batch, start, head, length, V, TIME, BLOCK)
    beta += first_row(beta_strides, batch, start, head)
    if KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    o_v, o_k = first_v + tl.arange(0, BLOCK)[:, None], tl.arange(0, FULL_K)[None, :]
    if written is not None:
        u_rows = rows(written, written_strides, batch, start, head, length, V, TIME, BLOCK)
        states += (slot(sequence, start, T, TIME, VARLEN) * H + head) * FULL_V * FULL_K + o_v * FULL_K + o_k
    place = i_sequence.to(tl.int64) * H * K * V + head.to(tl.int64) * K * V + o_k * V + o_v
    inside = (o_v < V) & (o_k < K)
    if initial is not None:
        state = tl.load(initial + place, mask=inside, other=0.0)
    else:
        state = tl.zeros([BLOCK, FULL_K], tl.float32)
    j, i = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    for i_chunk in range(tl.cdiv(length, TIME)):
        first = i_chunk * TIME
        b_q = q_rows.load([first, 0])
        b_k = k_rows.load([first, 0])
        b_v = v_rows.load([first, first_v])
        b_a = a_rows.load([first, 0])
        b_beta = load_beta(beta, beta_strides[1], first, length, TIME, LEAST)
        dtype = b_v.dtype
        narrow = state.to(dtype)
        if written is not None:
            tl.store(states + tl.cast(i_chunk, tl.int64) * H * FULL_V * FULL_K, narrow)
        scores_t = dot(b_k, tl.trans(b_q)) * scale
        if KIND == NONE:
            scores_t = tl.where(i >= j, scores_t, 0.0)
        else:
            c, all_c = scalar_decay(decay, decay_strides[1], first, length, TIME, KIND, PRECISE)
            scores_t *= since(-c, i >= j)
        scores_t = scores_t.to(dtype)
        recalled_t = dot(narrow, tl.trans(b_k))
        if KIND != NONE:
            recalled_t *= power(c)[None, :]
            state *= power(all_c)
        alone_t = (tl.trans(b_v).to(tl.float32) - recalled_t) * b_beta[None, :]
        written_t = dot(alone_t.to(dtype), tl.trans(b_a))
        u_t = written_t.to(dtype)
        o_t = dot(narrow, tl.trans(b_q)) * scale
        if KIND != NONE:
            o_t *= power(c)[None, :]
        o_t = dot(u_t, scores_t, o_t)
        o_rows.store([first, first_v], tl.trans(o_t).to(dtype))
        if written is not None:
            u_rows.store([first, first_v], tl.trans(u_t))
        if KIND != NONE:
            u_t = (written_t * power(all_c - c)[None, :]).to(dtype)
        state = dot(u_t, b_k, state)
    if final is not None:
        tl.store(final + place, state, mask=inside)


@triton.jit(do_not_specialize=["T"])
def backward_scan(
    q, k, beta, decay, inverse, do, d_final, dv, d_states, d_initial, cu_seqlens, scale, T, H,
    q_strides, k_strides, beta_strides, decay_strides, inverse_strides, do_strides, dv_strides,
    K: tl.constexpr, V: tl.constexpr, FULL_K: tl.constexpr, FULL_V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr,
    VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid as `forward_scan`'s. d_states: [chunks, H, FULL_V, FULL_K], gradients of the states after each chunk."""
    i_block, i_head = tl.program_id(0) % tl.cdiv(V, BLOCK), tl.program_id(0) // tl.cdiv(V, BLOCK)
    first_v, i_sequence, head = i_block * BLOCK, i_head // H, i_head % H
    batch, start, length, sequence = segment(i_sequence, cu_seqlens, T, T, 1, VARLEN)
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    a_rows = rows(inverse, inverse_strides, batch, start, head, length, TIME, TIME, TIME)
    do_rows = rows(do, do_strides, batch, start, head, length, V, TIME, BLOCK)
    dv_rows = rows(dv, dv_strides, batch, start, head, length, V, TIME, BLOCK)
    beta += first_row(beta_strides, batch, start, head)
    if KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    o_v, o_k = first_v + tl.arange(0, BLOCK)[:, None], tl.arange(0, FULL_K)[None, :]
    d_states += (slot(sequence, start, T, TIME, VARLEN) * H + head) * FULL_V * FULL_K + o_v * FULL_K + o_k
    place = i_sequence.to(tl.int64) * H * K * V + head.to(tl.int64) * K * V + o_k * V + o_v
    inside = (o_v < V) & (o_k < K)
    if d_final is not None:
        d_state = tl.load(d_final + place, mask=inside, other=0.0)
    else:
        d_state = tl.zeros([BLOCK, FULL_K], tl.float32)
    i, j = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    chunks = tl.cdiv(length, TIME)
    for step in range(chunks):
        i_chunk = chunks - 1 - step
        first = i_chunk * TIME
        b_k = k_rows.load([first, 0])
        b_q = q_rows.load([first, 0])
        b_do = do_rows.load([first, first_v])
        b_a = a_rows.load([first, 0])
        b_beta = load_beta(beta, beta_strides[1], first, length, TIME, LEAST)
        dtype = b_do.dtype
        narrow = d_state.to(dtype)
        tl.store(d_states + tl.cast(i_chunk, tl.int64) * H * FULL_V * FULL_K, narrow)
        du_t = dot(narrow, tl.trans(b_k))
        scores = dot(b_q, tl.trans(b_k)) * scale
        do_t = tl.trans(b_do)
        if KIND == NONE:
            scores = tl.where(i >= j, scores, 0.0)
            query_t = (do_t.to(tl.float32) * scale).to(dtype)
        else:
            c, all_c = scalar_decay(decay, decay_strides[1], first, length, TIME, KIND, PRECISE)
            scores *= since(c, i >= j)
            du_t *= power(all_c - c)[None, :]
            query_t = (do_t.to(tl.float32) * (power(c) * scale)[None, :]).to(dtype)
            d_state *= power(all_c)
        du_t = dot(do_t, scores.to(dtype), du_t)
        dv_t = dot(du_t.to(dtype), b_a) * b_beta[None, :]
        dv_rows.store([first, first_v], tl.trans(dv_t).to(dtype))
        d_state = dot(query_t, b_q, d_state)
        if KIND != NONE:
            dv_t *= power(c)[None, :]
        d_state = dot((-dv_t).to(dtype), b_k, d_state)
    if d_initial is not None:
        tl.store(d_initial + place, d_state, mask=inside)
