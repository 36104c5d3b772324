"""What PyTorch's own operations take: products by size, memory traffic by kind, attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .graphs import forward_and_both, seconds_in_graph

COLD = 160 << 20  # bytes: more than any cache, so that weights read in turn come from memory
MOST_FLOPS = 1.5e13
TOKENS = (1, 8, 64, 512, 2048, 8192, 32768)
WIDTHS = (32, 128, 512, 1024, 2048, 4096, 8192, 32768)
BF16, FP32 = torch.bfloat16, torch.float32


def matmul_rows() -> list[list[float]]:
    """[M, N, K, seconds] of [M,K] times [K,N] as a linear layer has it, bf16; weights from memory for few tokens."""
    rows = []
    for M in TOKENS:
        for N in WIDTHS:
            for K in WIDTHS:
                if 2 * M * N * K > MOST_FLOPS or N * K > 1 << 28:
                    continue
                copies = max(2, min(24, COLD // (2 * N * K))) if M <= 64 else 2
                a = torch.randn(M, K, device="cuda").to(BF16)
                weights = [torch.empty(N, K, device="cuda", dtype=BF16).normal_() for _ in range(copies)]
                rows.append([M, N, K, seconds_in_graph([lambda a=a, w=w: F.linear(a, w) for w in weights], 5e-4)])
    return rows


def gradient_matmul_rows() -> list[list[float]]:
    """[M, N, K, seconds] of the transpose of [K,M] times [K,N]: a weight's gradient, K tokens; bf16."""
    rows = []
    for K in (2048, 8192, 32768):
        for M in WIDTHS[1:]:
            for N in WIDTHS[1:]:
                if 2 * M * N * K > MOST_FLOPS or M * N > 1 << 28:
                    continue
                a = torch.randn(K, M, device="cuda").to(BF16)
                b = torch.randn(K, N, device="cuda").to(BF16)
                rows.append([M, N, K, seconds_in_graph([lambda a=a, b=b: a.T @ b] * 2, 5e-4)])
    return rows


