"""A mix: the few numbers of which a hybrid's pattern is made, so that each can be an axis of a sweep.

With n mixers, k of them attention, the placements are (indices from 0, all of them among the mixers):

    even      the centres of k equal blocks: (2j+1)n/2k, never first while n >= 2k       Jamba: 4 12 20 28
    last      the last of each of k equal blocks: (j+1)n/k - 1, so the last of all       Qwen3-Next: 3 7 11 …
    front     the first k
    back      the last k
    middle    k in a row; an odd one left over goes before them
    sandwich  half of them first, half of them last; an odd one goes first
    3,7,11    these
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .errors import InvalidInput, nearest
from .pattern import MAX_SUBLAYERS, Pattern, Sublayer, parse_pattern

_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,18})?)(?:([:/])([0-9]{1,9}(?:\.[0-9]{1,18})?))?")

_TYPES = (
    ("depth", int, "a whole number"),
    ("moe_every", int, "a whole number"),
    ("parallel", bool, "true or false"),
    ("mixer", str, "layers in the pattern language"),
    ("attention", str, "layers in the pattern language"),
    ("moe", str, "layers in the pattern language"),
)
PLACEMENTS = ("even", "last", "front", "back", "middle", "sandwich")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Generates a pattern. Layers are written in the pattern language; where several are given they take turns."""

    depth: int
    """How many mixers (attention included); MLPs are not counted."""
    mixer: str = "mamba2"
    """The main mixer: ``mamba2``, ``gla{n_heads=4}``, or several that take turns: ``mamba2 gated_deltanet``."""
    attention: str = "attn"
    """What stands at the chosen places: ``attn``, ``swa{window=512}``, ``attn@a attn@b`` (shared, taking turns)."""
    ratio: float | str | None = None
    """The share of attention among the mixers: 0.125, ``1/8``, or ``1:7`` (one attention to seven others). The count is
    rounded to the nearest, halves up, and is at least 1 if the share is above 0. None: no attention, or as many as
    ``placement`` lists."""
    placement: str | Sequence[int] = "even"
    """One of PLACEMENTS, or the indices of the attention among the mixers, as a list or as ``3,7,11``."""
    parallel: bool = False
    """Attention stands beside the main mixer (averaged with it) instead of in its place."""
    mlp: str | None = "mlp"
    """What follows mixers; None: nothing does."""
    mlp_share: float | str = 1.0
    """The share of mixers that an MLP follows; they are the last of equal blocks, so the last mixer always has one."""
    moe: str = "moe"
    """What takes the place of some MLPs."""
    moe_every: int = 0
    """One in this many MLPs is a mixture of experts; 0: none."""
    moe_offset: int | None = None
    """Which of each ``moe_every`` MLPs it is, from 0; None: the last."""

    def __post_init__(self) -> None:
        for name, kind, wanted in _TYPES:
            self._require(type(getattr(self, name)) is kind, name, wanted)
        self._require(1 <= self.depth <= MAX_SUBLAYERS, "depth", f"between 1 and {MAX_SUBLAYERS}")
        self._require(self.moe_every >= 0, "moe_every", "0 (none) or more")
        if self.moe_offset is not None:
            within = type(self.moe_offset) is int and 0 <= self.moe_offset < self.moe_every
            self._require(within, "moe_offset", f"a whole number, at least 0 and below moe_every={self.moe_every}")
        self._require(self.mlp is None or type(self.mlp) is str, "mlp", "layers in the pattern language, or none")
        if self.mlp is None:
            self._require(self.moe_every == 0, "moe_every", "0 where mlp is none")
        share(self.mlp_share, "mlp_share")
        if isinstance(self.placement, Sequence) and not isinstance(self.placement, str):
            object.__setattr__(self, "placement", tuple(self.placement))
        _ = self.attention_indices

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Mix":
        """A mix from plain values, as YAML gives them; InvalidInput for an unknown key or a missing depth."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InvalidInput(f"mix: unknown key {key!r}; {nearest(key, known)}")
        if "depth" not in values:
            raise InvalidInput("mix: depth is missing: the number of mixers")
        return cls(**values)

    @property
    def attention_indices(self) -> tuple[int, ...]:
        """Where attention stands among the mixers, ascending."""
        given = self._given_indices()
        wanted = None if self.ratio is None else _count(share(self.ratio, "ratio"), self.depth)
        if given is None:
            return place(str(self.placement), wanted or 0, self.depth)
        if wanted is not None and wanted != len(given):
            counts = f"{wanted}, but placement lists {len(given)}"
            raise InvalidInput(f"mix: ratio={self.ratio} of {self.depth} mixers is {counts}")
        return given

    def pattern(self) -> Pattern:
        """The pattern; a layer that is not registered raises InvalidInput."""
        mixers, attentions = _in_turn(self.mixer), _in_turn(self.attention)
        mlps = iter(self._mlps())
        with_mlp = frozenset(self._with_mlp())
        sublayers: list[Sublayer] = []
        for index in range(self.depth):
            if index not in self.attention_indices:
                sublayers.append(next(mixers))
            elif self.parallel:
                sublayers.append(Sublayer(next(attentions).branches + next(mixers).branches))
            else:
                sublayers.append(next(attentions))
            if index in with_mlp:
                sublayers.append(next(mlps))
        return Pattern(tuple(sublayers))

    def _with_mlp(self) -> tuple[int, ...]:
        if self.mlp is None:
            return ()
        return place("last", _count(share(self.mlp_share, "mlp_share"), self.depth), self.depth)

    def _mlps(self) -> list[Sublayer]:
        """What follows the mixers that are followed, in order."""
        count = len(self._with_mlp())
        if not count:
            return []
        plain = _in_turn(str(self.mlp))
        if not self.moe_every:
            return list(itertools.islice(plain, count))
        experts = _in_turn(self.moe)
        offset = self.moe_every - 1 if self.moe_offset is None else self.moe_offset
        return [next(experts if i % self.moe_every == offset else plain) for i in range(count)]

    def _given_indices(self) -> tuple[int, ...] | None:
        placement = self.placement
        if isinstance(placement, str):
            if placement in PLACEMENTS:
                return None
            words = [word.strip() for word in placement.split(",")]
            if not all(word.isdecimal() for word in words):
                known = nearest(placement, PLACEMENTS)
                raise InvalidInput(f"mix: placement={placement!r}: {known}, or indices as 3,7,11")
            placement = tuple(map(int, words))
        if not isinstance(placement, Sequence):
            raise InvalidInput(f"mix: placement={placement!r} must be one of {', '.join(PLACEMENTS)}, or indices")
        if any(type(i) is not int or not 0 <= i < self.depth for i in placement):
            raise InvalidInput(f"mix: placement={self.placement!r}: indices lie between 0 and {self.depth - 1}")
        if len(set(placement)) < len(placement):
            raise InvalidInput(f"mix: placement={self.placement!r}: an index is given twice")
        return tuple(sorted(placement))

    def _require(self, condition: bool, field: str, wanted: str) -> None:
        if not condition:
            raise InvalidInput(f"mix: {field}={getattr(self, field)!r} must be {wanted}")


def place(placement: str, count: int, depth: int) -> tuple[int, ...]:
    """The ``count`` of ``depth`` indices that a named placement takes, ascending (the module's table)."""
    if placement == "even":
        return tuple((2 * j + 1) * depth // (2 * count) for j in range(count))
    if placement == "last":
        return tuple((j + 1) * depth // count - 1 for j in range(count))
    if placement == "sandwich":
        first = (count + 1) // 2
        return (*range(first), *range(depth - (count - first), depth))
    start = {"front": 0, "back": depth - count, "middle": (depth - count + 1) // 2}[placement]
    return tuple(range(start, start + count))


def share(value: float | str, field: str) -> Fraction:
    """A share between 0 and 1 from 0.125, ``0.125``, ``1/8`` or ``1:7`` (one to seven others); else InvalidInput."""
    text = str(value).strip()
    found = None
    if match := _SHARE.fullmatch(text):
        part, sign, whole = Fraction(match[1]), match[2], Fraction(match[3] or 1)
        whole = part + whole if sign == ":" else whole
        found = part / whole if whole else None
    elif isinstance(value, float) and 0 <= value <= 1:
        found = Fraction(value)  # a number so small that it prints with an exponent
    if found is None or found > 1:
        raise InvalidInput(f"mix: {field}={value!r} must be a share between 0 and 1, such as 0.125, 1/8 or 1:7")
    return found


def _count(part: Fraction, depth: int) -> int:
    """``part`` of ``depth``, rounded to the nearest, halves up; at least 1 of what is asked for at all."""
    return max(int(part > 0), int(part * depth + Fraction(1, 2)))


def _in_turn(text: str) -> "itertools.cycle[Sublayer]":
    return itertools.cycle(parse_pattern(text).sublayers)
