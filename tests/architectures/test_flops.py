"""The bill's FLOPs, forward and backward, are what PyTorch's FlopCounterMode counts of the model in a GPU's forms.

Counted is what one more sequence in the batch adds. What a forward pass makes of its weights alone (filters), whatever
the batch, is in neither; ``ONCE`` holds what it is. The bill and the counter differ besides, and are made comparable:

- the counter has what a mask leaves out; a real run on the CPU says, mask by mask, how much that is (``left_out``);
- the backward pass of fused attention computes the scores again, five products for the forward's two: the bill is
  without recomputation;
- what has a recurrence of constant size, or so many taps, is billed by it, as decoding runs it and as recurrences that
  kernels cut into chunks are; training takes transforms instead (``AS_RECURRENCE``);
- the gradient of a convolution by transforms is two transforms, not four: the forward's spectra are kept;
- more than four taps of a short convolution are multiply-adds of whole tensors, which the counter takes for elementwise
  (``TAPS``);
- a query's choice among chunks is a product with all of them, also later ones, and has no gradient.

``DIFFERENCES`` holds how far the two are apart without any of this.
"""

import math
from collections import Counter
from functools import lru_cache
from typing import Any

import pytest
import torch
from hybridlab.architectures import Budget, HybridModel, Mix, ModelConfig, bill, layer_names
from hybridlab.architectures.as_on_gpu import as_on_gpu, autocast_as_on_gpu
from hybridlab.architectures.published import load_published
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

SIZES = [(64, 128), (256, 1024)]
"""d_model and length, whose doubles are sizes of transforms and whose windows and chunks divide it."""
TOLERANCE = 1e-4
"""Nothing but rounding is left at these lengths. Where twice a length is no size of a transform, zeros are added, up to
a fifth: with T = 100 (224 for 200), a hyena of width 64 counts 1.4% more than its bill."""
AS_RECURRENCE = {
    "s4": lambda layer: 8 * layer.d_state,  # B, C and both sides of the part of rank one
    "s4d": lambda layer: 2 * layer.d_state,
    "h3": lambda layer: 2 * layer.d_state,
    "hyena_li": lambda layer: (2 if layer.poles == "real" else 4) * layer.d_state,
    "hyena_mr": lambda layer: 2 * layer.filter_length,
}
"""FLOPs per token and channel of the form that the bill counts, where training takes transforms. S4's zero-order hold
is left out: its bill has the dense step of decoding, 2 N² per token and channel; training, in chunks, has 4 N of it."""
TAPS = {"h3": lambda layer: 2 * layer.d_state, "hyena_se": lambda layer: 2 * layer.filter_length}
"""FLOPs per token and channel of the taps that are added one by one."""
DIFFERENCES = {
    "attn": (0.477, 0.636),
    "h3": (-0.058, -0.073),
    "hyena": (0.0, -0.016),
    "hyena_li": (0.034, 0.018),
    "hyena_mr": (-0.058, -0.073),
    "hyena_se": (-0.006, -0.006),
    "hymba": (0.349, 0.427),
    "mla": (0.454, 0.636),
    "s4": (-0.233, -0.254),
    "s4d": (-0.013, -0.041),
    "shared_block": (0.203, 0.271),
    "sparse_attn": (1.084, 1.300),
    "swa": (0.176, 0.235),
}
"""(forward, forward and backward) the counter over the bill, less 1, at the larger size; 0 for other layers."""
ONCE = {"h3": 0.0477, "hyena": 0.1113, "hyena_li": 0.0380, "hyena_mr": 0.0219, "s4": 3.162, "s4d": 0.0885}
"""What a forward pass does once, whatever the batch, over the bill of one sequence, at the larger size; 0 for other
layers. It is what the counter has, which takes a complex product for a real one."""

Counts = Counter[Any]


def config_of(pattern: str, d_model: int = 64, **layers: dict[str, Any]) -> ModelConfig:
    layers = {"moe": {"hidden": 32}, "attn": {"head_dim": 32}, "conv": {"d_conv": 4}, **layers}
    return ModelConfig(pattern=pattern, d_model=d_model, vocab_size=96, layers=layers)


def alone(name: str, d_model: int) -> ModelConfig:
    return config_of({"shared_block": "shared_block@a mlp"}.get(name, name), d_model)


