"""The memory that training takes, by a rehearsal of its step: what autograd keeps is read off the layers' own code."""

from dataclasses import dataclass
from typing import Literal

from ..kernels import liger_chunk
from .as_on_gpu import Precision
from .model_config import ModelConfig
from .rehearsal import rehearse

Optimizer = Literal["adamw", "sgd", "none"]
MOMENTS: dict[Optimizer, int] = {"adamw": 2, "sgd": 0, "none": 0}
"""Numbers that an optimizer keeps per parameter, in the parameter's precision."""
FP32_BYTES = 4


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the device, of one step of training with fp32 weights, as `platform/training.py` does it: the gradients
    of the step before are freed between the loss and the backward pass."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass needs of the forward pass, the loss's gradients and weights cast to bf16 by autocast
    included."""
    loss: int
    """What the loss takes beside that while it is computed: a chunk of logits, and the head's gradient in fp32."""
    peak: int
    """The most at any one time, of the tensors themselves: without the allocator's rounding and the libraries' own."""


def training_memory(
    config: ModelConfig,
    parameters: int,
    *,
    batch_size: int,
    sequence_length: int,
    precision: Precision = "bf16",
    optimizer: Optimizer = "adamw",
) -> TrainingMemory:
    """For a model of ``parameters`` trainable parameters; ``precision`` is that of autocast (fp32: none)."""
    amounts = rehearse(config, "training", batch_size=batch_size, length=sequence_length, precision=precision).whole
    chunk = _loss_bytes(config, batch_size * sequence_length, precision)
    weights = FP32_BYTES * parameters
    moments = MOMENTS[optimizer] * weights
    return TrainingMemory(
        parameters=weights,
        gradients=weights,
        optimizer=moments,
        activations=round(amounts.kept),
        loss=round(amounts.forward_peak - amounts.kept) + chunk,
        peak=weights + moments + round(max(weights + amounts.forward_peak + chunk, amounts.backward_peak)),
    )


def _loss_bytes(config: ModelConfig, tokens: int, precision: Precision) -> int:
    """What the model's loss holds inside its operator beside what it returns: a chunk of logits and the head's gradient
    in fp32, which in bf16 is turned into what is returned when the logits are gone."""
    size = 2 if precision == "bf16" else FP32_BYTES
    head = config.vocab_size * config.d_model
    logits = size * liger_chunk(tokens, config.d_model, config.vocab_size)[1] * config.vocab_size
    at_the_end = FP32_BYTES * head if precision == "bf16" else 0
    return max(logits + (FP32_BYTES - size) * head, at_the_end)
