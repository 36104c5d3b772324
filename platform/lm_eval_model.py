"""The model class that lm-eval calls ``hybridlab``: a trained trial behind lm-eval's three kinds of request.

    lm_eval --model hybridlab --model_args run=ID --tasks niah_single_1 ...

``run`` is a trial's id (looked for under ``runs/``), its folder, or a folder written by ``checkpoint.save_model``.
Tasks that make their own data (RULER) size it with a tokenizer that they load themselves: give them the checkpoint,
``--metadata tokenizer=runs/SWEEP/ID/checkpoint``, or name the model by it: ``--model_args
pretrained=runs/SWEEP/ID/checkpoint``.

B requests of a batch, T tokens, V vocabulary. Weights run in the precision they are in.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  (fills lm-eval's registry, which it does only while that is empty)
import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..architectures import HybridModel, InvalidInput
from ..experiments import Tokenizer
from .checkpoint import find_checkpoint, load_model, load_model_tokenizer, trained_length

TOKENS_PER_BATCH = 16384
"""Tokens that are scored at once, however many requests a batch may have: their logits are in memory together."""
WINDOW = ("", "")
"""In place of a request's strings: tokens that are part of a longer text, and no request of their own."""
LOOK_EVERY = 8
"""Decoded tokens between searches for a stop string."""

Scored = tuple[float, bool]


