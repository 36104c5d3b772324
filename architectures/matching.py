"""Widths at which different mixes cost the same: parameters, active parameters, FLOPs per token, or decoding state.

Two knobs are turned, and nothing is built: only bills are read.

1. ``d_model``, on multiples of ``Budget.multiple``: the width at which the model with its own proportions comes nearest
   is found by secants in log-log space (every bill is nearly a power of the width).
2. The fine knobs, by default the hidden widths of MLPs and experts: every bill is linear in them, so that two bills
   give the scale, common to all fine knobs, that meets the budget at a width. They are rounded to the same multiple.

Of the widths that meet the budget the one whose fine knobs are scaled least is taken. Where none does, the fine knobs'
multiple is halved, down to 1, and only then may they be scaled by more than 2. A layer whose fine knob is set in the
pattern's braces is left as it is written; a pattern without fine knobs has its width alone.

The divisors of a width decide how it is cut into heads, so that a state jumps from one width to the next and hidden
widths do not change it. Where the few widths next to the secants' answer all fail, those around it are read in turn.

With ``Budget.keep_shape`` the fine knobs stay near the model's own proportions: rather than scale them by more, widths
are taken on half the multiple, and a mismatch above the tolerance is recorded instead of refused.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .bill import bill
from .errors import InvalidInput, nearest
from .knobs import Settings, fine_knobs, halved, rounded, turned
from .model_config import ModelConfig

By = Literal["parameters", "active_parameters", "flops", "state"]
BY = ("parameters", "active_parameters", "flops", "state")

LARGEST_WIDTH = 131_072
WIDTHS_TRIED = 4
"""Widths nearest to the one found by secants for which the fine knobs are tried."""
SECANTS = 16
SCANNED = 512
"""Multiples looked at on either side for a width that the layers accept, or that meets the budget."""
JUMP = 2.0
"""Widths are scanned around one that is within this factor of the budget; heads change a state by about as much."""
LADDER = tuple(2**n for n in range(3, 18))
"""Widths that are cut into heads of the usual size: where secants went astray, one of these is near the budget."""
SCALES = ((1 / 2, 2.0), (1 / 8, 8.0))
"""By how much the fine knobs may be scaled, first and at last."""
SHAPE = (1 / 1.25, 1.25)
"""By how much they may be scaled, after rounding, where the shape is kept."""
NEAR = 0.1
"""The largest mismatch of a model that keeps the shape: above it finer widths are tried, and then it is refused."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is held constant, how much of it, and on which widths it is met. Exactly one of value and like is given."""

    by: By = "parameters"
    """parameters, active_parameters, flops (forward, per token) or state (bytes per sequence in bfloat16)."""
    value: float | None = None
    """The amount."""
    like: ModelConfig | None = None
    """As much as this model has."""
    tolerance: float = 0.02
    """The largest mismatch |achieved / wanted - 1|."""
    multiple: int = 8
    """Widths are multiples of this; fine knobs too, where that meets the tolerance."""
    sequence_length: int = 1024
    """The length, in tokens, at which FLOPs and state are taken."""
    d_model: int | None = None
    """Hold the width and turn the fine knobs alone."""
    fine: tuple[str, ...] | None = None
    """The fine knobs, LAYER.OPTION, such as ``mamba2.d_state``; None: the hidden width of every kind of MLP."""
    keep_shape: bool = False
    """Keep the model's proportions, on half the multiple if need be; the mismatch may then exceed the tolerance."""

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise InvalidInput(f"budget: by={self.by!r}; {nearest(str(self.by), BY)}")
        if (self.value is None) == (self.like is None):
            raise InvalidInput("budget: give either value or like")
        self._require_number("value", 0, math.inf, optional=True)
        self._require_number("tolerance", 0, 1)
        for name in ("multiple", "sequence_length", "d_model"):
            self._require_whole(name, optional=name == "d_model")
        if self.fine is not None and not all(isinstance(knob, str) and knob.count(".") == 1 for knob in self.fine):
            raise InvalidInput(f"budget: fine={self.fine!r} must be names such as mlp.hidden")

    def _require_number(self, name: str, low: float, high: float, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not isinstance(value, int | float) or isinstance(value, bool) or not low < value < high:
            raise InvalidInput(f"budget: {name}={value!r} must be a number above {low} and below {high}")

    def _require_whole(self, name: str, *, optional: bool) -> None:
        value = getattr(self, name)
        if not (value is None and optional) and (type(value) is not int or value < 1):
            raise InvalidInput(f"budget: {name}={value!r} must be a whole number, at least 1")

    def amount(self, config: ModelConfig) -> float:
        """What ``config`` has of what this budget holds constant."""
        cost = bill(config)
        if self.by == "parameters":
            return cost.parameters
        if self.by == "active_parameters":
            return cost.active_parameters
        return (cost.flops_per_token if self.by == "flops" else cost.state_bytes)(self.sequence_length)

    @property
    def wanted(self) -> float:
        """The amount to be met."""
        if self.like is not None:
            return self.amount(self.like)
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class Match:
    """A model that meets a budget."""

    config: ModelConfig
    achieved: float
    """Its amount."""
    wanted: float
    """The budget's amount."""

    @property
    def mismatch(self) -> float:
        """achieved / wanted - 1: above 0 if the model has too much."""
        return self.achieved / self.wanted - 1


def match(config: ModelConfig, budget: Budget) -> Match:
    """``config`` at the width, and with the fine knobs, that meet ``budget``; a config that is exact stays as it is.

    Raises InvalidInput with the best model found and its mismatch if none is within the tolerance, or with
    ``keep_shape`` within NEAR.
    """
    try:
        return _Search(config, budget).run()
    except InvalidInput:
        if not budget.keep_shape or budget.multiple == 1:
            raise
    return _Search(config, dataclasses.replace(budget, multiple=budget.multiple // 2)).run()


def _nearest(models: Iterable[Match]) -> Match | None:
    """The one that is nearest to its budget; None of none."""
    return min(models, key=lambda m: abs(m.mismatch), default=None)


class _Search:
    """One search; remembers every bill that it has read."""

    def __init__(self, config: ModelConfig, budget: Budget) -> None:
        self.config = config
        self.budget = budget
        self.wanted = budget.wanted
        if self.wanted == 0:
            raise InvalidInput(f"budget: the model to be like has no {budget.by}")
        self.knobs = fine_knobs(config, budget.fine)
        self.seen: dict[tuple[int, tuple[int, ...]], Match | None] = {}
        self.tried: list[Match] = []
        self.refusal = ""
        self.limit = max(NEAR, budget.tolerance) if budget.keep_shape else budget.tolerance

    def run(self) -> Match:
        held = self.budget.d_model
        own = Match(self.config, self.budget.amount(self.config), self.wanted)
        if own.achieved == 0:
            raise InvalidInput(f"'{self.config.pattern}' has no {self.budget.by} at any width")
        if own.mismatch == 0 and held in (None, self.config.d_model):
            return own
        for found in self.candidates():
            if abs(found.mismatch) <= self.budget.tolerance:
                return found
            self.tried.append(found)
        best = _nearest(self.tried)
        if best is not None and abs(best.mismatch) <= self.limit:
            return best
        raise InvalidInput(self.no_match())

    def candidates(self) -> Iterator[Match]:
        """Models to be held against the tolerance, those that are liked most first."""
        held = self.budget.d_model
        widths = [held] if held is not None else list(itertools.islice(self.widths_near(self.width()), WIDTHS_TRIED))
        steps = halved(self.budget.multiple) if self.knobs else [self.budget.multiple]
        for bounds in [SHAPE] if self.budget.keep_shape else SCALES:
            yield from self.scaled_on(widths, bounds, steps)
        if held is None and self.budget.by == "state":
            for width in self.widths_around(widths[0]):
                yield from self.scaled_on([width], (1.0, 1.0), steps)

    def scaled_on(self, widths: Sequence[int], bounds: tuple[float, float], steps: Sequence[int]) -> Iterator[Match]:
        """The nearest models with fine knobs on multiples of every step, those first that are scaled least."""
        low, high = bounds
        scales = {width: self.scale(width) for width in widths}
        for step, width in itertools.product(steps, sorted(widths, key=lambda w: abs(math.log(scales[w])))):
            if found := self.best_at(width, min(max(scales[width], low), high), step):
                yield found

    def widths_around(self, width: int) -> Iterator[int]:
        """Those that meet the budget, or come nearer than any before, around the nearest rung and the smallest."""
        rungs = [width, *(next(self.widths_near(rung)) for rung in LADDER)]
        near = [rung for rung in rungs if self.distance(rung) <= math.log(JUMP) and rung < LARGEST_WIDTH]
        middles = [min(near, key=self.distance), min(near)] if near else []
        least = math.inf
        for width in itertools.chain.from_iterable(map(self.widths_near, middles)):
            mismatch = abs(self.natural(width) / self.wanted - 1)
            if mismatch < max(least, self.budget.tolerance):
                yield width
            least = min(least, mismatch)

    def distance(self, width: int) -> float:
        """How far the model with its own proportions is from the budget, in logarithms."""
        return abs(math.log(self.natural(width) / self.wanted))

    def width(self) -> int:
        """The width that the layers accept, at which the model with its own proportions is nearest to the budget."""
        width = next(self.widths_near(self.config.d_model))
        power = 1.0 if self.budget.by == "state" else 2.0
        visited: dict[int, float] = {}
        while width not in visited and len(visited) < SECANTS:
            visited[width] = self.natural(width) / self.wanted
            guess = min(max(width * visited[width] ** (-1 / power), 1), LARGEST_WIDTH)
            following = next(self.widths_near(guess))
            if following not in visited:
                ratio = self.natural(following) / self.wanted / visited[width]
                power = min(max(math.log(ratio) / math.log(following / width), 0.5), 3.0) if ratio > 0 else power
            width = following
        return min(visited, key=self.distance)

    def widths_near(self, guess: float) -> Iterator[int]:
        """The widths that the layers accept, nearest to ``guess`` first."""
        multiple = self.budget.multiple
        middle = max(1, round(guess / multiple))
        around = range(max(1, middle - SCANNED), middle + SCANNED + 1)
        widths = sorted((n * multiple for n in around), key=lambda width: abs(width - guess))
        accepted = (width for width in widths if self.read(width, self.scaled(width, 1.0)))
        first = next(accepted, None)
        if first is None:
            line = f"no multiple of {multiple} near {round(guess)} is a width for '{self.config.pattern}'"
            raise InvalidInput(f"{line}: {self.refusal}")
        yield first
        yield from accepted

    def natural(self, width: int) -> float:
        """The amount at ``width`` with the model's own proportions."""
        found = self.read(width, self.scaled(width, 1.0))
        assert found is not None
        return found.achieved

    def scale(self, width: int) -> float:
        """By how much the fine knobs are to be scaled to meet the budget at ``width``; 1 where they have no effect."""
        one, two = self.read(width, self.scaled(width, 1.0)), self.read(width, self.scaled(width, 2.0))
        if one is None or two is None or two.achieved <= one.achieved:
            return 1.0
        slope = two.achieved - one.achieved
        scale = max(SCALES[-1][0], 1 + (self.wanted - one.achieved) / slope)
        near = self.read(width, self.scaled(width, scale))  # corrects for knobs that had to be rounded
        return scale if near is None else max(SCALES[-1][0], scale + (self.wanted - near.achieved) / slope)

    def best_at(self, width: int, scale: float, step: int) -> Match | None:
        """The nearest model at ``width`` with every fine knob on a multiple of ``step`` next to the scaled value."""
        bounds = SHAPE if self.budget.keep_shape else (0.0, math.inf)
        found = (self.read(width, choice) for choice in rounded(self.knobs, width, scale, step, bounds))
        return _nearest(m for m in found if m is not None)

    def scaled(self, width: int, scale: float) -> Settings:
        """The fine knobs at ``width``, scaled, as whole numbers."""
        return {knob: max(1, round(knob.at(width) * scale)) for knob in self.knobs}

    def read(self, width: int, settings: Settings) -> Match | None:
        """The model at these knobs with its amount; None if a layer refuses them."""
        key = (width, tuple(settings.values()))
        if key not in self.seen:
            try:
                config = dataclasses.replace(self.config, d_model=width, layers=turned(self.config.layers, settings))
                self.seen[key] = Match(config, self.budget.amount(config), self.wanted)
            except InvalidInput as refusal:
                self.seen[key], self.refusal = None, str(refusal)
        return self.seen[key]

    def no_match(self) -> str:
        """The error line: what was wanted, the best that was found, its mismatch, and the embedding if that is most."""
        best = _nearest(self.tried)
        budget = self.budget
        line = f"no width of '{self.config.pattern}' has {budget.by}={self.wanted:,.0f} within {self.limit:.2%}"
        if best is None:
            return f"{line}: {self.refusal or 'no whole number is near the proportions of its fine knobs'}"
        knobs = "".join(f", {knob}={knob.read(best.config)}" for knob in self.knobs)
        found = f"the best found is {best.achieved:,.0f} ({best.mismatch:+.2%}) at d_model={best.config.d_model}{knobs}"
        line = f"{line} on multiples of {budget.multiple}; {found}"
        V = self.config.vocab_size
        embedding = V * best.config.d_model * (1 if self.config.tie_embeddings else 2)
        most = budget.by in ("parameters", "active_parameters") and 2 * embedding > self.wanted
        return f"{line}; the vocabulary of {V:,} tokens alone takes {embedding:,}" if most else line
