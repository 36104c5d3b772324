"""Self-checks, run by `hybridlab doctor`: does each operation give, on this machine, what its fp64 reference gives?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .convolution import (
    long_convolution,
    long_convolution_reference,
    short_convolution,
    short_convolution_reference,
)
from .delta_rule import delta_rule, delta_rule_reference, dplr, dplr_reference
from .gated_linear_attention import gated_linear_attention, gated_linear_attention_reference
from .loss import linear_cross_entropy, linear_cross_entropy_reference
from .normalization import gated_rms_norm, gated_rms_norm_reference, l2_norm
from .selective_scan import selective_scan, selective_scan_reference


@dataclass(frozen=True)
class Check:
    """One operation in one setting, compared with its reference in value and gradient."""

    name: str
    inputs: Callable[[torch.Generator], dict[str, Tensor]]
    """Draws the tensor arguments in fp32 on the CPU."""
    fast: Callable[..., tuple[Any, ...]]
    reference: Callable[..., tuple[Any, ...]]
    narrow: tuple[str, ...] = ()
    """The arguments that training under autocast has in 16 bits; the others, as decays and states, stay in fp32."""

    def check(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> float:
        """Return the largest relative error (of norms) over the outputs and the gradients of all inputs.

        The `narrow` arguments are in `dtype`, and the reference is given what they were rounded to.
        """
        drawn = self.inputs(torch.Generator().manual_seed(0))
        drawn |= {name: drawn[name].to(dtype) for name in self.narrow}
        expected = _outputs_and_gradients(self.reference, {name: x.double() for name, x in drawn.items()})
        actual = _outputs_and_gradients(self.fast, {name: x.to(device) for name, x in drawn.items()})
        errors = [_relative_error(a, e) for a, e in zip(actual, expected, strict=True)]
        return torch.tensor(errors, dtype=torch.float64).max().item()  # unlike Python's max, this one keeps a NaN


def _outputs_and_gradients(operation: Callable[..., tuple[Any, ...]], inputs: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    outputs = operation(**leaves)
    # A fixed function of the outputs that is not symmetric in them, so that no gradient is trivially right.
    loss = torch.stack(
        [(y * torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y)).sum() for y in outputs]
    ).sum()
    return [*outputs, *torch.autograd.grad(loss, list(leaves.values()))]


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    difference = actual.detach().double().cpu() - expected.detach()
    return (difference.norm() / expected.norm().clamp_min(1e-30)).item()


def _gated_linear_attention(kind: str, *, bonus: bool = False) -> Check:
    B, T, H, K, V = 2, 100, 2, 16, 32

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        drawn = {"q": draw(B, T, H, K), "k": draw(B, T, H, K), "v": draw(B, T, H, V), "initial_state": draw(B, H, K, V)}
        decay_shapes = {"head": (H,), "token": (B, T, H), "channel": (B, T, H, K)}
        if kind != "none":
            drawn["decay"] = -draw(*decay_shapes[kind]).abs()
        if bonus:
            drawn["bonus"] = draw(H, K)
        return drawn

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, kind=kind, output_final_state=True)

    name = f"gated linear attention, decay per {kind}" if kind != "none" else "linear attention"
    fast, reference = run(gated_linear_attention), run(gated_linear_attention_reference)
    return Check(name + (" with bonus" if bonus else ""), inputs, fast, reference, ("q", "k", "v"))


def _mamba2() -> Check:
    # So many sequences that the kernels of heads that share keys are taken on any GPU.
    B, T, H, K, V = 40, 70, 4, 16, 16

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"q": (B, T, 1, K), "k": (B, T, 1, K), "v": (B, T, H, V), "initial_state": (B, H, K, V), "skip": (H,)}
        drawn = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        dt = torch.rand(B, T, H, generator=generator)
        return drawn | {"decay": -dt, "value_scale": dt}

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, kind="token", output_final_state=True)

    fast, reference = run(gated_linear_attention), run(gated_linear_attention_reference)
    return Check("heads that share keys (Mamba-2)", inputs, fast, reference, ("q", "k", "v"))


def _delta_rule(name: str, kind: str) -> Check:
    B, T, H, K, V = 2, 100, 2, 16, 32

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"q": (B, T, H, K), "k": (B, T, H, K), "v": (B, T, H, V), "beta": (B, T, H)}
        shapes |= {"initial_state": (B, H, K, V)}
        decay_shapes = {"token": (B, T, H), "channel": (B, T, H, K)}
        drawn = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        drawn |= {"k": l2_norm(drawn["k"]), "beta": 2 * drawn["beta"].sigmoid()}
        return drawn if kind == "none" else drawn | {"decay": -torch.rand(*decay_shapes[kind], generator=generator)}

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, output_final_state=True)

    return Check(name, inputs, run(delta_rule), run(delta_rule_reference), ("q", "k", "v"))


def _dplr() -> Check:
    B, T, H, K, V = 2, 100, 2, 16, 32

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = dict.fromkeys(("q", "k", "a", "b", "decay"), (B, T, H, K))
        shapes |= {"v": (B, T, H, V), "initial_state": (B, H, K, V)}
        drawn = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        removed = l2_norm(drawn["a"])
        return drawn | {"a": -removed, "b": removed * drawn["b"].sigmoid(), "decay": -drawn["decay"].abs()}

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, output_final_state=True)

    return Check("diagonal plus low rank (RWKV-7)", inputs, run(dplr), run(dplr_reference), ("q", "k", "v", "a", "b"))


def _selective_scan() -> Check:
    B, T, D, N = 2, 100, 16, 8

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"u": (B, T, D), "dt": (B, T, D), "A": (D, N), "B": (B, T, N), "C": (B, T, N), "D": (D,)}
        shapes |= {"z": (B, T, D), "dt_bias": (D,), "initial_state": (B, D, N)}
        drawn = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        return drawn | {"A": -drawn["A"].exp()}

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, dt_softplus=True, output_final_state=True)

    narrow = ("u", "dt", "B", "C", "z")
    return Check("selective scan", inputs, run(selective_scan), run(selective_scan_reference), narrow)


def _short_convolution() -> Check:
    B, T, D, W = 2, 100, 16, 4

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"x": (B, T, D), "weight": (D, W), "bias": (D,), "initial_state": (B, W - 1, D)}
        return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}

    def run(operation: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: operation(**tensors, activation="silu", output_final_state=True)

    return Check("short convolution", inputs, run(short_convolution), run(short_convolution_reference), ("x",))


def _long_convolution() -> Check:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"x": (2, 100, 16), "filters": (16, 100), "skip": (16,)}
        return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}

    def run(operation: Callable[..., Tensor]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: (operation(**tensors),)

    return Check("long convolution", inputs, run(long_convolution), run(long_convolution_reference))


def _gated_rms_norm() -> Check:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"x": (2, 100, 64), "z": (2, 100, 64), "weight": (64,)}
        return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}

    def run(operation: Callable[..., Tensor]) -> Callable[..., tuple[Any, ...]]:
        return lambda **tensors: (operation(**tensors, group_size=32),)

    return Check("gated RMS norm", inputs, run(gated_rms_norm), run(gated_rms_norm_reference), ("x", "z"))


def _loss() -> Check:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {"hidden": torch.randn(60, 16, generator=generator), "weight": torch.randn(50, 16, generator=generator)}

    def run(operation: Callable[..., Tensor]) -> Callable[..., tuple[Any, ...]]:
        def call(hidden: Tensor, weight: Tensor) -> tuple[Any, ...]:
            targets = torch.arange(60, device=hidden.device) * 7 % 50
            return (operation(hidden, weight, targets, scale=0.5, cap=5.0)[None],)

        return call

    return Check("loss", inputs, run(linear_cross_entropy), run(linear_cross_entropy_reference), ("hidden", "weight"))


OPERATIONS: tuple[Check, ...] = (
    _gated_linear_attention("none"),
    _gated_linear_attention("head"),
    _gated_linear_attention("token"),
    _gated_linear_attention("channel"),
    _gated_linear_attention("channel", bonus=True),
    _mamba2(),
    _delta_rule("delta rule", "none"),
    _delta_rule("gated delta rule", "token"),
    _delta_rule("Kimi delta attention", "channel"),
    _dplr(),
    _selective_scan(),
    _short_convolution(),
    _long_convolution(),
    _gated_rms_norm(),
    _loss(),
)
"""What `hybridlab doctor` checks."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""On a GPU: products of fp32 may be TF32, and in bf16 a sum that cancels off by 3%. A wrong kernel is off by more."""
