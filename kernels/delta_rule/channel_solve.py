"""What a chunk writes, solved for all chunks at once: u = W S + U with S the state before the chunk.

    (I - A) u = a~ S + X,    A = <a, b> strictly lower,    X = <a, k> v (dplr) or beta v (delta rule)
    M = (I - A)^-1,          W = M a~,                     U = M X

and backward, with du = <q, b>^T do + b^ dS' what reaches u, dz = M^T du = W' dS' + U':

    W' = M^T b^,             U' = M^T <q, b>^T do

so that the scans over chunks are left with one product to read and one or two to write.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from ..gated_linear_attention.chunk_tiles import tile
from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import dot
from .channel_scores import load_beta, own_tile
from .inverse import unit_lower_inverse


@triton.jit(do_not_specialize=["T"])
def solve(
    inverse, a_k, weighted_a, beta, v, reader, offset, sequence_of, cu_seqlens, T, H, beta_strides, v_strides,
    V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr,
    K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, SOLVED: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (places * H). inverse: [places, H, TIME, TIME], holds A and receives M. reader: W. offset: U.

    SOLVED: the dtype in which the inverse is taken.
    """
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i = tl.arange(0, TIME)
    dtype = reader.dtype.element_ty
    to_inverse = own_tile(inverse, place, head, H, i, i, TIME, TIME)
    b_inverse = unit_lower_inverse(-tl.load(to_inverse).to(tl.float32), SOLVED, TIME, LEVELS).to(dtype)
    tl.store(to_inverse, b_inverse)
    for first in range(0, K_WIDTH, K_BLOCK):
        o = first + tl.arange(0, K_BLOCK)
        b_a = tl.load(own_tile(weighted_a, place, head, H, i, o, TIME, K_WIDTH))
        tl.store(own_tile(reader, place, head, H, i, o, TIME, K_WIDTH), dot(b_inverse, b_a).to(dtype))
    if a_k is not None:
        b_inverse = dot(b_inverse, tl.load(own_tile(a_k, place, head, H, i, i, TIME, TIME))).to(dtype)
    for first in range(0, V_WIDTH, V_BLOCK):
        o = first + tl.arange(0, V_BLOCK)
        inside = (i[:, None] < length) & (o[None, :] < V)
        b_v = tl.load(tile(v, v_strides, batch, start, head, i, o, V), mask=inside, other=0.0)
        if beta is not None:
            b_beta = load_beta(beta, beta_strides, batch, start, head, length, i)
            b_v = (b_v.to(tl.float32) * b_beta[:, None]).to(dtype)
        tl.store(own_tile(offset, place, head, H, i, o, TIME, V_WIDTH), dot(b_inverse, b_v).to(dtype))


@triton.jit(do_not_specialize=["T"])
def solve_backward(
    inverse, q_b, weighted_b, do, reader, offset, sequence_of, cu_seqlens, T, H, do_strides,
    V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TIME: tl.constexpr, K_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (places * H). inverse: M. reader: W'. offset: U'."""
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    i = tl.arange(0, TIME)
    dtype = reader.dtype.element_ty
    inverse_t = tl.trans(tl.load(own_tile(inverse, place, head, H, i, i, TIME, TIME)))
    for first in range(0, K_WIDTH, K_BLOCK):
        o = first + tl.arange(0, K_BLOCK)
        b_b = tl.load(own_tile(weighted_b, place, head, H, i, o, TIME, K_WIDTH))
        tl.store(own_tile(reader, place, head, H, i, o, TIME, K_WIDTH), dot(inverse_t, b_b).to(dtype))
    both_t = dot(inverse_t, tl.trans(tl.load(own_tile(q_b, place, head, H, i, i, TIME, TIME)))).to(dtype)
    for first in range(0, V_WIDTH, V_BLOCK):
        o = first + tl.arange(0, V_BLOCK)
        inside = (i[:, None] < length) & (o[None, :] < V)
        b_do = tl.load(tile(do, do_strides, batch, start, head, i, o, V), mask=inside, other=0.0)
        tl.store(own_tile(offset, place, head, H, i, o, TIME, V_WIDTH), dot(both_t, b_do).to(dtype))