class HybridLabLM(TemplateLM):
    """A trained hybrid for lm-eval. Raises InvalidInput where there is no such run, or it speaks no text."""

    def __init__(
        self,
        run: str | Path | None = None,
        pretrained: str | Path | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int = 8192,
        rolling_length: int | None = None,
        device: str | None = None,
    ):
        with _plain_refusals():
            if (run is None) == (pretrained is None):
                raise InvalidInput("hybridlab: give one of run=ID and pretrained=FOLDER")
            folder = find_checkpoint(str(run if run is not None else pretrained))
            tokenizer = load_model_tokenizer(folder)
            if tokenizer is None:
                raise InvalidInput(
                    f"hybridlab: the model in {str(folder)!r} learned a probe and has no tokenizer for text"
                )
        size = int(batch_size) if str(batch_size).isdecimal() else max_batch_size or 32
        rolling = rolling_length or trained_length(folder)
        self._hold(load_model(folder, _available(device)), tokenizer, size, int(max_length), rolling, str(folder))

    @classmethod
    def of(
        cls,
        model: HybridModel,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 32,
        max_length: int = 8192,
        rolling_length: int | None = None,
    ) -> "HybridLabLM":
        """Around a model that is in memory already."""
        made = cls.__new__(cls)
        made._hold(model, tokenizer, batch_size, max_length, rolling_length, tokenizer.name)
        return made

    def _hold(
        self,
        model: HybridModel,
        tokenizer: Tokenizer,
        batch_size: int,
        max_length: int,
        rolling_length: int | None,
        name: str,
    ) -> None:
        super().__init__()
        self.model, self.text = model.eval(), tokenizer
        self.batch_size, self.max_length, self._name = batch_size, max_length, name
        self.rolling_length = min(rolling_length or max_length, max_length)
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        return self.text.eos_id

    @property
    def tokenizer_name(self) -> str:
        """Distinguishes lm-eval's request caches."""
        return self._name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise InvalidInput(f"hybridlab: {self._name} has no chat template; leave out --apply_chat_template")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.text.encode(string)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[Scored]:
        """Sum of the log-probabilities of each continuation, and whether greedy decoding would write it."""
        scores: dict[int, Scored] = {}
        lengths = [len(context) + len(rest) for _, context, rest in requests]
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        for batch in _batches(order, self.batch_size, lengths):
            for i, score in zip(batch, self._score([requests[i][1:] for i in batch]), strict=True):
                scores[i] = score
                if requests[i][0] != WINDOW:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], score)
        return [scores[i] for i in range(len(requests))]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        """One batch, padded on the right, where a causal model does not see it; the head is computed at the
        continuations alone."""
        rows = [(context + rest)[-self.max_length - 1 :] for context, rest in pairs]
        lengths = [min(len(rest), len(row) - 1) for (_, rest), row in zip(pairs, rows, strict=True)]
        width = max(len(row) - 1 for row in rows)
        tokens_BT = torch.full((len(rows), width), self.eot_token_id)
        at_BT = torch.zeros(len(rows), width, dtype=torch.bool)
        for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            tokens_BT[b, : len(row) - 1] = torch.tensor(row[:-1])
            at_BT[b, len(row) - 1 - length : len(row) - 1] = True
        logits_NV = self.model(tokens_BT.to(self._device), at_BT=at_BT.to(self._device))[0].float()
        targets_N = torch.cat(
            [torch.tensor(row[len(row) - length :]) for row, length in zip(rows, lengths, strict=True)]
        )
        targets_N = targets_N.to(self._device)
        nll_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        greedy_N = logits_NV.argmax(-1) == targets_N
        return [
            (-float(nll.double().sum()), bool(greedy.all()))
            for nll, greedy in zip(nll_N.split(lengths), greedy_N.split(lengths), strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts after the end token, in windows of ``max_length`` that each predict their
        tokens once."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            cut = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.eot_token_id, self.rolling_length, context_len=1
            )
            for context, rest in map(make_disjoint_window, cut):
                windows.append((WINDOW, context, rest))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each prompt, up to the first of its stop strings, the end token or ``max_gen_toks``."""
        wishes = [_Wish.of(_arguments(request)[1]) for request in requests]
        prompts = []
        for request, wish in zip(requests, wishes, strict=True):
            room = max(1, self.max_length - wish.most)
            prompts.append(self.tok_encode(_arguments(request)[0])[-room:] or [self.eot_token_id])
        answers: dict[int, str] = {}
        lengths = [len(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (wishes[i], lengths[i]))
        for batch in _batches(order, self.batch_size, lengths, kinds=wishes):
            for i, text in zip(batch, self._write([prompts[i] for i in batch], wishes[batch[0]]), strict=True):
                answers[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return [answers[i] for i in range(len(requests))]

    def _write(self, prompts: list[list[int]], wish: "_Wish") -> list[str]:
        """Continue prompts of different lengths together."""
        written: list[list[int]] = [[] for _ in prompts]
        open_ = [True] * len(prompts)
        for token_B in self.model.stream(prompts, wish.most, temperature=wish.temperature):
            for b, token in enumerate(token_B.tolist()):
                if open_[b]:
                    written[b].append(token)
                    open_[b] = token != self.eot_token_id
                    if wish.until and len(written[b]) % LOOK_EVERY == 0:
                        open_[b] &= not any(stop in self.text.decode(written[b]) for stop in wish.until)
            if not any(open_):
                break
        texts = [self.text.decode([token for token in tokens if token != self.eot_token_id]) for tokens in written]
        return [_before(text, wish.until) for text in texts]


register_model("hybridlab")(HybridLabLM)


@contextmanager
def _plain_refusals() -> Iterator[None]:
    """On lm-eval's own command line, which prints tracebacks, a refusal is one line and exit code 2."""
    try:
        yield
    except InvalidInput as error:
        if "lm_eval._cli.run" not in sys.modules:
            raise
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _available(device: str | None) -> str:
    """The device that is asked for; lm-eval's command line asks for ``cuda`` on every machine."""
    if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


@dataclass(frozen=True, order=True)
class _Wish:
    """How a request wants its text; requests that want the same are written together."""

    until: tuple[str, ...]
    most: int
    temperature: float

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "_Wish":
        until = options.get("until") or []
        temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        stops = (until,) if isinstance(until, str) else tuple(until)
        return cls(tuple(stop for stop in stops if stop), int(options.get("max_gen_toks", 256)), temperature)


def _arguments(request: Instance) -> tuple[Any, ...]:
    """lm-eval types them as a union over its kinds of request."""
    return request.args


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    return min((text.split(stop)[0] for stop in stops), key=len, default=text)


def _batches(
    order: Sequence[int], size: int, lengths: Sequence[int], kinds: Sequence[object] | None = None
) -> Iterator[list[int]]:
    """Neighbours of one kind, at most ``size`` of them and, padded to the longest, ``TOKENS_PER_BATCH`` tokens."""
    batch: list[int] = []
    for i in order:
        full = len(batch) == size or (len(batch) + 1) * max(lengths[j] for j in [*batch, i]) > TOKENS_PER_BATCH
        if batch and (full or (kinds is not None and kinds[batch[0]] != kinds[i])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
