"""Generation: the prompt once through the parallel form, then one token at a time from the state."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .errors import InvalidInput
from .layer import State


class Decodable(Protocol):
    """What decoding needs of a model."""

    def __call__(
        self, tokens_BT: Tensor, state: list[State] | None = None, *, at_BT: Tensor | None = None
    ) -> tuple[Tensor, list[State] | None]: ...

    def init_state(self, batch_size: int) -> list[State]: ...


def generate(
    model: Decodable,
    tokens_BT: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    """[B,n] new tokens, n <= ``max_new_tokens``: fewer where every sequence has met one of ``stop``.

    A sequence that has stopped repeats its stop token until the others are done. Prompts are of one length.
    """
    new = list(
        stream(model, tokens_BT, max_new_tokens, temperature=temperature, top_k=top_k, stop=stop, generator=generator)
    )
    return torch.stack(new, dim=1) if new else tokens_BT[:, :0]


def stream(
    model: Decodable,
    tokens_BT: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yields the next token of every sequence, [B], as soon as it is known; ends as ``generate`` does.

    ``temperature`` 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature), among the
    ``top_k`` likeliest where it is given. Raises InvalidInput for an empty prompt or impossible settings.
    """
    if tokens_BT.ndim != 2 or tokens_BT.shape[1] == 0:
        raise InvalidInput(
            f"generate: a prompt needs at least one token, and a batch of them the shape [B,T]; "
            f"this one is {list(tokens_BT.shape)}"
        )
    if temperature < 0:
        raise InvalidInput(f"generate: temperature={temperature} must be at least 0")
    if top_k is not None and top_k < 1:
        raise InvalidInput(f"generate: top_k={top_k} must be at least 1")
    return _stream(model, tokens_BT, max_new_tokens, temperature, top_k, stop, generator)


@torch.no_grad()
def _stream(
    model: Decodable,
    tokens_BT: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    stops = torch.tensor(list(stop), dtype=tokens_BT.dtype, device=tokens_BT.device)
    stopped_B = torch.zeros_like(tokens_BT[:, 0], dtype=torch.bool)
    state = model.init_state(tokens_BT.shape[0])
    last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    last_BT[:, -1] = True
    token_B = tokens_BT[:, -1]
    for step in range(max_new_tokens):
        logits_BV, state = (
            model(tokens_BT, state, at_BT=last_BT)
            if step == 0
            else model(token_B[:, None], state, at_BT=last_BT[:, -1:])
        )
        token_B = torch.where(stopped_B, token_B, choose(logits_BV, temperature, top_k, generator))
        yield token_B
        if len(stops):
            stopped_B = stopped_B | torch.isin(token_B, stops)
            if bool(stopped_B.all()):
                return


def choose(logits_BV: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """The next token [B] from its logits."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float() / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]
