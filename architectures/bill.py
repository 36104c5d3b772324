"""What a model costs, from its config alone. LayerConfig says what is counted; this adds embedding, norms and head.

The embedding's lookup is no product of matrices and counts no FLOPs; the head counts 2 V D per token.
"""

from dataclasses import dataclass

import torch

from .model_config import ModelConfig


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

    def _around_layers(self) -> int:
        config = self.config
        sublayers = config.sublayers()
        norms = 1 + len(sublayers) + sum(len(branches) for branches in sublayers if len(branches) > 1)
        embeddings = config.vocab_size * (1 if config.tie_embeddings else 2)
        return config.d_model * (norms + embeddings)


def bill(config: ModelConfig) -> Bill:
    """The bill of ``config``; no module is built."""
    return Bill(config)
