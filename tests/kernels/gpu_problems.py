"""Every shipped configuration of every operation, and the problems on which its kernels must agree with fp64 on a GPU.

A configuration is what kernels are compiled for: an operation at a dtype and widths. Its problems run through it one
after another: lengths, initial states, packed sequences, decays from none to e^-50 a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from hybridlab import kernels
from torch import Tensor

DEVICE = "cuda"
LENGTHS = (1, 63, 64, 500, 4096)
LONG = 64
"""Above this length the exact result is the PyTorch form's in fp64, which the CPU's tests hold to the reference."""
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
PACKED = (0, 1, 64, 129, 129, 400, 500)

TOLERANCE = {FP32: 1e-5, FP16: 1e-3, BF16: 5e-3}
DECAY_TOLERANCE = {FP32: 1e-5, FP16: 2e-3, BF16: 1e-2}
"""Of the gradients of decays and of beta, which are sums of differences."""
DECAYS = ("decay", "A", "dt", "dt_bias", "beta")


@dataclass
class Problem:
    """Arguments of one call: tensors, which are differentiated, and options."""

    name: str
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Configuration:
    """An operation at a dtype and widths, and its problems; `advances`: one step, which changes that argument."""

    operation: str
    dtype: torch.dtype
    widths: str
    call: Callable[..., Any]
    reference: Callable[..., Any]
    problems: Callable[[], Iterator[Problem]]
    advances: str | None = None
    slack: float = 1.0
    """How many times the tolerance it gets: more than once only where nothing that was rounded is forgotten."""

    def __str__(self) -> str:
        return f"{self.operation} {str(self.dtype)[6:]} {self.widths}"


@dataclass(frozen=True)
class Shortfall:
    """A result that is known to miss its tolerance, by how much at most, and why."""

    operation: str
    """How the names of its operations begin."""
    dtype: torch.dtype
    quantity: str
    decay: str
    """The problems: a word of their names."""
    bound: float
    why: str


SHORTFALLS = (
    *(
        Shortfall(
            rule, FP32, "ddecay", "uniform", most, "sums of q dq and k dk that cancel, where nearly all decays away"
        )
        for rule, most in (("gated linear attention", 1.5e-5), ("delta rule", 3e-5))
    ),
    *(
        Shortfall(
            rule, FP16, "dinitial_state", "uniform", 0.3, "what passed a decay under e^-9 is not normal in float16"
        )
        for rule in ("gated linear attention", "delta rule")
    ),
)


def shortfall(c: Configuration, quantity: str, problem: str) -> Shortfall | None:
    """The known shortfall of a quantity in a problem."""
    for s in SHORTFALLS:
        if c.operation.startswith(s.operation) and (c.dtype, quantity) == (s.dtype, s.quantity) and s.decay in problem:
            return s
    return None


def errors(c: Configuration, p: Problem) -> dict[str, float]:
    """The relative error ‖x − exact‖ / ‖exact‖ of every output and gradient; infinite where one holds NaN."""
    double = {name: x.double() for name, x in p.tensors.items()}
    length = next(iter(p.tensors.values())).shape[1]
    in_fp64 = partial(c.call, backend="torch")
    if c.advances is not None:
        exact = _step(in_fp64, c, double, p.options)
    else:
        exact = _run(c.reference if length <= LONG else in_fp64, c.dtype, double, p.options)
    actual = run_kernels(c, p)
    return {name: _error(actual[name], x) for name, x in exact.items()}


def run_kernels(c: Configuration, p: Problem) -> dict[str, Tensor]:
    """Outputs and gradients by the kernels; of a step its output and the state that it leaves."""
    call = partial(c.call, backend="triton")
    return _step(call, c, p.tensors, p.options) if c.advances else _run(call, c.dtype, p.tensors, p.options)


def tolerance(c: Configuration, quantity: str) -> float:
    # The delta rule's decay per head has for a gradient one sum over all tokens, which may all but cancel.
    cancels = 3.0 if quantity == "ddecay" and c.operation == "delta rule head" else 1.0
    return cancels * c.slack * (DECAY_TOLERANCE if quantity in [f"d{name}" for name in DECAYS] else TOLERANCE)[c.dtype]


def _error(actual: Tensor, exact: Tensor) -> float:
    error = float((actual.double() - exact).norm() / exact.norm().clamp_min(1e-30))
    return error if error == error else float("inf")


def _run(call: Callable[..., Any], dtype: torch.dtype, tensors: dict[str, Tensor], options: dict[str, Any]):
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    outputs = call(**leaves, **options)
    outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]
    g = torch.Generator(DEVICE).manual_seed(2**31)  # a seed that no problem has
    incoming = []
    for y in outputs:
        drawn = torch.randn(y.shape, generator=g, device=DEVICE)
        incoming.append((drawn.to(dtype) if len(incoming) == 0 else drawn).to(y.dtype))
    gradients = torch.autograd.grad(outputs, list(leaves.values()), incoming)
    named = dict(zip(("output", "state"), (y.detach() for y in outputs), strict=False))
    return named | {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}


def _step(call: Callable[..., Any], c: Configuration, tensors: dict[str, Tensor], options: dict[str, Any]):
    given = {name: x.clone() for name, x in tensors.items()}
    y = call(**given, **options)
    return {"output": y, "state": given[c.advances or ""]}


class Draw:
    """Random tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator(DEVICE).manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype = FP32) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=DEVICE).to(dtype)

    def decay(self, kind: str, *shape: int) -> Tensor:
        """Natural-log decays: as models have them, slow as GLA's, 0 or e^-30 or e^-50, uniform to e^-30."""
        normal = self(*shape)
        if kind == "extreme":
            choice = torch.randint(0, 3, shape, generator=self.generator, device=DEVICE)
            return torch.tensor([0.0, -30.0, -50.0], device=DEVICE)[choice]
        if kind == "uniform":
            return -30 * torch.rand(shape, generator=self.generator, device=DEVICE)
        return F.logsigmoid(normal) / 16 if kind == "slow" else F.logsigmoid(2 * normal + 1)