def counted(config: ModelConfig, B: int, T: int) -> tuple[Counts, Counts]:
    """By operator, a forward pass and both passes, on tensors without memory."""
    with as_on_gpu():
        model = HybridModel(config)
        with FlopCounterMode(display=False) as counter:
            with autocast_as_on_gpu("bf16"):
                logits = model(torch.zeros(B, T, dtype=torch.int64))[0]
            forward = Counter(counter.get_flop_counts()["Global"])
            logits.float().sum().backward()
    return forward, Counter(counter.get_flop_counts()["Global"])


def one_more(config: ModelConfig, T: int) -> tuple[Counts, Counts, int]:
    """By operator, what one more sequence adds to a forward pass and to both, and what a forward pass does once."""
    of_one, of_two = counted(config, 1, T), counted(config, 2, T)
    forward, both = (two - one for one, two in zip(of_one, of_two, strict=True))
    return forward, both, of_one[0].total() - forward.total()


@lru_cache
def one_more_alone(name: str, d_model: int, T: int) -> tuple[Counts, Counts, int]:
    return one_more(alone(name, d_model), T)


class _Scores(TorchFunctionMode):
    """Adds up the FLOPs of attention between queries and keys that they do not see."""

    left_out = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            self._add(*args, **kwargs)
        return func(*args, **kwargs)

    def _add(self, q: Any, k: Any, v: Any, attn_mask: Any = None, is_causal: bool = False, **_: Any) -> None:
        shape = (*q.shape[:3], k.shape[2])
        if is_causal:
            attn_mask = torch.ones(shape[2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            unseen = int((~attn_mask.expand(shape)).sum())
            self.left_out += 2 * (q.shape[-1] + v.shape[-1]) * unseen


def left_out(config: ModelConfig, T: int) -> int:
    """FLOPs of one sequence's scores and values that masks leave out: of a real forward pass on the CPU."""
    torch.manual_seed(0)
    with torch.no_grad(), _Scores() as scores:
        HybridModel(config).eval()(torch.randint(config.vocab_size, (1, T)))
    return scores.left_out


def computed_again(both: Counts) -> int:
    """By the backward pass of fused attention, which the counter has at more than twice the forward."""
    of_attention = {str(op): flops for op, flops in both.items() if "attention" in str(op)}
    backward = sum(flops for op, flops in of_attention.items() if op.endswith("_backward"))
    return backward - 2 * (sum(of_attention.values()) - backward)


def transforms(channels: int, T: int) -> float:
    """There and back for one sequence: real numbers, half of a complex transform's 5 n log₂ n, zeros behind the T."""
    return channels * 2 * 2.5 * 2 * T * math.log2(2 * T)


def choice(layer: Any, d_model: int, T: int) -> tuple[float, float]:
    """FLOPs of choosing chunks: (with all chunks, with those that there are to choose among)."""
    n_chunks = -(-T // layer.chunk)
    if n_chunks <= layer.top_k:
        return 0.0, 0.0
    own = [t // layer.chunk for t in range(T)]
    return 2.0 * d_model * n_chunks * T, 2.0 * d_model * sum(n for n in own if n >= layer.top_k)


def beside(config: ModelConfig, T: int) -> tuple[float, float]:
    """(forward, forward and backward) FLOPs that one sequence's counts lack, negative for what they have too much."""
    forward = both = 0.0
    d = config.d_model
    for layer in (place.layer for sublayer in config.sublayers() for place in sublayer):
        billed = TAPS.get(layer.name, lambda _: 0)(layer) * d * T
        if layer.name in AS_RECURRENCE:
            billed += AS_RECURRENCE[layer.name](layer) * d * T
            forward -= transforms(d, T)
            both -= 2 * transforms(d, T)
        if layer.name == "hyena":
            both += (layer.order - 1) * transforms(d * layer.head_width, T)
        if layer.name == "sparse_attn":
            with_all, among = choice(layer, d, T)
            forward += among - with_all
            both += 3 * among - with_all
        forward += billed
        both += 3 * billed
    return forward, both


def check(config: ModelConfig, T: int, forward: Counts, both: Counts) -> None:
    masked, (more_forward, more_both) = left_out(config, T), beside(config, T)
    costs = bill(config)
    assert (forward.total() - masked + more_forward) / T == pytest.approx(costs.flops_per_token(T), rel=TOLERANCE)
    corrected = both.total() - 3 * masked - computed_again(both) + more_both
    assert corrected / T == pytest.approx(costs.training_flops_per_token(T), rel=TOLERANCE)


@pytest.mark.parametrize(("d_model", "T"), SIZES)
@pytest.mark.parametrize("name", layer_names())
def test_the_bill_of_every_layer_is_what_torch_counts(name, d_model, T):
    forward, both, _ = one_more_alone(name, d_model, T)
    check(alone(name, d_model), T, forward, both)


@pytest.mark.parametrize("name", layer_names())
def test_without_corrections_they_are_as_far_apart_as_is_known(name):
    d_model, T = SIZES[-1]
    forward, both, once = one_more_alone(name, d_model, T)
    costs = bill(alone(name, d_model))
    of_forward = forward.total() / T / costs.flops_per_token(T) - 1
    of_both = both.total() / T / costs.training_flops_per_token(T) - 1
    assert (of_forward, of_both) == pytest.approx(DIFFERENCES.get(name, (0, 0)), abs=0.001)
    assert once / T / costs.flops_per_token(T) == pytest.approx(ONCE.get(name, 0), rel=0.01)


OPTIONS = {
    "grouped heads in a window": ("swa", {"window": 32, "n_heads": 4, "n_kv_heads": 2}),
    "a window of values wider than keys": ("hymba", {"window": 32}),
    "more chunks than a query may have": ("sparse_attn", {"chunk": 16, "top_k": 3}),
    "two long convolutions": ("hyena", {"order": 3}),
    "heads of long convolutions": ("hyena", {"head_width": 4}),
    "complex poles": ("hyena_li", {"poles": "complex", "d_state": 8}),
    "queries of low rank": ("mla", {"q_rank": 16, "head_gate": True}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_bill_of_an_option_is_what_torch_counts(case):
    name, options = OPTIONS[case]
    config = config_of(name, **{name: options})
    check(config, 128, *one_more(config, 128)[:2])


MIXES = {
    "one attention in four": Mix(depth=8, ratio="1:3"),
    "attention beside two kinds": Mix(
        depth=4, mixer="gated_deltanet hyena_li", attention="swa{window=32}", ratio=0.5, parallel=True
    ),
    "experts and latents": Mix(depth=6, mixer="s4d kda", attention="mla", ratio="1/3", moe_every=2),
    "no mlp": Mix(depth=5, mixer="rwkv7 h3", attention="sparse_attn{chunk=16}", placement="last", ratio=0.2, mlp=None),
}


@pytest.mark.parametrize("case", MIXES)
def test_the_bill_of_a_mix_is_what_torch_counts(case):
    config = config_of(str(MIXES[case].pattern()))
    check(config, 128, *one_more(config, 128)[:2])


@pytest.mark.parametrize("name", ["evo2-7b", "hymba-1.5b", "jamba-v0.1", "zamba2-1.2b"])
def test_the_bill_of_a_published_model_scaled_down_is_what_torch_counts(name):
    config = load_published(name).scaled(Budget(value=30e6), vocab_size=512).config
    check(config, 256, *one_more(config, 256)[:2])


@pytest.mark.parametrize("n", [64, 96])
def test_transforms_are_counted_by_their_length(n):
    """5 n log₂ n for n complex numbers, half of it for real ones; over two axes, for the product of both."""
    x = torch.zeros(3, n)
    complex_ones = 5 * 3 * n * math.log2(n)
    for transform, expected in (
        (lambda: torch.fft.rfft(x), complex_ones / 2),
        (lambda: torch.fft.irfft(torch.zeros(3, n // 2 + 1, dtype=torch.complex64), n=n), complex_ones / 2),
        (lambda: torch.fft.fft(x.to(torch.complex64)), complex_ones),
        (lambda: torch.fft.fft2(x.to(torch.complex64)), 5 * 3 * n * math.log2(3 * n)),
    ):
        with FlopCounterMode(display=False) as counter:
            transform()
        assert counter.get_total_flops() == pytest.approx(expected, abs=1)
