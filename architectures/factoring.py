"""The shortest way to write a sequence with its repetitions: ``a b a b a b c`` is ``(a b)*3 c``.

The text is found by dynamic programming from the right: the best text of ``words[i:]`` begins either with the word
itself or with a block of some period that repeats there, the block being written by the same rule. Blocks that are
themselves repetitions are left to their own smaller period.
"""

from collections.abc import Iterator
from functools import lru_cache

LONG = 256
"""Sequences longer than this are searched for periods up to ``LONG_PERIOD`` only, and for a period of the whole."""
LONG_PERIOD = 64


def factor(words: tuple[str, ...]) -> str:
    """``words`` on one line, repeated blocks factored; words that hold ``|`` are put in parentheses when repeated.

    A function of the sequence alone: of texts of equal length the one whose first block has the shorter period wins.
    """
    period = _smallest_period(words)
    if period < len(words):
        return _repeat(words[:period], len(words) // period)
    return _write(words)


@lru_cache(maxsize=4096)
def _write(words: tuple[str, ...]) -> str:
    n = len(words)
    runs = _runs(words, n // 2 if n <= LONG else LONG_PERIOD)
    length = [0] * (n + 1)  # of the best text of words[i:], a separating space included
    begins = [("", 0)] * n  # how it begins, and where the rest of it starts
    for i in reversed(range(n)):
        begins[i], length[i] = (words[i], i + 1), len(words[i]) + 1 + length[i + 1]
        primitive: list[tuple[int, int]] = []
        for period, run in enumerate(runs, start=1):
            count = 1 + run[i] // period if i < len(run) else 1
            if count < 2 or any(period % p == 0 and p * c >= 2 * period for p, c in primitive):
                continue
            primitive.append((period, count))
            for times in range(count, max(1, count - 2), -1):
                text, after = _repeat(words[i : i + period], times), i + times * period
                if len(text) + 1 + length[after] < length[i]:
                    begins[i], length[i] = (text, after), len(text) + 1 + length[after]
    return " ".join(_follow(begins))


def _follow(begins: list[tuple[str, int]]) -> Iterator[str]:
    i = 0
    while i < len(begins):
        text, i = begins[i]
        yield text


def _runs(words: tuple[str, ...], longest: int) -> list[list[int]]:
    """For each period 1..longest, how many words from ``i`` on equal the word one period later."""
    runs = []
    for period in range(1, min(longest, len(words) - 1) + 1):
        run = [0] * (len(words) - period + 1)
        for i in reversed(range(len(words) - period)):
            run[i] = run[i + 1] + 1 if words[i] == words[i + period] else 0
        runs.append(run)
    return runs


def _smallest_period(words: tuple[str, ...]) -> int:
    """The smallest period that divides the length (Knuth, Morris and Pratt's border function)."""
    border = [0] * len(words)
    for i in range(1, len(words)):
        k = border[i - 1]
        while k and words[i] != words[k]:
            k = border[k - 1]
        border[i] = k + 1 if words[i] == words[k] else 0
    period = len(words) - border[-1]
    return period if len(words) % period == 0 else len(words)


def _repeat(block: tuple[str, ...], count: int) -> str:
    text = _write(block)
    return f"{text}*{count}" if len(block) == 1 and "|" not in text else f"({text})*{count}"
