"""A probe: a task whose examples are drawn, not read. Subclasses say how one block of examples is made."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from ...architectures import InvalidInput
from ..task import UNLABELLED, Batch, Score, Split, Task, TaskConfig
from .sampling import BLOCK, block_generator


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(TaskConfig):
    """What every probe has: the sizes of its held-out splits. Training never ends."""

    validation_examples: int = 1024
    """Examples of the validation split, the same for every trial."""

    test_examples: int = 3000
    """Examples of the test split, the same for every trial; slices share them equally. (Zoology tests on 3,000.)"""

    def __post_init__(self) -> None:
        for name in ("validation_examples", "test_examples"):
            self.require(getattr(self, name) >= 1, name, "at least 1")

    def require(self, holds: bool, name: str, what: str) -> None:
        """`InvalidInput` naming the option, its value and what it should be, unless `holds`."""
        if not holds:
            value = getattr(self, name)
            shown = list(value) if isinstance(value, tuple) else value
            raise InvalidInput(f"task {self.kind}: {name}={shown!r} should be {what}")


class Probe(Task):
    """Batches cut from a numbered stream of examples, and metrics as loss and accuracy.

    Example number e of a split is row e % BLOCK of block e // BLOCK; training's stream depends on the seed.
    """

    stream: int
    """A number of its own for each probe, so that two probes never share random numbers."""

    slice_name: str | None = None
    """What a slice counts, for the metric `accuracy/<slice_name>_<slice>`; None: no slices."""

    def __init__(self, config: ProbeConfig) -> None:
        self.name = config.kind
        self._n_examples: dict[Split, int] = {
            "validation": config.validation_examples,
            "test": config.test_examples,
        }
        self._last_block: tuple[tuple[Split, int, int], Batch] | None = None

    @abstractmethod
    def make_block(self, generator: np.random.Generator, split: Split) -> Batch:
        """`BLOCK` examples that belong to `split`, from this generator alone."""

    def batch(self, split: Split, index: int, batch_size: int, seed: int = 0) -> Batch:
        first, end = index * batch_size, (index + 1) * batch_size
        if split != "train":
            end = min(end, self._n_examples[split])
        if first >= end:
            raise IndexError(
                f"{self.name}: the {split} split has {self._n_examples[split]} examples, asked for {first}"
            )
        parts = []
        for block in range(first // BLOCK, (end - 1) // BLOCK + 1):
            rows = slice(max(first - block * BLOCK, 0), min(end - block * BLOCK, BLOCK))
            parts.append((self._block(split, seed, block), rows))
        slices = [b.slices_B[rows] for b, rows in parts if b.slices_B is not None]
        return Batch(
            torch.cat([b.tokens_BT[rows] for b, rows in parts]),
            torch.cat([b.targets_BT[rows] for b, rows in parts]),
            torch.cat(slices) if slices else None,
        )

    def _block(self, split: Split, seed: int, block: int) -> Batch:
        key = (split, seed, block)
        if self._last_block is None or self._last_block[0] != key:
            generator = block_generator(split, seed, block, self.stream)
            self._last_block = (key, self.make_block(generator, split))
        return self._last_block[1]

    def num_batches(self, split: Split, batch_size: int) -> int | None:
        return None if split == "train" else -(-self._n_examples[split] // batch_size)

    def metrics(self, score: Score, split: Split) -> dict[str, float]:
        """`loss` (nats), `accuracy` (of labelled positions), `exact_match` (of examples), and accuracy by slice."""
        if not score.n_targets:
            return {}
        found = {
            "loss": score.loss,
            "accuracy": score.n_correct / score.n_targets,
            "exact_match": score.n_exact / score.n_examples,
        }
        for part in sorted(score.targets_by_slice):
            found[f"accuracy/{self.slice_name}_{part}"] = score.correct_by_slice[part] / score.targets_by_slice[part]
        return found


def blank_rows(n_rows: int, length: int, filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are all `filler` and targets that are all unlabelled, int64 [n_rows, length] each."""
    tokens_NT = np.full((n_rows, length), filler, dtype=np.int64)
    return tokens_NT, np.full_like(tokens_NT, UNLABELLED)
