"""What a model would take on a named GPU: the operations that it would run (architectures/rehearsal.py), each at the
rate that was measured there (gpu_rates.py). Nothing is fitted to a model.

A pass takes the longer of two times: the device's, the sum over operations, and the host's to launch them. The loss
waits for the device (it counts labels), so that a training step is two such passes, forward and backward. Decoding is
by CUDA graphs, whose launch is the host's only share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..architectures import ModelConfig, Operation, Rehearsal, bill, rehearse
from ..architectures.rehearsal import Amounts
from .gpu_rates import Rates, load_rates

OPTIMIZER = "optimizer"
LONG = 131_072
"""Tokens of context at which the cache is told."""


@dataclass(frozen=True)
class Time:
    """Seconds of one pass."""

    seconds: float
    device: float
    """What the device works."""
    host: float
    """What the host takes to launch it."""
    parts: dict[str, float]
    """The device's work by kind of sublayer, largest first."""

    @property
    def bound_by(self) -> str:
        """``device`` or ``host``, whichever takes longer."""
        return "device" if self.device >= self.host else "host"


@dataclass(frozen=True)
class Prediction:
    """One model on one GPU: ``batch_size`` sequences of ``length`` tokens; training as platform/training.py does it in
    bf16, serving with bf16 weights."""

    gpu: str
    gpu_bytes: int
    """Its memory."""
    batch_size: int
    length: int
    training: Time
    prefill: Time
    decode: Time
    """One token for every sequence, after ``length`` tokens each."""
    memory: dict[str, int]
    """Bytes of training: TrainingMemory's fields."""
    serving_bytes: int
    """Weights in bf16, and the batch's cache after ``length`` tokens."""
    long_cache_bytes: int
    """A sequence's cache after 131,072 tokens, bf16."""
    unmeasured: tuple[str, ...] = ()
    """Operators of this project that were not measured on this GPU, and are timed by their bytes: too fast."""

    @property
    def tokens(self) -> int:
        """Of a training step."""
        return self.batch_size * self.length

    @property
    def dominant(self) -> tuple[str, float]:
        """The part of the training step that the device works on longest, and its share of that work."""
        part = max(self.training.parts, key=lambda name: self.training.parts[name])
        return part, self.training.parts[part] / self.training.device

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        part, share = self.dominant
        return asdict(self) | {
            "train_tokens_per_second": self.tokens / self.training.seconds,
            "prefill_tokens_per_second": self.tokens / self.prefill.seconds,
            "decode_tokens_per_second": self.batch_size / self.decode.seconds,
            "dominant": {"part": part, "share": share},
        }


def predict(config: ModelConfig, gpu: str, *, batch_size: int = 4, length: int = 2048) -> Prediction:
    """What ``config`` would take on ``gpu``. Raises InvalidInput for a GPU that nobody measured."""
    rates = load_rates(gpu)
    costs = bill(config)
    step = rehearse(config, "training", batch_size=batch_size, length=length)
    prompts = rehearse(config, "prefill", batch_size=batch_size, length=length)
    token = rehearse(config, "decode", batch_size=batch_size, length=length)
    return Prediction(
        gpu=rates.gpu,
        gpu_bytes=rates.measured["memory_bytes"],
        batch_size=batch_size,
        length=length,
        training=training_time(config, rates, batch_size=batch_size, length=length),
        prefill=_one_pass(prompts, rates, batch_size * length),
        decode=_graphed(token, rates, batch_size),
        memory=asdict(costs.training_memory(batch_size, length)),
        serving_bytes=2 * costs.parameters + batch_size * costs.state_bytes(length),
        long_cache_bytes=costs.state_bytes(LONG),
        unmeasured=_unmeasured((step, prompts, token), rates),
    )


def training_time(
    config: ModelConfig, rates: Rates, *, batch_size: int, length: int, held_logits: bool = False
) -> Time:
    """One step: forward, loss, backward, clipping and AdamW. ``held_logits``: by a loop that takes the cross-entropy of
    all logits, which does not wait for the device."""
    what = "training with logits" if held_logits else "training"
    step = rehearse(config, what, batch_size=batch_size, length=length)
    tensors = TENSORS_PER_LAYER * len(config.unique_layers())
    device, host = rates.optimizer_seconds(bill(config).parameters, tensors)
    parts = {
        name: _device(amounts.operations, rates, batch_size * length, rates.gap) for name, amounts in step.parts.items()
    }
    passes = [_both(step.whole, rates, batch_size * length, backward) for backward in (False, True)]
    passes[1] = passes[1][0] + device, passes[1][1] + host
    device_of_all, host_of_all = (sum(one[side] for one in passes) for side in (0, 1))
    seconds = max(device_of_all, host_of_all) if held_logits else sum(map(max, passes))
    return Time(seconds, device_of_all, host_of_all, _sorted({**parts, OPTIMIZER: device}))


TENSORS_PER_LAYER = 6
"""Parameters of a layer and its norm, roughly: clipping and AdamW launch by tensor, which costs little."""


def _both(amounts: Amounts, rates: Rates, tokens: int, backward: bool) -> tuple[float, float]:
    """(device, host) seconds of the forward or the backward pass."""
    chosen = {operation: n for operation, n in amounts.operations.items() if operation.backward == backward}
    return _device(chosen, rates, tokens, rates.gap), _host(chosen, rates)


def _one_pass(rehearsal: Rehearsal, rates: Rates, tokens: int) -> Time:
    parts = {name: _device(a.operations, rates, tokens, rates.gap) for name, a in rehearsal.parts.items()}
    device, host = sum(parts.values()), _host(rehearsal.whole.operations, rates)
    return Time(max(device, host), device, host, _sorted(parts))


def _graphed(rehearsal: Rehearsal, rates: Rates, tokens: int) -> Time:
    parts = {name: _device(a.operations, rates, tokens, 0.0) for name, a in rehearsal.parts.items()}
    device = sum(parts.values())
    return Time(device + rates.graph_launch, device, rates.graph_launch, _sorted(parts))


def _device(operations: Mapping[Operation, int], rates: Rates, tokens: int, gap: float) -> float:
    return sum(count * (rates.seconds(operation, tokens) + gap) for operation, count in operations.items())


def _host(operations: Mapping[Operation, int], rates: Rates) -> float:
    return sum(count * rates.host_seconds(operation) for operation, count in operations.items())


def _unmeasured(rehearsals: Iterable[Rehearsal], rates: Rates) -> tuple[str, ...]:
    operations = (operation for rehearsal in rehearsals for operation in rehearsal.whole.operations)
    return tuple(sorted({operation.name for operation in operations if not rates.is_measured(operation)}))


def _sorted(parts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(parts.items(), key=lambda part: -part[1]))
