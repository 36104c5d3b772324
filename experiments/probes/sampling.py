"""Random examples, many at a time: what the probes share.

A probe's examples are a numbered stream per split, made in blocks of `BLOCK` rows, so that example number e is the
same whatever the batch size, and any one can be had without those before it.

Splits never share an example: each is assigned to a split by a hash of what was drawn for it (`split_of`), and what
falls to another split is drawn again (`draw`).

Shapes: N rows, C columns.
"""

from collections.abc import Callable

import numpy as np

from ...architectures import InvalidInput
from ..task import SPLITS, Split

BLOCK = 512
"""Rows made at once."""

_EIGHTHS = {"test": 1, "validation": 1, "train": 6}
"""Eighths of the possible examples that belong to each split."""

_ROUNDS = 400
"""Draws after which a split is taken to be empty: a row of a split of 1/8 misses it 400 times with p = 6e-24."""


def block_generator(split: Split, seed: int, block: int, stream: int) -> np.random.Generator:
    """The generator of one block; `stream` tells the probes and their parts apart. Held-out splits ignore `seed`."""
    return np.random.default_rng([stream, SPLITS.index(split), seed if split == "train" else 0, block])


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): scatters uint64 values over all 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def split_of(rows_NC: np.ndarray) -> np.ndarray:
    """The split each row of integers from -1 up belongs to, as an index into `SPLITS`: a hash of its values alone.

    A trailing -1 changes nothing, so that rows of different widths compare.
    """
    column_C = np.arange(1, rows_NC.shape[1] + 1, dtype=np.uint64)
    eighth_N = _mix((rows_NC + 1).astype(np.uint64) @ _mix(column_C)) >> np.uint64(61)
    return np.array([SPLITS.index(name) for name, eighths in _EIGHTHS.items() for _ in range(eighths)])[eighth_N]


def draw(make: Callable[[np.ndarray], np.ndarray], n_rows: int, split: Split, *, where: str) -> np.ndarray:
    """`n_rows` rows that belong to `split`; `make` draws those whose numbers it is given.

    `InvalidInput`, beginning with `where`, if the split is (all but surely) empty.
    """
    rows_NC = make(np.arange(n_rows))
    wrong_N = np.flatnonzero(split_of(rows_NC) != SPLITS.index(split))
    for _ in range(_ROUNDS):
        if not len(wrong_N):
            return rows_NC
        redrawn = make(wrong_N)
        rows_NC[wrong_N] = redrawn
        wrong_N = wrong_N[split_of(redrawn) != SPLITS.index(split)]
    raise InvalidInput(f"{where}: too few different examples to give the {split} split its own; ask for a larger space")


def distinct(generator: np.random.Generator, low: int, high: int, n_rows: int, n_columns: int) -> np.ndarray:
    """int64 [n_rows, n_columns]: in each row different integers of [low, high), every ordered choice equally likely.

    Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987) by columns, then a shuffle.
    """
    rows_NC = np.empty((n_rows, n_columns), dtype=np.int64)
    for column, last in enumerate(range(high - low - n_columns, high - low)):
        candidate_N = generator.integers(0, last + 1, size=n_rows)
        taken_N = (rows_NC[:, :column] == candidate_N[:, None]).any(axis=1)
        rows_NC[:, column] = np.where(taken_N, last, candidate_N)
    return generator.permuted(rows_NC, axis=1, out=rows_NC) + low


def distinct_weighted(generator: np.random.Generator, weights_C: np.ndarray, n_rows: int, n_draws: int) -> np.ndarray:
    """int64 [n_rows, n_draws]: columns drawn one after the other without replacement, with these probabilities.

    The arrival times of exponential clocks with rates `weights_C`, of which the first `n_draws` ring (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006): the law of successive draws, in their order.
    """
    times_NC = generator.standard_exponential((n_rows, len(weights_C)), dtype=np.float32)
    times_NC /= weights_C.astype(np.float32)
    if n_draws < len(weights_C):
        first_ND = np.argpartition(times_NC, n_draws - 1, axis=1)[:, :n_draws]
    else:
        first_ND = np.broadcast_to(np.arange(n_draws), (n_rows, n_draws))
    order_ND = np.take_along_axis(times_NC, first_ND, axis=1).argsort(axis=1)
    return np.take_along_axis(first_ND, order_ND, axis=1)
