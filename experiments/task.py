"""What a model is trained and scored on.

A task hands out batches and turns what a model scored on them into metrics. Guarantees every task keeps:

- `batch(split, index, batch_size, seed)` is a pure function of its arguments: a run that continues at step `index`
  sees what it would have seen, whatever happened before;
- the held-out splits do not depend on `seed`: every trial is measured on the same examples;
- no example of one split occurs in another.

Shapes: B examples, T positions, N labelled positions of a batch in row-major order, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F

from ..architectures import InvalidInput, nearest
from .options import plain_options, read_options
from .tokenizers import Tokenizer

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

UNLABELLED = -100
"""The target of a position that is neither learned nor scored (`torch.nn.functional.cross_entropy` ignores it too)."""


@dataclass(frozen=True)
class Batch:
    """Token rows and what should be predicted at each of their positions."""

    tokens_BT: torch.Tensor
    """int64, what the model reads."""

    targets_BT: torch.Tensor
    """int64, already shifted: `targets[b, t]` is what follows `tokens[b, t]`; `UNLABELLED` where nothing is asked."""

    slices_B: torch.Tensor | None = None
    """int64, the part of the task each example belongs to (for recall its number of pairs); None: no parts."""

    @property
    def labelled_BT(self) -> torch.Tensor:
        """bool, the positions where something is asked; a model needs logits there only (`at_BT`)."""
        return self.targets_BT != UNLABELLED

    @property
    def targets_N(self) -> torch.Tensor:
        """int64, the targets of the labelled positions, in the order in which `logits[labelled_BT]` has them."""
        return self.targets_BT[self.labelled_BT]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        slices_B = None if self.slices_B is None else self.slices_B.to(device)
        return Batch(self.tokens_BT.to(device), self.targets_BT.to(device), slices_B)


@dataclass
class Score:
    """Sums over everything a model was scored on. Start empty, `update` with each batch, then ask `Task.metrics`."""

    nll_sum: float = 0.0
    """Negative log-likelihood of the targets, in nats."""

    n_targets: int = 0
    """Labelled positions."""

    n_correct: int = 0
    """Labelled positions whose most likely token is the target."""

    n_examples: int = 0
    """Rows with at least one labelled position."""

    n_exact: int = 0
    """Rows whose labelled positions are all correct."""

    correct_by_slice: dict[int, int] = field(default_factory=dict)
    targets_by_slice: dict[int, int] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, logits_NV: torch.Tensor, batch: Batch) -> None:
        """Add a batch; `logits_NV` are those at `batch.labelled_BT`, on any device, in any floating dtype."""
        targets_N = batch.targets_N.to(logits_NV.device)
        correct_N = (logits_NV.argmax(-1) == targets_N).cpu()
        self.nll_sum += F.cross_entropy(logits_NV.float(), targets_N, reduction="sum").item()

        labelled_BT = batch.labelled_BT.cpu()
        wrong_BT = torch.zeros_like(labelled_BT)
        wrong_BT[labelled_BT] = ~correct_N
        targets_B, wrong_B = labelled_BT.sum(1), wrong_BT.sum(1)
        self.n_targets += int(targets_B.sum())
        self.n_correct += int((targets_B - wrong_B).sum())
        self.n_examples += int((targets_B > 0).sum())
        self.n_exact += int(((targets_B > 0) & (wrong_B == 0)).sum())
        if batch.slices_B is None:
            return
        slices_B = batch.slices_B.cpu()
        for part in slices_B.unique().tolist():
            rows_B = slices_B == part
            n_targets, n_wrong = int(targets_B[rows_B].sum()), int(wrong_B[rows_B].sum())
            self.targets_by_slice[part] = self.targets_by_slice.get(part, 0) + n_targets
            self.correct_by_slice[part] = self.correct_by_slice.get(part, 0) + n_targets - n_wrong

    @property
    def loss(self) -> float:
        """Nats per labelled position; NaN before the first."""
        return self.nll_sum / self.n_targets if self.n_targets else math.nan


class Task(ABC):
    """One thing to learn and be measured on. Built by its `TaskConfig`."""

    name: str
    """Its `kind`, what a table calls it."""

    vocab_size: int
    """The vocabulary a model needs; every token and target is below it."""

    sequence_length: int
    """Positions T of a training batch."""

    tokenizer: Tokenizer | None = None
    """What turns text into this task's tokens; None for probes."""

    @abstractmethod
    def batch(self, split: Split, index: int, batch_size: int, seed: int = 0) -> Batch:
        """Batch number `index` (from 0) of a split. The last batch of a held-out split may be smaller."""

    @abstractmethod
    def num_batches(self, split: Split, batch_size: int) -> int | None:
        """How many batches a split has; None when it never ends (training)."""

    @abstractmethod
    def metrics(self, score: Score, split: Split) -> dict[str, float]:
        """What is reported for a split, by metric name without the split (`loss`, `accuracy`, `bits_per_byte`, …)."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(ABC):
    """The options of one kind of task. Subclasses add fields, validate them in `__post_init__` with `InvalidInput`."""

    kind: ClassVar[str]

    @abstractmethod
    def build(self) -> Task:
        """The task. Reads or prepares data where there are any, so it may take a while and raise `InvalidInput`."""

    def to_dict(self) -> dict[str, Any]:
        """Kind and options as JSON-plain values; `task_config` reads them back to an equal config."""
        return {"kind": self.kind, **plain_options(self)}


_KINDS: dict[str, type[TaskConfig]] = {}
Config = TypeVar("Config", bound=type[TaskConfig])


def register(config: Config) -> Config:
    """Class decorator: make a task selectable by its `kind`."""
    _KINDS[config.kind] = config
    return config


def task_names() -> list[str]:
    """The kinds of task there are."""
    return sorted(_KINDS)


def task_config(kind_and_options: Mapping[str, Any]) -> TaskConfig:
    """The config for `{"kind": ..., option: value, ...}`; an unknown kind, option or value raises `InvalidInput`."""
    options = dict(kind_and_options)
    kind = options.pop("kind", None)
    if kind is None:
        raise InvalidInput(f"task: no kind given; one of: {', '.join(task_names())}")
    if kind not in _KINDS:
        raise InvalidInput(f"task kind {kind!r} is unknown: {nearest(str(kind), task_names())}")
    return read_options(_KINDS[kind], options, where=f"task {kind}")
