"""Gradients of q, k, beta and a decay that all channels share: all chunks at once, from what the scans left.

With S the state before a chunk, dS' the gradient of the state after it, U what its tokens wrote (`scalar_scans.py`),

    dM = lower(dO U^T)        dq = scale e^c dO S^T + (scale D dM) K
    dN = -strict lower(dv U^T)
    dk = -e^c dv S^T + (D dN) K                                   where k reads: what the state held of it
       + e^(C - c) U dS'^T + (scale D dM)^T Q + (D dN)^T K        where k writes

with D_ij = e^(c_i - c_j). A token wrote U = beta e, e its error, and dv = beta de: hence dbeta = e . de, which is on
the diagonal of dv U^T, over beta squared. (This is what `inverse.load_beta` keeps beta from 0 for.)

The decay of token t scales whatever passes from before t to t or later:

    sum over s >= t of (q_s . dq_s + k_s . (dk_s where it reads - where it writes))
    + <e^C S, dS'> + sum over the chunk of k_s . e^(C - c_s) U_s dS'^T.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import NONE, dot, first_row, power, scalar_decay
from .inverse import load_beta, since


@triton.jit
def tile(x, strides, batch, start, head, rows, columns):
    """Pointers to a chunk's rows and columns of one head of x [B, T, H, width]; `start`: the chunk's first token."""
    return x + first_row(strides, batch, start, head) + (rows * strides[1] + columns)


@triton.jit(do_not_specialize=["T", "tokens"])
def chunk_gradients(
    q, k, beta, decay, do, written, dv, states, d_states, dq, dk, d_beta, d_decay, sequence_of, cu_seqlens,
    scale, T, H, tokens,
    q_strides, k_strides, beta_strides, decay_strides, do_strides, written_strides, dv_strides, dq_strides,
    K: tl.constexpr, V: tl.constexpr, FULL_K: tl.constexpr, FULL_V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCKS: tl.constexpr, LEAST: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (chunks * H * blocks of K,). d_decay: a part for each block of K, [BLOCKS, tokens, H], or None."""
    i_block, head, place = tl.program_id(0) % BLOCKS, tl.program_id(0) // BLOCKS % H, tl.program_id(0) // BLOCKS // H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length > 0:
        i, j = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
        o_k = i_block * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        v_column, v_row = tl.arange(0, BLOCK_V)[None, :], tl.arange(0, BLOCK_V)[:, None]
        do_tile = tile(do, do_strides, batch, start, head, i, v_column)
        u_tile = tile(written, written_strides, batch, start, head, i, v_column)
        dv_tile = tile(dv, dv_strides, batch, start, head, i, v_column)
        of_states = (place.to(tl.int64) * H + head) * FULL_V * FULL_K
        state_tile, d_state_tile = states + of_states, d_states + of_states
        in_state = v_row * FULL_K + o_k
        dq_acc = tl.zeros([TIME, BLOCK_K], tl.float32)
        reads = tl.zeros([TIME, BLOCK_K], tl.float32)
        writes = tl.zeros([TIME, BLOCK_K], tl.float32)
        d_scores = tl.zeros([TIME, TIME], tl.float32)
        d_keys = tl.zeros([TIME, TIME], tl.float32)
        passing = tl.zeros([BLOCK_K], tl.float32)
        own = tl.arange(0, BLOCK_K)[:, None] == tl.arange(0, BLOCK_K)[None, :]
        for first_v in range(0, V, BLOCK_V):
            inside = (i < length) & (first_v + v_column < V)
            b_do = tl.load(do_tile + first_v, mask=inside, other=0.0)
            b_u = tl.load(u_tile + first_v, mask=inside, other=0.0)
            b_dv = tl.load(dv_tile + first_v, mask=inside, other=0.0)
            if V % BLOCK_V == 0:
                b_state = tl.load(state_tile + (first_v * FULL_K + in_state))
                b_d_state = tl.load(d_state_tile + (first_v * FULL_K + in_state))
            else:  # the scans wrote no more columns than their own blocks have
                known = first_v + v_row < V
                b_state = tl.load(state_tile + (first_v * FULL_K + in_state), mask=known, other=0.0)
                b_d_state = tl.load(d_state_tile + (first_v * FULL_K + in_state), mask=known, other=0.0)
            dq_acc = dot(b_do, b_state, dq_acc)
            reads = dot(b_dv, b_state, reads)
            writes = dot(b_u, b_d_state, writes)
            u_t = tl.trans(b_u)
            d_scores = dot(b_do, u_t, d_scores)
            d_keys = dot(b_dv, u_t, d_keys)
            if d_decay is not None:
                passing += tl.sum(tl.where(own, dot(tl.trans(b_state), b_d_state), 0.0), 1)
        row = tl.arange(0, TIME)
        if i_block == 0:
            b_beta = load_beta(
                beta + first_row(beta_strides, batch, start, head), beta_strides[1], 0, length, TIME, LEAST
            )
            of_beta = tl.sum(tl.where(i == j, d_keys, 0.0), 1) / (b_beta * b_beta)
            at = ((batch * T + start).to(tl.int64) + row) * H + head
            tl.store(d_beta + at, of_beta.to(d_beta.dtype.element_ty), mask=row < length)
        dtype = dq.dtype.element_ty
        in_k = (i < length) & (o_k < K)
        b_q = tl.load(tile(q, q_strides, batch, start, head // GROUP, i, o_k), mask=in_k, other=0.0)
        b_k = tl.load(tile(k, k_strides, batch, start, head // GROUP, i, o_k), mask=in_k, other=0.0)
        if KIND == NONE:
            d_scores = tl.where(i >= j, d_scores * scale, 0.0).to(dtype)
            d_keys = tl.where(i > j, -d_keys, 0.0).to(dtype)
            dq_acc *= scale
            reads = -reads
        else:
            here = decay + first_row(decay_strides, batch, start, head)
            c, all_c = scalar_decay(here, decay_strides[1], 0, length, TIME, KIND, PRECISE)
            between = since(c, i >= j)
            d_scores = (d_scores * (between * scale)).to(dtype)
            d_keys = tl.where(i > j, d_keys * -between, 0.0).to(dtype)
            dq_acc *= (power(c) * scale)[:, None]
            reads *= -power(c)[:, None]
            writes *= power(all_c - c)[:, None]
        dq_acc = dot(d_scores, b_k, dq_acc)
        tl.store(tile(dq, dq_strides, batch, start, head, i, o_k), dq_acc.to(dtype), mask=in_k)
        if d_decay is not None:
            of_c = tl.sum(b_q.to(tl.float32) * dq_acc, 1)
            to_end = tl.sum(b_k.to(tl.float32) * writes, 1)
        reads = dot(d_keys, b_k, reads)
        writes = dot(tl.trans(d_scores), b_q, writes)
        writes = dot(tl.trans(d_keys), b_k, writes)
        tl.store(tile(dk, dq_strides, batch, start, head, i, o_k), (reads + writes).to(dtype), mask=in_k)
        if d_decay is not None:
            of_c += tl.sum(b_k.to(tl.float32) * (reads - writes), 1)
            crossing = tl.sum(passing, 0) * power(all_c) + tl.sum(of_c + to_end, 0)
            of_decay = crossing - tl.cumsum(of_c, 0) + of_c
            at = (i_block * tokens + batch * T + start).to(tl.int64) + row
            tl.store(d_decay + at * H + head, of_decay, mask=row < length)
