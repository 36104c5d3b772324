"""In the interpreter bfloat16 is what it is on a GPU: correct numbers, rounded to nearest even."""

# pyright: reportArgumentType=false

import torch
import triton
import triton.language as tl
from hybridlab.kernels.interpreter import correct_bfloat16

correct_bfloat16()


@triton.jit
def arithmetic(a, b, total, product, matrix, larger, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    x, y = tl.load(a + i * N + j), tl.load(b + i * N + j)
    tl.store(total + i * N + j, x + y)
    tl.store(product + i * N + j, x * y)
    tl.store(matrix + i * N + j, tl.dot(x, y).to(tl.bfloat16))
    tl.store(larger + i * N + j, tl.where(x > y, x, y))


def test_arithmetic_and_dots_match_pytorch() -> None:
    a, b = torch.randn(2, 16, 16).bfloat16()
    total, product, matrix, larger = (torch.empty_like(a) for _ in range(4))
    arithmetic[(1,)](a, b, total, product, matrix, larger, N=16)
    assert torch.equal(total, a + b)
    assert torch.equal(product, a * b)
    assert torch.equal(larger, torch.maximum(a, b))
    torch.testing.assert_close(matrix, (a.float() @ b.float()).bfloat16(), rtol=1e-2, atol=1e-2)


@triton.jit
def rounding(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i).to(tl.bfloat16))


def test_rounding_is_to_nearest_even() -> None:
    x = torch.cat([torch.randn(61), torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf")])])
    y = torch.empty(64, dtype=torch.bfloat16)
    rounding[(1,)](x, y, N=64)
    assert torch.equal(y.view(torch.int16), x.bfloat16().view(torch.int16))
