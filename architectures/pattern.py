"""The pattern language: one line that names a model's residual sublayers, from the first to the last.

    pattern  = item item ...                    sublayers in order, separated by spaces
    item     = unit | unit*COUNT                (mamba2 mlp)*7 attn moe
    unit     = sublayer | (pattern)
    sublayer = layer | layer|layer...           branches in parallel on one residual stream, averaged after their norms
    layer    = NAME | NAME{KEY=VALUE,...}       options: whole numbers, decimals, true or false, words
               each optionally @LABEL           uses of one label are one set of weights

Megatron-LM's strings (``M-M-M--M-M*-``) are read too: see megatron.py. Options are checked when the layer's
configuration is built, names at once. Two patterns are equal if their sublayers are; ``str`` writes the one canonical
text of a sequence of sublayers, so parsing and printing again changes nothing.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn

from .errors import InvalidInput, nearest
from .factoring import factor
from .megatron import is_megatron, read_megatron

MAX_SUBLAYERS = 10_000
MAX_NESTING = 50

Scalar = int | float | bool | str

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?(?![A-Za-z0-9_.])")
_COUNT = re.compile(r"[0-9]+")
_BOOLEANS = {"true": True, "false": False, "True": True, "False": False}


@dataclass(frozen=True)
class Use:
    """One use of a layer: its registered name, the options that differ from its defaults, its label if shared."""

    name: str
    options: tuple[tuple[str, Scalar], ...] = ()
    """Sorted by key."""
    label: str | None = None

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.options]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            raise InvalidInput(f"layer {self.name!r}: option {repeated!r} is given twice")
        bad = [s for s in (self.name, *keys) if not _NAME.fullmatch(s)]
        if self.label is not None and not _LABEL.fullmatch(self.label):
            bad.append(self.label)
        if bad:
            raise InvalidInput(f"{bad[0]!r} is no name: letters, digits and _ only")
        for key, value in self.options:
            if not _writable(value):
                raise InvalidInput(f"layer {self.name!r}: option {key}={value!r} is no number, true, false or word")
        object.__setattr__(self, "options", tuple(sorted(self.options, key=lambda option: option[0])))

    def __str__(self) -> str:
        options = ",".join(f"{key}={_write(value)}" for key, value in self.options)
        return self.name + (f"{{{options}}}" if options else "") + (f"@{self.label}" if self.label else "")


@dataclass(frozen=True)
class Sublayer:
    """What is added to the residual stream at one place: one layer, or several in parallel, averaged."""

    branches: tuple[Use, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.branches))


@dataclass(frozen=True)
class Pattern:
    """A sequence of sublayers. ``str`` is canonical: a function of the sublayers alone, repetitions factored."""

    sublayers: tuple[Sublayer, ...]

    def __post_init__(self) -> None:
        if not self.sublayers:
            raise InvalidInput("pattern '': no layer in it")
        if len(self.sublayers) > MAX_SUBLAYERS:
            raise InvalidInput(f"a pattern of {len(self.sublayers)} sublayers: at most {MAX_SUBLAYERS}")
        owners: dict[str, str] = {}
        for use in self.uses:
            if use.label is not None and owners.setdefault(use.label, str(use)) != str(use):
                raise InvalidInput(
                    f"label {use.label!r} names one set of weights, but is used as {owners[use.label]} and as {use}"
                )

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """Every use of a layer, in order, parallel branches from left to right."""
        return tuple(use for sublayer in self.sublayers for use in sublayer.branches)

    def __len__(self) -> int:
        return len(self.sublayers)

    def __str__(self) -> str:
        return factor(tuple(map(str, self.sublayers)))


@lru_cache(maxsize=1024)
def parse_pattern(text: str, *, check_names: bool = True) -> Pattern:
    """The pattern that ``text`` writes, in the pattern language or in Megatron's symbols.

    Raises InvalidInput with the column (from 1) of the first mistake. ``check_names=False`` accepts layers that are
    not registered, for texts that are read but not built.
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    if is_megatron(text):
        found = read_megatron(text)
        for column, name in found if check_names else ():
            _check_name(text, column, name)
        return Pattern(tuple(Sublayer((Use(name),)) for _, name in found))
    return _Parser(text, check_names).parse()


