"""Generation: the prompts once through the parallel form, then one token at a time from the state.

Prompts of different lengths are read in groups of equal length and then decoded together: no padding ever enters a
state, so that nothing is asked of a layer beyond its state, and a row's answer is that of its prompt alone. (Reading
all prompts padded would ask of every recurrence that it skip tokens, and of every kernel a mask.)
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .errors import InvalidInput
from .steps import Decodable, begin

Prompts = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


def generate(
    model: Decodable,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    cuda_graphs: bool | None = None,
) -> Tensor:
    """[B,n] new tokens, n <= ``max_new_tokens``: fewer where every sequence has met one of ``stop``.

    A sequence that has stopped repeats its stop token until the others are done. Arguments are those of ``stream``.
    """
    rows = prompt_rows(model, prompts, lengths)
    new = list(
        stream(
            model,
            rows,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            stop=stop,
            generator=generator,
            cuda_graphs=cuda_graphs,
        )
    )
    return torch.stack(new, dim=1) if new else rows[0].new_zeros(len(rows), 0)


def stream(
    model: Decodable,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    cuda_graphs: bool | None = None,
) -> Iterator[Tensor]:
    """Yields the next token of every sequence, [B], as soon as it is known; ends as ``generate`` does.

    Args:
        prompts: [B,T] tokens, or B rows of tokens of any lengths.
        lengths: of prompts [B,T], how many tokens of each row are its prompt; all by default.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        top_k: draw among that many likeliest tokens.
        cuda_graphs: replay the step as a CUDA graph; None: where it can be captured. The tokens are the same.

    Raises:
        InvalidInput: an empty prompt or impossible settings; ``cuda_graphs=True`` where there can be none.
    """
    rows = prompt_rows(model, prompts, lengths)
    if temperature < 0:
        raise InvalidInput(f"generate: temperature={temperature} must be at least 0")
    if top_k is not None and top_k < 1:
        raise InvalidInput(f"generate: top_k={top_k} must be at least 1")
    if cuda_graphs and rows[0].device.type != "cuda":
        raise InvalidInput(f"generate: cuda_graphs=True needs a CUDA device, and the prompts are on {rows[0].device}")
    return _stream(model, rows, max_new_tokens, temperature, top_k, stop, generator, cuda_graphs)


@torch.inference_mode(False)
@torch.no_grad()
def _stream(
    model: Decodable,
    rows: list[Tensor],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    stop: Sequence[int],
    generator: torch.Generator | None,
    cuda_graphs: bool | None,
) -> Iterator[Tensor]:
    if max_new_tokens < 1:
        return
    token_B = torch.stack([row[-1] for row in rows])
    stops = torch.tensor(list(stop), dtype=token_B.dtype, device=token_B.device)
    stopped_B = torch.zeros_like(token_B, dtype=torch.bool)
    logits_BV, step = begin(model, rows, max_new_tokens, cuda_graphs)
    with step:
        for following in range(max_new_tokens - 1, -1, -1):
            token_B = torch.where(stopped_B, token_B, choose(logits_BV, temperature, top_k, generator))
            yield token_B
            if len(stops):
                stopped_B = stopped_B | torch.isin(token_B, stops)
                if bool(stopped_B.all()):
                    return
            if following:
                logits_BV = step(token_B)


def choose(logits_BV: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """The next token [B] from its logits."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float() / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]


def prompt_rows(model: Decodable, prompts: Prompts, lengths: Tensor | Sequence[int] | None = None) -> list[Tensor]:
    """The prompts one by one, int64 [T]. Raises InvalidInput for what is no prompt, or an empty one."""
    if isinstance(prompts, Tensor):
        if prompts.ndim != 2 or prompts.shape[0] == 0:
            raise InvalidInput(
                f"generate: a prompt needs at least one token, and a batch of them the shape [B,T]; "
                f"this one is {list(prompts.shape)}"
            )
        counts = [prompts.shape[1]] * len(prompts) if lengths is None else [int(n) for n in lengths]
        if len(counts) != len(prompts) or not all(0 <= n <= prompts.shape[1] for n in counts):
            raise InvalidInput(f"generate: lengths={counts} do not fit prompts of shape {list(prompts.shape)}")
        rows = [row[:n] for row, n in zip(prompts, counts, strict=True)]
    else:
        if lengths is not None:
            raise InvalidInput("generate: lengths are for prompts of shape [B,T]; a list of prompts has its own")
        device = next(iter(model.parameters())).device
        rows = [torch.as_tensor(row, dtype=torch.int64).to(device) for row in prompts]
    for row in rows:
        if row.ndim != 1 or len(row) == 0:
            raise InvalidInput(f"generate: a prompt needs at least one token; one has the shape {list(row.shape)}")
    if not rows:
        raise InvalidInput("generate: there is no prompt")
    return rows
