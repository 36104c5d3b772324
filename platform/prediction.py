"""What a model would take on a named GPU: the operations that it would run (architectures/rehearsal.py), each at the
rate that was measured there (gpu_rates.py). Nothing is fitted to a model.

A pass takes the longer of two times: the device's, the sum over operations, and the host's to launch them, the sum
over layers (layer_rates.py). The loss waits for the device (it counts labels), so that a training step is two such
passes, forward and backward. Decoding is by CUDA graphs, whose launch is the host's only share.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..architectures import ModelConfig, Operation, Rehearsal, bill, rehearse
from ..architectures.rehearsal import AROUND
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
        prefill=_one_pass(config, prompts, rates, batch_size * length),
        decode=_graphed(token, rates, batch_size),
        memory=asdict(costs.training_memory(batch_size, length)),
        serving_bytes=2 * costs.parameters + batch_size * costs.state_bytes(length),
        long_cache_bytes=costs.state_bytes(LONG),
        unmeasured=_unmeasured((step, prompts, token), rates),
    )


def training_time(config: ModelConfig, rates: Rates, *, batch_size: int, length: int) -> Time:
    """One step: forward, loss, backward, clipping and AdamW."""
    step = rehearse(config, "training", batch_size=batch_size, length=length)
    tensors = TENSORS_PER_LAYER * len(config.unique_layers())
    stepping, launching = rates.optimizer_seconds(bill(config).parameters, tensors)
    parts = {
        name: _device(amounts.operations, rates, batch_size * length, rates.gap) for name, amounts in step.parts.items()
    }
    backward = {operation: n for operation, n in step.whole.operations.items() if operation.backward}
    device_backward = _device(backward, rates, batch_size * length, rates.gap) + stepping
    device_forward = sum(parts.values()) + stepping - device_backward
    host_forward = _host(config, step, rates, "forward")
    host_backward = _host(config, step, rates, "backward") + launching
    return Time(
        max(device_forward, host_forward) + max(device_backward, host_backward),
        device_forward + device_backward,
        host_forward + host_backward,
        _sorted({**parts, OPTIMIZER: stepping}),
    )


TENSORS_PER_LAYER = 6
"""Parameters of a layer and its norm, roughly: clipping and AdamW launch by tensor, which costs little."""


def _one_pass(config: ModelConfig, rehearsal: Rehearsal, rates: Rates, tokens: int) -> Time:
    parts = {name: _device(a.operations, rates, tokens, rates.gap) for name, a in rehearsal.parts.items()}
    device, host = sum(parts.values()), _host(config, rehearsal, rates, "prefill")
    return Time(max(device, host), device, host, _sorted(parts))


def _graphed(rehearsal: Rehearsal, rates: Rates, tokens: int) -> Time:
    parts = {name: _device(a.operations, rates, tokens, 0.0) for name, a in rehearsal.parts.items()}
    device = sum(parts.values())
    return Time(device + rates.graph_launch, device, rates.graph_launch, _sorted(parts))


def _device(operations: Mapping[Operation, int], rates: Rates, tokens: int, gap: float) -> float:
    return sum(count * (rates.seconds(operation, tokens) + gap) for operation, count in operations.items())


def _host(config: ModelConfig, rehearsal: Rehearsal, rates: Rates, side: str) -> float:
    """The host's time for a side (``forward`` or ``backward`` of a step, ``prefill``): of layers that were measured,
    and by operations, which tells of too little, of those that were not."""
    total = 0.0
    parts = Counter("|".join(branch.layer.name for branch in sublayer) for sublayer in config.sublayers())
    for name, count in {**parts, AROUND: 1}.items():
        times = [rates.layers.get(layer) for layer in ([AROUND] if name == AROUND else name.split("|"))]
        if all(times):
            total += count * sum(layer[side] for layer in times if layer is not None)
        else:
            operations = rehearsal.parts[name].operations
            total += sum(n * rates.host_seconds(o) for o, n in operations.items() if o.backward == (side == "backward"))
    return total


def _unmeasured(rehearsals: Iterable[Rehearsal], rates: Rates) -> tuple[str, ...]:
    operations = (operation for rehearsal in rehearsals for operation in rehearsal.whole.operations)
    return tuple(sorted({operation.name for operation in operations if not rates.is_measured(operation)}))


def _sorted(parts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(parts.items(), key=lambda part: -part[1]))
