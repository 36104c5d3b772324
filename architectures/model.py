"""The model: residual sublayers around one stream, h = h + layer(norm(h)), with a tied head.

Parallel branches read one normed input; each is normed after and they are averaged (Hymba, Dong et al. 2024,
section 2.1; the norms there are over heads).

Initial values: embeddings have a standard deviation of 1/sqrt(D), so that logits start near a deviation of 1 and a
token is not lost beside what the first layers add to it: with the usual 0.02, at D=64, "mamba2 attn" does not learn in
400 steps the recall that it learns in 175 so. Output projections start smaller by sqrt(number of sublayers), so that
the stream's variance does not grow with depth (GPT-2); a branch's norm starts at that factor too, as it undoes the
projection's scale.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import decoding
from .bill import Bill, bill
from .layer import Layer, State
from .model_config import ModelConfig
from .parts import RMSNorm

ModelState = list[State]


class HybridModel(nn.Module):
    """tokens [B,T] to logits [B,T,V]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sublayers = config.sublayers()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.norms = nn.ModuleList(self._norm() for _ in sublayers)
        self.branch_norms = nn.ModuleList(
            nn.ModuleList(self._norm() for _ in branches if len(branches) > 1) for branches in sublayers
        )
        self.layers = nn.ModuleList(layer.build(config.d_model) for layer in config.unique_layers())
        self.plan = _plan(config)
        self.final_norm = self._norm()
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._auxiliary: list[Tensor] = []
        self._initialize(len(sublayers))

    def forward(
        self, tokens_BT: Tensor, state: ModelState | None = None, *, at_BT: Tensor | None = None
    ) -> tuple[Tensor, ModelState | None]:
        """Logits [B,T,V], or [n,V] at the n positions where the mask ``at_BT`` is true, and the state after the tokens.

        With ``state=None`` the tokens are whole sequences and no state comes back; a given state is consumed.
        """
        h_BTD = self.embedding(tokens_BT)
        self._auxiliary = []
        place = 0
        for norm, branch_norms, indices in zip(self.norms, self.branch_norms, self.plan, strict=True):
            x_BTD = norm(h_BTD)
            outputs = []
            for index in indices:
                outputs.append(self._run(index, x_BTD, None if state is None else state[place]))
                place += 1
            h_BTD = h_BTD + _average(outputs, branch_norms)  # pyright: ignore[reportArgumentType]
        h = self.final_norm(h_BTD if at_BT is None else h_BTD[at_BT])
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(h, weight), state

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModelState:
        """The state before the first token, one entry a place; by default on the model's device and in its dtype."""
        weight = self.embedding.weight
        return [
            self._layer(index).init_state(batch_size, device=device or weight.device, dtype=dtype or weight.dtype)
            for indices in self.plan
            for index in indices
        ]

    def state_nbytes(self, state: ModelState) -> int:
        """Bytes that ``state`` holds, for the whole batch."""
        return sum(tensor.numel() * tensor.itemsize for place in state for tensor in place.values())

    def auxiliary_loss(self) -> Tensor:
        """What the last training forward adds to the loss (balance of experts); 0 when nothing does."""
        return torch.stack(self._auxiliary).sum() if self._auxiliary else self.embedding.weight.new_zeros(())

    def bill(self) -> Bill:
        """What this model costs."""
        return bill(self.config)

    def generate(
        self,
        tokens_BT: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[B,n] new tokens after the prompts (all of one length); see decoding.generate."""
        return decoding.generate(
            self, tokens_BT, max_new_tokens, temperature=temperature, top_k=top_k, stop=stop, generator=generator
        )

    def stream(
        self,
        tokens_BT: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """The tokens of ``generate`` as they come, [B] at a time."""
        return decoding.stream(
            self, tokens_BT, max_new_tokens, temperature=temperature, top_k=top_k, stop=stop, generator=generator
        )

    def _norm(self) -> RMSNorm:
        return RMSNorm(self.config.d_model, eps=self.config.norm_eps)

    def _layer(self, index: int) -> Layer:
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        return layer

    def _run(self, index: int, x_BTD: Tensor, state: State | None) -> Tensor:
        layer = self._layer(index)
        y_BTD, _ = layer(x_BTD, state)
        if layer.auxiliary_loss is not None:
            self._auxiliary.append(layer.auxiliary_loss)
        return y_BTD

    @torch.no_grad()
    def _initialize(self, n_sublayers: int) -> None:
        std = self.config.d_model**-0.5
        nn.init.normal_(self.embedding.weight, std=std)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=std)
        for name, parameter in self.named_parameters():
            if "out_proj" in name.split(".") or name.startswith("branch_norms."):
                parameter.mul_(n_sublayers**-0.5)


def _average(outputs: list[Tensor], norms: Sequence[nn.Module]) -> Tensor:
    if len(outputs) == 1:
        return outputs[0]
    return torch.stack([norm(y) for norm, y in zip(norms, outputs, strict=True)]).mean(0)


def _plan(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """For every sublayer the indices of its branches among ``config.unique_layers()``."""
    by_label: dict[str, int] = {}
    plan, unique = [], 0
    for sublayer in config.sublayers():
        indices = []
        for place in sublayer:
            index = unique if place.label is None else by_label.setdefault(place.label, unique)
            unique += index == unique
            indices.append(index)
        plan.append(tuple(indices))
    return tuple(plan)