def memory_rows() -> dict[str, list[list[float]]]:
    """[bytes read and written, seconds] by what touches them. Each call reads what the one before it wrote."""
    families: dict[str, list[list[float]]] = {}

    def add(family: str, moved: float, calls: list[Callable[[], object]]) -> None:
        families.setdefault(family, []).append([moved, seconds_in_graph(calls, 5e-4)])

    for power in range(8, 30, 2):
        n = 1 << power
        for dtype, family in ((BF16, "pointwise"), (FP32, "pointwise_fp32")):
            kept = min(12, max(3, COLD // n))
            tensors = [torch.randn(n // dtype.itemsize, device="cuda").to(dtype) for _ in range(kept)]
            add(family, 3 * n, [lambda t=tensors, i=i: _chain(t, i) for i in range(2 * kept)])
            x = torch.randn(-(-n // (64 * dtype.itemsize)), 64, device="cuda").to(dtype)
            left, right = x[:, :32], x[:, 32:]
            add(f"views{family[9:]}", 1.5 * x.nbytes, [lambda a=left, b=right: a * b] * 4)
    for rows, width in ((1, 1024), (64, 1024), (512, 1024), (2048, 1024), (8192, 1024), (8192, 4096), (32768, 4096)):
        wide, low = torch.randn(rows, width, device="cuda"), torch.randn(rows, width, device="cuda").to(BF16)
        add("cast", 6 * rows * width, [lambda a=wide: a.to(BF16), lambda b=low: b.float()] * 2)
        add("cat", 8 * rows * width, [lambda b=low: torch.cat([b, b], dim=-1)] * 4)
        add("strided", 4 * rows * width, [lambda b=low: b.view(-1, 64, 16).transpose(1, 2).contiguous()] * 4)
        add("sum_rows", 2 * rows * width, [lambda b=low: b.sum(0)] * 4)
        add("sum_last", 2 * rows * width, [lambda b=low: b.view(-1, 64).sum(-1)] * 4)
        add("normalize", 8 * rows * width, [lambda a=wide: F.layer_norm(a, a.shape[-1:])] * 4)
    for rows, width in ((512, 1024), (2048, 8192), (8192, 8192), (8192, 32768), (8192, 50304)):
        x = torch.randn(rows, width, device="cuda")
        log = x.log_softmax(-1)
        add("softmax", 8 * rows * width, [lambda x=x: x.log_softmax(-1)] * 2)
        add("softmax_backward", 12 * rows * width, [lambda x=x, log=log: _softmax_backward(x, log)] * 2)
    for tokens, width in ((512, 512), (2048, 1024), (8192, 768), (8192, 2048), (32768, 1024)):
        table = torch.randn(32768, width, device="cuda")
        index = torch.randint(32768, (tokens,), device="cuda")
        x = torch.randn(tokens, width, device="cuda")
        add("embedding", 8 * tokens * width, [lambda t=table, i=index: F.embedding(i, t)] * 4)
        add("embedding_backward", 4 * tokens * width, [lambda x=x, i=index: _embedding_backward(x, i)] * 2)
        low = x.to(BF16)
        order = torch.randperm(tokens, device="cuda")
        add("gather", 4 * tokens * width, [lambda x=low, i=order: x[i]] * 4)
        add("index_add", 6 * tokens * width, [lambda x=low, i=order: torch.zeros_like(x).index_add(0, i, x)] * 2)
        add("sort", 8 * tokens, [lambda i=order: i.argsort(stable=True)] * 4)
        scores = torch.randn(tokens, 64, device="cuda")
        add("topk", 4 * tokens * 64, [lambda s=scores: s.topk(4, dim=-1)] * 4)
    return families


def _softmax_backward(incoming: Tensor, log: Tensor) -> Tensor:
    return torch.ops.aten._log_softmax_backward_data(incoming, log, -1, FP32)


def _embedding_backward(incoming: Tensor, index: Tensor) -> Tensor:
    return torch.ops.aten.embedding_dense_backward(incoming, index, 32768, -1, False)


def _chain(tensors: list[Tensor], i: int) -> Tensor:
    """A product of what the call before wrote and of what no cache holds any more."""
    count = len(tensors)
    return torch.mul(tensors[i % count], tensors[(i + count // 2) % count], out=tensors[(i + 1) % count])


def attention_rows() -> list[list[float]]:
    """[head width, tokens, sequences times heads, forward seconds, forward and backward seconds], causal, bf16."""
    rows = []
    for K in (64, 128):
        for T, batch in ((512, 64), (2048, 64), (2048, 16), (8192, 16), (32768, 4)):
            q, k, v = (torch.randn(1, batch, T, K, device="cuda").to(BF16).requires_grad_() for _ in range(3))
            attend = lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
            rows.append([K, T, batch, *forward_and_both(attend, [q, k, v])])
    return rows


def masked_attention_rows() -> list[list[float]]:
    """[head width, queries, keys, sequences times heads, forward seconds, both] of attention under a mask, bf16; for
    one query a sequence, as decoding has it, forward alone."""
    rows = []
    for K in (64, 128):
        for T, S, batch in (
            (1, 1024, 16),
            (1, 1024, 128),
            (1, 8192, 16),
            (1, 8192, 128),
            (1, 65536, 16),
            (8, 8192, 16),
        ):
            q = torch.randn(1, batch, T, K, device="cuda").to(BF16)
            k, v = (torch.randn(1, S, batch, K, device="cuda").to(BF16).transpose(1, 2) for _ in range(2))
            mask = torch.ones(1, 1, 1, S, device="cuda", dtype=torch.bool)
            call = lambda q=q, k=k, v=v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
            forward = seconds_in_graph([call] * 4)
            rows.append([K, T, S, batch, forward, forward])
        for T, batch in ((256, 256), (512, 128), (1024, 64)):
            q = torch.randn(1, batch, T, K, device="cuda").to(BF16).requires_grad_()
            k, v = (torch.randn(1, batch, 2 * T, K, device="cuda").to(BF16).requires_grad_() for _ in range(2))
            mask = torch.ones(T, 2 * T, device="cuda", dtype=torch.bool)
            call = lambda q=q, k=k, v=v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
            rows.append([K, T, 2 * T, batch, *forward_and_both(call, [q, k, v])])
    return rows