def _writable(value: Scalar) -> bool:
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value)) and value not in _BOOLEANS
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _write(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fail(text: str, column: int, why: str) -> NoReturn:
    """Raise InvalidInput; of a long text only the part around the column is shown."""
    start, end = max(0, column - 41), column + 40
    shown = ("…" if start > 0 else "") + text[start:end] + ("…" if end < len(text) else "")
    raise InvalidInput(f"pattern '{shown if len(text) > 100 else text}': column {column}: {why}")


def _check_name(text: str, column: int, name: str) -> None:
    from .layer import layer_names  # here, so that the language itself needs no layers

    if name not in layer_names():
        _fail(text, column, f"unknown layer {name!r}; {nearest(name, layer_names())}")


class _Parser:
    """Recursive descent over the grammar in the module's docstring; one method a rule."""

    def __init__(self, text: str, check_names: bool) -> None:
        self.text = text
        self.check_names = check_names
        self.at = 0
        self.depth = 0
        self.labels: dict[str, str] = {}

    def parse(self) -> Pattern:
        if not self.text.strip():
            raise InvalidInput("pattern '': no layer in it")
        sublayers = self.pattern()
        if self.peek() is not None:
            self.fail("this ')' closes nothing")
        return Pattern(tuple(sublayers))

    def pattern(self) -> list[Sublayer]:
        sublayers: list[Sublayer] = []
        while self.peek() not in (None, ")"):
            self.add(sublayers, self.item())
        return sublayers

    def item(self) -> list[Sublayer]:
        group = self.peek() == "("
        unit = self.group() if group else [self.sublayer()]
        if self.peek() == "|":
            self.fail("'|' joins single layers: attn|mamba2")
        if self.peek() != "*":
            return unit
        self.at += 1
        self.peek()
        start = self.at
        digits = self.match(_COUNT, "a count after '*'")
        if not digits.strip("0"):
            self.fail("a count is 1 or more", start)
        if len(digits.lstrip("0")) > len(str(MAX_SUBLAYERS)) or len(unit) * int(digits) > MAX_SUBLAYERS:
            self.fail(f"more than {MAX_SUBLAYERS} sublayers", start)
        return unit * int(digits)

    def group(self) -> list[Sublayer]:
        start = self.at
        self.at += 1
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"more than {MAX_NESTING} nested parentheses", start)
        sublayers = self.pattern()
        if self.peek() is None:
            self.fail("this '(' is not closed", start)
        if not sublayers:
            self.fail("no layer between these parentheses", start)
        self.at += 1
        self.depth -= 1
        return sublayers

    def sublayer(self) -> Sublayer:
        branches = [self.layer()]
        while self.peek() == "|":
            self.at += 1
            self.peek()
            branches.append(self.layer())
        return Sublayer(tuple(branches))

    def layer(self) -> Use:
        start = self.at
        name = self.match(_NAME, "a layer's name or '('")
        if self.check_names:
            _check_name(self.text, start + 1, name)
        options: dict[str, Scalar] = {}
        label = None
        if self.peek() == "{":
            options = self.options()
        if self.peek() == "@":
            self.at += 1
            label = self.match(_LABEL, "a label after '@'")
            if self.peek() == "{":
                self.fail("options come before the label: attn{window=512}@a")
        use = Use(name, tuple(options.items()), label)
        if label is not None and self.labels.setdefault(label, str(use)) != str(use):
            self.fail(f"label {label!r} is already {self.labels[label]}, so it cannot be {use}", start)
        return use

    def options(self) -> dict[str, Scalar]:
        options: dict[str, Scalar] = {}
        separator = "{"
        while separator != "}":
            self.at += 1
            self.peek()
            start = self.at
            key = self.match(_NAME, "an option's name")
            if key in options:
                self.fail(f"option {key!r} is given twice", start)
            if self.peek() != "=":
                self.fail(f"expected '=' after the option's name {key!r}")
            self.at += 1
            self.peek()
            options[key] = self.value()
            separator = self.peek() or ""
            if separator not in (",", "}"):
                self.fail("expected ',' or '}' after the option's value")
        self.at += 1
        return options

    def value(self) -> Scalar:
        start = self.at
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            whole = not set(".eE") & set(number[0])
            value = int(number[0]) if whole and len(number[0]) < 20 else float(number[0])
            if not math.isfinite(value) or (whole and isinstance(value, float)):
                self.fail(f"the number {number[0][:20]} is too large", start)
            return value
        word = self.match(_WORD, "a number, true, false or a word")
        return _BOOLEANS.get(word, word)

    def add(self, sublayers: list[Sublayer], more: list[Sublayer]) -> None:
        if len(sublayers) + len(more) > MAX_SUBLAYERS:
            self.fail(f"more than {MAX_SUBLAYERS} sublayers")
        sublayers += more

    def match(self, kind: re.Pattern[str], expected: str) -> str:
        found = kind.match(self.text, self.at)
        if found is None:
            got = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
            self.fail(f"expected {expected}, got {got}")
        self.at = found.end()
        return found[0]

    def peek(self) -> str | None:
        """The next character that is no space, which the position then stands at; None at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at] if self.at < len(self.text) else None

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        _fail(self.text, (self.at if at is None else at) + 1, why)
