"""What a model costs, from its config alone. LayerConfig says what is counted; this adds embedding, norms and head,
and the weights that uses of a shared layer have for themselves.

The embedding's lookup is no product of matrices and counts no FLOPs; the head counts 2 V D per token.
"""

from dataclasses import dataclass

import torch

from .as_on_gpu import Precision
from .model_config import ModelConfig
from .training_memory import Optimizer, TrainingMemory, training_memory


@dataclass(frozen=True)
class Bill:
    """Costs of one model."""

    config: ModelConfig

    @property
    def parameters(self) -> int:
        """Trainable parameters; weights that are shared count once."""
        config = self.config
        return self._around_layers() + sum(layer.num_parameters(config.d_model) for layer in config.unique_layers())

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: all but the experts that it is not sent to."""
        config = self.config
        return self._around_layers() + sum(layer.active_parameters(config.d_model) for layer in config.unique_layers())

    def flops_per_token(self, sequence_length: int) -> float:
        """Forward, logits at every position, the mean over a sequence of that length."""
        config = self.config
        head = 2 * config.vocab_size * config.d_model
        return head + sum(
            place.layer.flops_per_token(config.d_model, sequence_length)
            for sublayer in config.sublayers()
            for place in sublayer
        )

    def training_flops_per_token(self, sequence_length: int) -> float:
        """Forward and backward: three times the forward, without recomputation."""
        return 3 * self.flops_per_token(sequence_length)

    def state_bytes(self, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        """What decoding holds per sequence after that many tokens; every place has a state of its own."""
        return sum(
            place.layer.state_bytes(self.config.d_model, sequence_length, dtype)
            for sublayer in self.config.sublayers()
            for place in sublayer
        )

    def training_memory(
        self,
        batch_size: int,
        sequence_length: int,
        *,
        precision: Precision = "bf16",
        optimizer: Optimizer = "adamw",
    ) -> TrainingMemory:
        """Bytes of one training step on a GPU, by what they are for; see training_memory.py."""
        return training_memory(
            self.config,
            self.parameters,
            batch_size=batch_size,
            sequence_length=sequence_length,
            precision=precision,
            optimizer=optimizer,
        )

    def _around_layers(self) -> int:
        config = self.config
        sublayers = config.sublayers()
        norms = 1 + sum(branches[0].layer.norm != "none" for branches in sublayers)
        if config.parallel == "average":
            norms += sum(len(branches) for branches in sublayers if len(branches) > 1)
        embeddings = config.vocab_size * (1 if config.tie_embeddings else 2)
        per_use = sum(place.layer.parameters_per_use(config.d_model) for branches in sublayers for place in branches)
        return config.d_model * (norms + embeddings) + per_use


def bill(config: ModelConfig) -> Bill:
    """The bill of ``config``; no module is built."""
    return Bill(config)
