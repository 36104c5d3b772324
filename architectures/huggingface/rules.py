"""How tensors of ours and of theirs correspond: rules that are read in both directions.

A rule names tensors of our state dict and one or more forms in which they stand in theirs. Reading takes the first form
whose tensors are all there; writing takes the first. A form's two functions are each other's inverse.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InvalidInput


@dataclass(frozen=True)
class Via:
    """What a tensor of theirs goes through to become ours, and back."""

    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]

    def then(self, other: "Via") -> "Via":
        """First this, then ``other``, on the way to ours."""
        return Via(lambda t: other.ours(self.ours(t)), lambda t: self.theirs(other.theirs(t)))


SAME = Via(lambda t: t, lambda t: t)
PLUS_ONE = Via(lambda t: t + 1, lambda t: t - 1)
"""A norm of theirs that multiplies by 1 + w (Gemma, Qwen3-Next)."""
CONVOLUTION = Via(lambda t: t.squeeze(1), lambda t: t.unsqueeze(1))
"""A depthwise convolution's [channels,1,width]."""
TRANSPOSED = Via(lambda t: t.transpose(-1, -2), lambda t: t.transpose(-1, -2))


def times(factor: float | Tensor) -> Via:
    """Ours is theirs times ``factor`` (a number, or a tensor that broadcasts): a multiplier folded into the weights."""
    if isinstance(factor, float | int) and factor == 1:
        return SAME

    def on(tensor: Tensor) -> float | Tensor:
        return factor.to(tensor.device) if isinstance(factor, Tensor) else factor

    return Via(lambda t: (t * on(t)).to(t.dtype), lambda t: (t / on(t)).to(t.dtype))


def reshaped(ours: Sequence[int], theirs: Sequence[int]) -> Via:
    """The same numbers in another shape."""
    return Via(lambda t: t.reshape(*ours), lambda t: t.reshape(*theirs))


def reordered(index: Tensor) -> Via:
    """Row i of ours is row ``index[i]`` of theirs."""
    back = torch.empty_like(index)
    back[index] = torch.arange(len(index))
    return Via(lambda t: t[index], lambda t: t[back])


@dataclass(frozen=True)
class Form:
    """One way in which some tensors of ours stand in a checkpoint of theirs."""

    theirs: tuple[str, ...]
    read: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    """Theirs, in the order of the names, to ours."""
    write: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    """Its inverse."""


@dataclass(frozen=True)
class Rule:
    """Tensors of ours and the forms they have in theirs. Without ours: tensors of theirs that are no weights."""

    ours: tuple[str, ...]
    forms: tuple[Form, ...]


def same(ours: str, theirs: str, via: Via = SAME) -> Rule:
    """One tensor is one tensor."""
    return Rule((ours,), (Form((theirs,), lambda ts: [via.ours(ts[0])], lambda ts: [via.theirs(ts[0])]),))


def convolution(ours: str, theirs: str, bias: bool) -> list[Rule]:
    """A depthwise convolution."""
    rules = [same(f"{ours}.weight", f"{theirs}.weight", CONVOLUTION)]
    return [*rules, same(f"{ours}.bias", f"{theirs}.bias")] if bias else rules


def stacked(ours: str, theirs: Mapping[str, int], via: Via | Mapping[str, Via] = SAME, dim: int = 0) -> Rule:
    """Ours is theirs, of these sizes, one after the other along ``dim``; each through ``via`` first."""
    vias = [via if isinstance(via, Via) else via.get(name, SAME) for name in theirs]
    sizes = list(theirs.values())

    def read(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([v.ours(t) for v, t in zip(vias, tensors, strict=True)], dim)]

    def write(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [v.theirs(t) for v, t in zip(vias, tensors[0].split(sizes, dim), strict=True)]

    return Rule((ours,), (Form(tuple(theirs), read, write),))


def experts(ours: str, fused: str, apart: Sequence[str], n_experts: int, via: Via = SAME) -> Rule:
    """Experts' weights, ours [X,in,out]; theirs fused [X,out,in], or apart as ``prefix.{expert}.name`` [out_i,in].

    ``apart`` are names with ``{}`` for the expert, whose matrices stand one above the other; where they are given they
    are what is written, as it is what published checkpoints hold.
    """
    names = tuple(name.format(expert) for expert in range(n_experts) for name in apart)
    n_parts = len(apart)

    def read_apart(tensors: Sequence[Tensor]) -> list[Tensor]:
        each = [torch.cat(list(tensors[i : i + n_parts])) for i in range(0, len(tensors), n_parts)]
        return [via.ours(torch.stack(each)).transpose(1, 2)]

    def write_apart(tensors: Sequence[Tensor]) -> list[Tensor]:
        stack = via.theirs(tensors[0].transpose(1, 2))
        return [part for expert in stack for part in expert.chunk(n_parts)]

    whole = Form(
        (fused,),
        lambda ts: [via.ours(ts[0]).transpose(1, 2)],
        lambda ts: [via.theirs(ts[0].transpose(1, 2))],
    )
    return Rule((ours,), (Form(names, read_apart, write_apart), whole) if apart else (whole,))


def absent(family: str, ours: str, value: Tensor) -> Rule:
    """A tensor of ours that they do not have: read as ``value``; InvalidInput on writing if it is another."""

    def write(tensors: Sequence[Tensor]) -> list[Tensor]:
        if not torch.equal(tensors[0].cpu().to(value.dtype), value):
            raise InvalidInput(f"{family} cannot express {ours}, which is not {value.flatten()[0].item():g} everywhere")
        return []

    return Rule((ours,), (Form((), lambda ts: [value], write),))


def derived(theirs: str, value: Callable[[], Tensor]) -> Rule:
    """A tensor of theirs that follows from the configuration: not read, but written."""
    return Rule((), (Form((theirs,), lambda ts: [], lambda ts: [value()]),))


class Tensors(Protocol):
    """Named tensors that may be fetched one by one."""

    def names(self) -> Iterable[str]: ...

    def __getitem__(self, name: str) -> Tensor: ...


def to_ours(
    family: str, rules: Sequence[Rule], theirs: Tensors, ignored: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name, each made when it is asked for, so that a large model is never in memory twice.

    Before the first: InvalidInput if a tensor is missing, or is there without a rule and not ``ignored``.
    """
    there = set(theirs.names())
    chosen = [(rule, _form(family, rule, there)) for rule in rules]
    used = {name for _, form in chosen if form is not None for name in form.theirs}
    unknown = sorted(name for name in there - used if not ignored(name))
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise InvalidInput(f"{family}: the weights have {unknown[0]!r}{more}, for which the configuration has no place")
    return (
        pair
        for rule, form in chosen
        if rule.ours and form is not None
        for pair in zip(rule.ours, form.read([theirs[name] for name in form.theirs]), strict=True)
    )


def _form(family: str, rule: Rule, there: set[str]) -> Form | None:
    """The first form whose tensors are all there; none for what need not be read."""
    form = next((form for form in rule.forms if there.issuperset(form.theirs)), None)
    if form is None and rule.ours:
        missing = next(name for name in rule.forms[-1].theirs if name not in there)
        raise InvalidInput(f"{family}: the weights have no tensor {missing!r}, which the configuration asks for")
    return form


def to_theirs(rules: Sequence[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, each rule's in its first form."""
    written: dict[str, Tensor] = {}
    for rule in rules:
        form = rule.forms[0]
        written |= dict(zip(form.theirs, form.write([ours[name] for name in rule.ours]), strict=True))
    return written