@dataclass(frozen=True)
class Shape:
    """A call's sizes and what its decays are like."""

    T: int
    B: int = 1
    decay: str = "usual"
    packed: tuple[int, ...] | None = None
    heads: tuple[int, int] = (4, 2)
    """Of v, and of q and k."""

    @property
    def name(self) -> str:
        packed = " packed" if self.packed else ""
        return f"T{self.T}{'' if self.B == 1 else f' B{self.B}'} {self.decay}{packed}"

    @property
    def sequences(self) -> int:
        return self.B if self.packed is None else len(self.packed) - 1

    @property
    def options(self) -> dict[str, Any]:
        if self.packed is None:
            return {}
        return {"cu_seqlens": torch.tensor(self.packed, dtype=torch.int32, device=DEVICE)}


SHAPES = (
    Shape(1, B=16),  # so many sequences that an error is not that of a few numbers
    *(Shape(T) for T in LENGTHS[1:-1]),
    Shape(4096, decay="slow"),
    Shape(500, packed=PACKED),
)
EXTREMES = (Shape(500, decay="extreme"), Shape(500, decay="uniform"))
WIDE = (Shape(1100, B=20, decay="slow", heads=(7, 7)),)
"""With so many programs that no kernel splits them along time; heads share no keys."""


def gated_linear_attention(
    kind: str, dtype: torch.dtype, K: int, V: int, *, bonus: bool = False, normalize: bool = False, fixed: bool = False
) -> Configuration:
    """`fixed`: the decay requires no gradient, as RetNet's; one per head that does is computed in float32."""

    def problems() -> Iterator[Problem]:
        # With a normaliser strong decays leave o = v, and gradients of q and k that are all rounding.
        extremes = EXTREMES if kind in ("token", "channel") and not normalize else ()
        shapes = SHAPES + extremes + (WIDE if K == 128 else ())
        for s in shapes:
            draw, (H, Hk) = Draw(s.T), s.heads
            q, k, v = draw(s.B, s.T, Hk, K), draw(s.B, s.T, Hk, K), draw(s.B, s.T, H, V)
            if normalize:
                q, k = q.abs() + 0.1, k.abs() + 0.1
            x = {"q": q.to(dtype), "k": k.to(dtype), "v": v.to(dtype)}
            sizes = {"head": (H,), "token": (s.B, s.T, H), "channel": (s.B, s.T, H, K)}
            if kind in sizes:
                x["decay"] = draw.decay(s.decay, *sizes[kind])
            if bonus:
                x["bonus"] = draw(H, K)
            state = draw(s.sequences, H, K, V + normalize)
            x["initial_state"] = state.abs() if normalize else state
            options = {"kind": kind, "normalize": normalize, "output_final_state": not normalize, **s.options}
            if fixed:
                options["decay"] = x.pop("decay")
            yield Problem(s.name, x, options)

    name = f"gated linear attention {kind}{'+bonus' if bonus else ''}{' normalised' if normalize else ''}"
    name += " fixed" if fixed else ""
    call, reference = kernels.gated_linear_attention, kernels.gated_linear_attention_reference
    return Configuration(name, dtype, f"K{K} V{V}", call, reference, problems)


