"""How each side of the benchmark is called: this project's kernels, its fp64 form, and the peers where installed."""

# The peers are optional and their types are not ours to check.
# pyright: reportCallIssue=false, reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from ..gated_linear_attention import gated_linear_attention
from .cases import Case, Inputs


def scale_of(case: Case) -> float:
    return 1.0 if case.op == "mamba2" else case.K**-0.5


def ours(case: Case, x: Inputs, backend: str = "triton") -> Tensor:
    step = -x.decay if case.op == "mamba2" and x.decay is not None else None  # dt where A is -1, as the peer has it
    o, _ = gated_linear_attention(
        x.q, x.k, x.v, decay=x.decay, kind=case.kind, bonus=x.bonus, scale=scale_of(case), backend=backend,  # pyright: ignore
        value_scale=step,
    )  # fmt: skip
    return o


def peer(case: Case) -> tuple[str, Callable[[Inputs], Tensor]] | None:
    """The peer's name and its call, or None where none is installed."""
    if case.op == "mamba2":
        return _mamba_ssm(case) if find_spec("mamba_ssm") else None
    return _fla(case) if find_spec("fla") else None


def _fla(case: Case) -> tuple[str, Callable[[Inputs], Tensor]] | None:
    from fla import __version__
    from fla.ops.gla import chunk_gla
    from fla.ops.linear_attn import chunk_linear_attn
    from fla.ops.retention import chunk_retention
    from fla.ops.rwkv6 import chunk_rwkv6
    from fla.ops.simple_gla import chunk_simple_gla

    calls: dict[str, Callable[[Inputs], Tensor]] = {
        "linear": lambda x: chunk_linear_attn(x.q, x.k, x.v, normalize=False)[0],
        "retention": lambda x: chunk_retention(x.q, x.k, x.v)[0],
        "simple_gla": lambda x: chunk_simple_gla(x.q, x.k, x.v, x.decay)[0],
        "gla": lambda x: chunk_gla(x.q, x.k, x.v, x.decay)[0],
        "rwkv6": lambda x: chunk_rwkv6(x.q, x.k, x.v, x.decay, x.bonus)[0],
    }
    return (f"fla-core {__version__}", calls[case.op]) if case.op in calls else None


def _mamba_ssm(case: Case) -> tuple[str, Callable[[Inputs], Tensor]]:
    from mamba_ssm import __version__
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def call(x: Inputs) -> Tensor:
        assert x.decay is not None
        A = -torch.ones(case.H, device=x.v.device)
        return mamba_chunk_scan_combined(x.v, -x.decay, A, x.k, x.q, chunk_size=256)

    return f"mamba-ssm {__version__}", call


def peer_step(case: Case, device: str, seed: int = 0) -> tuple[str, Callable[[], Tensor]] | None:
    """One step of fla's fused recurrence, which also reads and writes a whole state."""
    if not find_spec("fla"):
        return None
    from fla import __version__
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    state, q, k, v, decay = step_inputs(case, device, seed)
    q, k, v, decay = (t[:, None] for t in (q, k, v, decay))

    def call() -> Tensor:
        with torch.no_grad():
            return fused_recurrent_simple_gla(q, k, v, decay, initial_state=state, output_final_state=True)[0]

    return f"fla-core {__version__}", call


def step_inputs(case: Case, device: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """state fp32 [B, H, K, V], q and k [B, H, K], v [B, H, V] bfloat16, decay [B, H]."""
    g = torch.Generator(device).manual_seed(seed)
    B, H, K, V = case.B, case.H, case.K, case.V
    state = torch.randn(B, H, K, V, generator=g, device=device)
    q, k = (torch.randn(B, H, K, generator=g, device=device).bfloat16() for _ in range(2))
    v = torch.randn(B, H, V, generator=g, device=device).bfloat16()
    return state, q, k, v, -torch.rand(B, H, generator=g, device=device)
