"""What a trained model costs to serve, by the clock: prefill and decoding apart, at several lengths, and what its
cache holds."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..architectures import HybridModel, ModelState, Step, begin
from .config import EfficiencyConfig

LEAST_REPETITIONS = 3
T = TypeVar("T")


@torch.inference_mode()
def measure(model: HybridModel, config: EfficiencyConfig) -> dict[str, float]:
    """Metrics ``efficiency/<what>/<length>``: ``prefill_tokens_per_second`` (a prompt of that length, logits of its
    last token), ``decode_tokens_per_second`` (one token at a time after it; over all sequences of the batch),
    ``state_bytes`` (the tensors that decoding holds then, per sequence). Medians after a warm-up; weights' own
    dtype."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    metrics: dict[str, float] = {}
    for length in config.lengths:
        tokens_BT = torch.randint(model.config.vocab_size, (config.batch_size, length), generator=generator).to(device)
        state = _prefill(model, tokens_BT)
        metrics[f"efficiency/state_bytes/{length}"] = model.state_nbytes(state) / config.batch_size
        seconds = _median_seconds(lambda: tokens_BT, lambda tokens: _prefill(model, tokens), config.seconds, device)  # noqa: B023
        metrics[f"efficiency/prefill_tokens_per_second/{length}"] = tokens_BT.numel() / seconds
        seconds = _median_seconds(
            lambda: begin(model, list(tokens_BT), config.decode_tokens)[1],  # noqa: B023
            lambda step: _decode(step, tokens_BT[:, -1], config.decode_tokens),  # noqa: B023
            config.seconds,
            device,
        )
        metrics[f"efficiency/decode_tokens_per_second/{length}"] = config.batch_size * config.decode_tokens / seconds
    return metrics


def _prefill(model: HybridModel, tokens_BT: Tensor) -> ModelState:
    """The state after a prompt, by way of the logits of its last token."""
    last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    last_BT[:, -1] = True
    state = model(tokens_BT, model.init_state(len(tokens_BT)), at_BT=last_BT)[1]
    assert state is not None
    return state


def _decode(step: Step, token_B: Tensor, n_tokens: int) -> None:
    with step:
        for _ in range(n_tokens):
            step(token_B)


def _median_seconds(
    prepare: Callable[[], T], work: Callable[[T], object], budget: float, device: torch.device
) -> float:
    """Median wall time of ``work`` on what ``prepare`` (not timed) gives it, after one run that is not counted.
    Repeats until the budget is spent on both together, and thrice at least."""
    work(prepare())
    taken: list[float] = []
    end = time.perf_counter() + budget
    while len(taken) < LEAST_REPETITIONS or time.perf_counter() < end:
        given = prepare()
        _wait(device)
        begun = time.perf_counter()
        work(given)
        _wait(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
