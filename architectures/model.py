"""The model: residual sublayers around one stream, h = h + layer(norm(h)), with a tied head.

Parallel branches read one normed input; each is normed after and they are averaged (Hymba, Dong et al. 2024,
section 2.1; the norms there are over heads), or they are summed as they are (Falcon-H1). A layer's config may place the
norm elsewhere, weigh the residual, or keep its output for the next sublayer alone.

Initial values: embeddings have a standard deviation of 1/sqrt(D), so that logits start near a deviation of 1 and a
token is not lost beside what the first layers add to it: with the usual 0.02, at D=64, "mamba2 attn" does not learn in
400 steps the recall that it learns in 175 so. Output projections start smaller by sqrt(number of sublayers), so that
the stream's variance does not grow with depth (GPT-2); a norm of outputs (a branch's, a post norm) starts at that
factor too, as it undoes the projection's scale.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import UNLABELLED, linear_cross_entropy
from . import decoding
from .bill import Bill, bill
from .context import Context
from .layer import Layer, LayerConfig, State
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
        self.norms = nn.ModuleList(
            nn.Identity() if branches[0].layer.norm == "none" else self._norm() for branches in sublayers
        )
        normed = config.parallel == "average"
        self.branch_norms = nn.ModuleList(
            nn.ModuleList(self._norm() for _ in branches if normed and len(branches) > 1) for branches in sublayers
        )
        self.layers = nn.ModuleList(layer.build(config.d_model) for layer in config.unique_layers())
        self.plan = _plan(config)
        self.per_use = _per_use(config)
        self._in_context = _in_context(config)
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
        h_BTD = self._through(self._embedded(tokens_BT), state)
        return self._logits(h_BTD if at_BT is None else h_BTD[at_BT]), state

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats of the targets; where they are -100 nothing is asked.

        The cross-entropy of ``forward``'s logits, which are never all held: see kernels/loss.
        """
        h = self._through(self._embedded(tokens_BT), None)
        if not h.is_cuda:  # on a GPU the host would have to wait for which they are
            labelled_BT = targets_BT != UNLABELLED
            if not bool(labelled_BT.all()):
                h, targets_BT = h[labelled_BT], targets_BT[labelled_BT]
        h_ND = self.final_norm(h).flatten(0, -2)
        scale, cap = self.config.logit_scale, self.config.logit_cap
        return linear_cross_entropy(h_ND, self._head_weight(), targets_BT.reshape(-1), scale=scale, cap=cap)

    def _through(self, h_BTD: Tensor, state: ModelState | None) -> Tensor:
        """The stream after all sublayers."""
        context = Context(h_BTD)
        self._auxiliary = []
        place = 0
        aside_BTD = None
        for number, (branches, indices) in enumerate(zip(self.config.sublayers(), self.plan, strict=True)):
            layer, norm = branches[0].layer, self.norms[number]
            x_BTD = h_BTD if aside_BTD is None else h_BTD + aside_BTD
            if layer.norm in ("pre", "stream"):
                x_BTD = norm(x_BTD)
            outputs = []
            for index in indices:
                outputs.append(self._run(index, place, x_BTD, None if state is None else state[place], context))
                place += 1
            y_BTD = _join(outputs, self.branch_norms[number])  # pyright: ignore[reportArgumentType]
            y_BTD = norm(y_BTD) if layer.norm == "post" else y_BTD
            aside_BTD = y_BTD if layer.adds_to == "next" else None
            if aside_BTD is None:
                h_BTD = self._add(x_BTD if layer.norm == "stream" else h_BTD, y_BTD, layer)
        return h_BTD

    def _add(self, h_BTD: Tensor, y_BTD: Tensor, layer: LayerConfig) -> Tensor:
        y_BTD = y_BTD if self.config.residual_scale == 1 else y_BTD * self.config.residual_scale
        return (h_BTD if layer.residual_weight == 1 else h_BTD * layer.residual_weight) + y_BTD

    def _embedded(self, tokens_BT: Tensor) -> Tensor:
        h_BTD = self.embedding(tokens_BT)
        return h_BTD if self.config.embedding_scale == 1 else h_BTD * self.config.embedding_scale

    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def _logits(self, h: Tensor) -> Tensor:
        logits = F.linear(self.final_norm(h), self._head_weight())
        if self.config.logit_scale != 1:
            logits = logits * self.config.logit_scale
        cap = self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

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

    def capacity(self) -> Tensor | None:
        """The capacity factor at which no expert would have dropped a token of the last forward: tokens of the busiest
        expert over the mean of its mixture, the worst mixture's; None without one."""
        factors = [
            factor for layer in self.modules() if isinstance(layer, Layer) and (factor := layer.capacity) is not None
        ]
        return torch.stack(factors).max() if factors else None

    def bill(self) -> Bill:
        """What this model costs."""
        return bill(self.config)

    def generate(
        self,
        prompts: decoding.Prompts,
        max_new_tokens: int,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
        cuda_graphs: bool | None = None,
    ) -> Tensor:
        """[B,n] new tokens after the prompts, of any lengths; see decoding.generate."""
        return decoding.generate(
            self,
            prompts,
            max_new_tokens,
            lengths=lengths,
            temperature=temperature,
            top_k=top_k,
            stop=stop,
            generator=generator,
            cuda_graphs=cuda_graphs,
        )

    def stream(
        self,
        prompts: decoding.Prompts,
        max_new_tokens: int,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
        cuda_graphs: bool | None = None,
    ) -> Iterator[Tensor]:
        """The tokens of ``generate`` as they come, [B] at a time."""
        return decoding.stream(
            self,
            prompts,
            max_new_tokens,
            lengths=lengths,
            temperature=temperature,
            top_k=top_k,
            stop=stop,
            generator=generator,
            cuda_graphs=cuda_graphs,
        )

    def _norm(self) -> RMSNorm:
        return RMSNorm(self.config.d_model, eps=self.config.norm_eps)

    def _layer(self, index: int) -> Layer:
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        return layer

    def _run(self, index: int, place: int, x_BTD: Tensor, state: State | None, context: Context) -> Tensor:
        layer = self._layer(index)
        if place in self._in_context:
            own = dict(self.per_use.items()).get(str(place))
            y_BTD, _ = layer(x_BTD, state, context.at(own))
        else:
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
        for norm, branches in zip(self.norms, self.config.sublayers(), strict=True):
            if branches[0].layer.norm == "post":
                norm.weight.mul_(n_sublayers**-0.5)  # pyright: ignore


def _join(outputs: list[Tensor], norms: Sequence[nn.Module]) -> Tensor:
    if len(outputs) == 1:
        return outputs[0]
    if not norms:
        return torch.stack(outputs).sum(0)
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


def _places(config: ModelConfig) -> Iterator[tuple[int, LayerConfig]]:
    """Every place with its number, from 0, branches from left to right."""
    return enumerate(place.layer for sublayer in config.sublayers() for place in sublayer)


def _per_use(config: ModelConfig) -> nn.ModuleDict:
    """The weights of its own of every place that has any, by the place's number."""
    built = {str(number): layer.build_per_use(config.d_model) for number, layer in _places(config)}
    return nn.ModuleDict({number: own for number, own in built.items() if own is not None})


def _in_context(config: ModelConfig) -> frozenset[int]:
    """The places whose layers are handed the context."""
    return frozenset(
        number
        for number, layer in _places(config)
        if layer.reads or layer.shares or layer.parameters_per_use(config.d_model)
    )