def mamba2(dtype: torch.dtype, K: int, V: int) -> Configuration:
    """All heads share q and k; dt and D are the kernels' own."""

    def problems() -> Iterator[Problem]:
        for s in SHAPES + EXTREMES + (WIDE if K == 128 else ()):
            draw, H = Draw(s.T), 4
            x = {"q": draw(s.B, s.T, 1, K), "k": draw(s.B, s.T, 1, K), "v": draw(s.B, s.T, H, V)}
            x = {name: t.to(dtype) for name, t in x.items()} | {"decay": draw.decay(s.decay, s.B, s.T, H)}
            x |= {"value_scale": F.softplus(draw(s.B, s.T, H)), "skip": draw(H)}
            x["initial_state"] = draw(s.sequences, H, K, V)
            yield Problem(s.name, x, {"kind": "token", "output_final_state": True, **s.options})

    call, reference = kernels.gated_linear_attention, kernels.gated_linear_attention_reference
    fused = dtype != FP32 and {K, V} <= {16, 32, 64, 128}
    name = f"gated linear attention Mamba-2{', heads together' if fused else ''}"
    return Configuration(name, dtype, f"K{K} V{V}", call, reference, problems)


def gated_linear_attention_step(kind: str, dtype: torch.dtype, K: int, V: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for B in (1, 3, 256):
            draw, H = Draw(B), 4
            x = {"q": draw(B, H, K, dtype=dtype), "k": draw(B, H, K, dtype=dtype), "v": draw(B, H, V, dtype=dtype)}
            sizes = {"head": (H,), "token": (B, H), "channel": (B, H, K)}
            if kind in sizes:
                x["decay"] = draw.decay("usual", *sizes[kind])
            yield Problem(f"B{B}", x | {"state": draw(B, H, K, V)}, {"kind": kind})

    call = kernels.gated_linear_attention_step
    return Configuration(
        f"gated linear attention step {kind}", dtype, f"K{K} V{V}", call, call, problems, advances="state"
    )


def delta_rule(kind: str, dtype: torch.dtype, K: int, V: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for s in SHAPES + (EXTREMES if kind == "token" else ()) + (WIDE if K in (60, 64, 128) else ()):
            draw, (H, Hk) = Draw(s.T), s.heads
            q, k = (F.normalize(draw(s.B, s.T, Hk, K), dim=-1).to(dtype) for _ in range(2))
            x = {"q": q, "k": k, "v": draw(s.B, s.T, H, V, dtype=dtype), "beta": draw(s.B, s.T, H).sigmoid()}
            sizes = {"head": (H,), "token": (s.B, s.T, H)}
            if kind in sizes:
                x["decay"] = draw.decay(s.decay, *sizes[kind])
            x["initial_state"] = draw(s.sequences, H, K, V)
            yield Problem(s.name, x, {"kind": kind, "output_final_state": True, **s.options})

    name, slack = f"delta rule {kind}", 1.5 if kind == "none" else 1.0
    return Configuration(
        name, dtype, f"K{K} V{V}", kernels.delta_rule, kernels.delta_rule_reference, problems, slack=slack
    )


def delta_rule_step(kind: str, dtype: torch.dtype, K: int, V: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for B in (1, 3, 256):
            draw, H = Draw(B), 4
            q, k = (F.normalize(draw(B, H, K), dim=-1).to(dtype) for _ in range(2))
            x = {"q": q, "k": k, "v": draw(B, H, V, dtype=dtype), "beta": 2 * draw(B, H).sigmoid()}
            sizes = {"head": (H,), "token": (B, H), "channel": (B, H, K)}
            if kind in sizes:
                x["decay"] = draw.decay("usual", *sizes[kind])
            yield Problem(f"B{B}", x | {"state": draw(B, H, K, V)}, {"kind": kind})

    call = kernels.delta_rule_step
    return Configuration(f"delta rule step {kind}", dtype, f"K{K} V{V}", call, call, problems, advances="state")


def channel_delta(rule: str, dtype: torch.dtype, K: int, V: int) -> Configuration:
    """The delta rule with a decay per channel, and dplr with a and b as RWKV-7's.

    With beta up to 2, bfloat16's errors of beta's gradient, a difference of two sums, reach 5.6e-3.
    """

    def problems() -> Iterator[Problem]:
        for s in SHAPES + EXTREMES:
            draw, (H, Hk) = Draw(s.T), s.heads
            q, k, a = (F.normalize(draw(s.B, s.T, Hk, K), dim=-1) for _ in range(3))
            x = {"q": q.to(dtype), "k": k.to(dtype), "v": draw(s.B, s.T, H, V, dtype=dtype)}
            if rule == "dplr":
                x |= {"a": -a.to(dtype), "b": (a * draw(s.B, s.T, Hk, K).sigmoid()).to(dtype)}
            else:
                x["beta"] = 2 * draw(s.B, s.T, H).sigmoid()
            x["decay"] = draw.decay(s.decay, s.B, s.T, H, K)
            x["initial_state"] = draw(s.sequences, H, K, V)
            yield Problem(s.name, x, {"output_final_state": True, **s.options})

    call = kernels.dplr if rule == "dplr" else kernels.delta_rule
    reference = kernels.dplr_reference if rule == "dplr" else kernels.delta_rule_reference
    name = "dplr" if rule == "dplr" else "delta rule channel"
    return Configuration(name, dtype, f"K{K} V{V}", call, reference, problems, slack=1.5)


def dplr_step(dtype: torch.dtype, K: int, V: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for B in (1, 3, 256):
            draw, H = Draw(B), 4
            x = {name: F.normalize(draw(B, H, K), dim=-1).to(dtype) for name in "qkab"}
            x |= {"v": draw(B, H, V, dtype=dtype), "decay": draw.decay("usual", B, H, K)}
            yield Problem(f"B{B}", x | {"state": draw(B, H, K, V)})

    call = kernels.dplr_step
    return Configuration("dplr step", dtype, f"K{K} V{V}", call, call, problems, advances="state")


def short_convolution(dtype: torch.dtype, W: int, D: int, *, bare: bool = False) -> Configuration:
    """`bare`: without bias, activation and initial state."""

    def problems() -> Iterator[Problem]:
        for s in (*SHAPES, Shape(500, B=3)):
            draw = Draw(s.T)
            x = {"x": draw(s.B, s.T, D, dtype=dtype), "weight": draw(D, W, dtype=dtype)}
            if not bare:
                x |= {"bias": draw(D, dtype=dtype), "initial_state": draw(s.sequences, W - 1, D)}
            activation = None if bare else "silu"
            yield Problem(s.name, x, {"activation": activation, "output_final_state": True, **s.options})

    call, reference = kernels.short_convolution, kernels.short_convolution_reference
    return Configuration(f"short convolution{', bare' if bare else ''}", dtype, f"W{W} D{D}", call, reference, problems)


def short_convolution_step(dtype: torch.dtype, W: int, D: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for B in (1, 64):
            draw = Draw(B)
            x = {"x": draw(B, D, dtype=dtype), "weight": draw(D, W, dtype=dtype), "state": draw(B, W - 1, D)}
            yield Problem(f"B{B}", x | {"bias": draw(D, dtype=dtype)}, {"activation": "silu"})

    call = kernels.short_convolution_step
    return Configuration("short convolution step", dtype, f"W{W} D{D}", call, call, problems, advances="state")


def norm(name: str, dtype: torch.dtype, D: int, group: int | None = None, **options: Any) -> Configuration:
    def problems() -> Iterator[Problem]:
        for T in LENGTHS:
            draw = Draw(T)
            x = {"x": draw(2, T, D, dtype=dtype)}
            x |= {"z": draw(2, T, D, dtype=dtype)} if name == "gated_rms_norm" else {}
            x |= {"weight": draw(D, dtype=dtype)} if name != "l2_norm" else {}
            yield Problem(f"T{T}", x, options | ({"group_size": group} if group else {}))

    call, reference = getattr(kernels, name), getattr(kernels, f"{name}_reference")
    detail = " gate last" if options.get("norm_before_gate") else ""
    return Configuration(f"{name}{detail}", dtype, f"D{D}{f'/{group}' if group else ''}", call, reference, problems)


def selective_scan(dtype: torch.dtype, D: int, N: int, *, bare: bool = False) -> Configuration:
    """`bare`: without D, z, dt_bias and initial state."""

    def problems() -> Iterator[Problem]:
        lengths = [(T, 1.0) for T in LENGTHS] + [(500, strength) for strength in (0.0, 1e-4, 50.0, 1e3)]
        for T, strength in lengths:
            draw, B = Draw(T), 1 if T == 4096 else 2
            x = {"u": draw(B, T, D, dtype=dtype), "dt": (draw(B, T, D) - 3).to(dtype)}
            x |= {"A": -strength * (draw(D, N) / 2).exp(), "B": draw(B, T, N, dtype=dtype)}
            x |= {"C": draw(B, T, N, dtype=dtype), "D": draw(D), "z": draw(B, T, D, dtype=dtype)}
            x |= {"dt_bias": draw(D) / 2, "initial_state": draw(B, D, N)}
            if bare:
                x = {name: x[name] for name in ("u", "dt", "A", "B", "C")}
            strong = "" if strength == 1.0 else f" A·{strength:g}"
            yield Problem(f"T{T}{strong}", x, {"dt_softplus": True, "output_final_state": True})

    call, reference = kernels.selective_scan, kernels.selective_scan_reference
    return Configuration(f"selective scan{', bare' if bare else ''}", dtype, f"D{D} N{N}", call, reference, problems)


def selective_scan_step(dtype: torch.dtype, D: int, N: int) -> Configuration:
    def problems() -> Iterator[Problem]:
        for B in (1, 64):
            draw = Draw(B)
            x = {name: draw(B, D, dtype=dtype) for name in ("u", "dt", "z")} | {"A": -draw(D, N).exp(), "D": draw(D)}
            x |= {"B": draw(B, N, dtype=dtype), "C": draw(B, N, dtype=dtype), "dt_bias": draw(D)}
            yield Problem(f"B{B}", x | {"state": draw(B, D, N)}, {"dt_softplus": True})

    call = kernels.selective_scan_step
    return Configuration("selective scan step", dtype, f"D{D} N{N}", call, call, problems, advances="state")


def loss(dtype: torch.dtype, **options: Any) -> Configuration:
    def problems() -> Iterator[Problem]:
        for N in (1, 500, 4096):
            draw = Draw(N)
            targets = torch.randint(3000, (N,), generator=draw.generator, device=DEVICE)
            targets[1::3] = -100
            x = {"hidden": draw(1, N, 100, dtype=dtype), "weight": (draw(3000, 100) / 10).to(dtype)}
            yield Problem(f"N{N}", x, options | {"targets": targets})

    def flat(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(hidden: Tensor, weight: Tensor, *, targets: Tensor, **rest: Any) -> Tensor:
            return operation(hidden[0], weight, targets, **rest)

        return call

    call, reference = flat(kernels.linear_cross_entropy), flat(kernels.linear_cross_entropy_reference)
    return Configuration(f"loss{' scaled and capped' if options else ''}", dtype, "V3000", call, reference, problems)


WIDTHS = ((256, 256), (128, 128), (60, 100), (16, 16))
KINDS = ("channel", "token", "head", "none")
NORMS = ("rms_norm", "gated_rms_norm", "l2_norm")

# Slow to compile first, so that no worker is left with one at the end.
CONFIGURATIONS: tuple[Configuration, ...] = (
    *(gated_linear_attention(kind, BF16, K, V) for K, V in WIDTHS for kind in KINDS),
    *(gated_linear_attention("head", BF16, K, V, fixed=True) for K, V in WIDTHS),
    gated_linear_attention("head", FP16, 128, 128, fixed=True),
    *(gated_linear_attention(kind, FP32, 64, 64) for kind in KINDS),
    *(gated_linear_attention(kind, FP16, 128, 128) for kind in KINDS),
    *(gated_linear_attention(kind, FP32, 60, 100) for kind in ("channel", "token")),
    *(gated_linear_attention("channel", dtype, 64, 64, bonus=True) for dtype in (BF16, FP16, FP32)),
    *(gated_linear_attention(kind, BF16, 64, 64, normalize=True) for kind in ("none", "token")),
    *(mamba2(dtype, 128, 64) for dtype in (BF16, FP16, FP32)),
    *(mamba2(BF16, K, V) for K, V in ((256, 256), (60, 100), (64, 16))),
    *(channel_delta(rule, dtype, 64, 64) for rule in ("dplr", "delta") for dtype in (FP32, FP16)),
    *(channel_delta(rule, BF16, K, V) for rule in ("dplr", "delta") for K, V in (*WIDTHS[1:], (64, 64))),
    *(delta_rule(kind, BF16, K, V) for K, V in reversed(WIDTHS) for kind in KINDS[1:]),
    *(delta_rule(kind, FP32, K, V) for K, V in ((64, 64), (60, 100), (128, 128)) for kind in KINDS[1:]),
    *(delta_rule(kind, FP16, K, V) for K, V in ((64, 64), (128, 128)) for kind in KINDS[1:]),
    *(selective_scan(dtype, D, N) for dtype in (BF16, FP16, FP32) for D, N in ((256, 16), (100, 5), (64, 32))),
    *(selective_scan(BF16, D, N, bare=True) for D, N in ((128, 1), (100, 16))),
    *(short_convolution(dtype, W, 256) for dtype in (BF16, FP16, FP32) for W in (2, 3, 4)),
    *(short_convolution(BF16, 4, 1500, bare=bare) for bare in (False, True)),
    *(norm(name, dtype, D) for name in NORMS for dtype in (BF16, FP16, FP32) for D in (64, 100, 2048, 4096)),
    *(norm("gated_rms_norm", dtype, 768, 64, norm_before_gate=True) for dtype in (BF16, FP16, FP32)),
    *(gated_linear_attention_step(kind, BF16, K, V) for kind in KINDS for K, V in ((128, 128), (60, 100))),
    *(selective_scan_step(dtype, D, N) for dtype in (BF16, FP32) for D, N in ((256, 16), (100, 5))),
    *(loss(dtype, **options) for dtype in (BF16, FP32) for options in ({}, {"scale": 0.3, "cap": 5.0})),
    *(delta_rule_step(kind, BF16, K, V) for kind in KINDS for K, V in ((128, 128), (60, 100))),
    *(dplr_step(BF16, K, V) for K, V in ((64, 64), (60, 100))),
    *(short_convolution_step(dtype, W, 300) for dtype in (BF16, FP32) for W in (2, 4)),
)
