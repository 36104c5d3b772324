"""Rehearsals: what a GPU would run and hold for a model, watched on tensors without memory (as_on_gpu).

Nothing is declared by hand: operators, the tensors that autograd keeps and the most that lives at once are those of the
model's own code, so that a new layer needs no more than its forward.

A deep model has thousands of operators, but few kinds of sublayers, and amounts are sums over sublayers. So what is
rehearsed is a model with one sublayer of each kind, and for each kind one that has it twice: the difference is what one
more such sublayer takes.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..kernels import flops_of
from .as_on_gpu import Precision, as_on_gpu, autocast_as_on_gpu
from .decoding import choose
from .growing_cache import fixed
from .model_config import ModelConfig
from .pattern import parse_pattern

Pass = Literal["training", "prefill", "decode"]


@dataclass(frozen=True)
class Operation:
    """One launch, as far as its cost depends on it."""

    name: str
    """The operator's, without its overload: ``aten.mm``, ``hybridlab.norm``."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its tensor arguments, in their order."""
    dtype: torch.dtype
    """Of its first result."""
    flops: int
    """As torch.utils.flop_counter has it, 0 for what is no product."""
    read: int
    """Bytes of its tensor arguments, each storage's region once."""
    written: int
    """Bytes of its results."""
    options: tuple[object, ...] = ()
    """Its arguments that are words or truths (the kind of a decay, causality)."""
    backward: bool = False
    """Whether it is part of the backward pass."""
    dense: bool = True
    """Whether its tensors lie in memory as they are read, without holes (broadcasting leaves none)."""


@dataclass
class Amounts:
    """What a pass takes; amounts of the same pass can be added, subtracted and multiplied."""

    operations: Counter[Operation] = field(default_factory=Counter)
    kept: float = 0.0
    """Bytes alive between forward and backward pass, but for parameters: activations, weights cast by autocast."""
    forward_peak: float = 0.0
    """The most bytes alive in the forward pass and the loss, but for parameters."""
    backward_peak: float = 0.0
    """The most in the backward pass, gradients so far included."""

    def plus(self, other: "Amounts", times: int = 1) -> "Amounts":
        """self + times * other; operations may be negative in between."""
        operations = Counter(self.operations)
        for operation, count in other.operations.items():
            operations[operation] += times * count
        return Amounts(
            Counter({operation: count for operation, count in operations.items() if count}),
            self.kept + times * other.kept,
            self.forward_peak + times * other.forward_peak,
            self.backward_peak + times * other.backward_peak,
        )


@dataclass
class Rehearsal:
    """A pass over a whole model, by part."""

    whole: Amounts
    parts: dict[str, Amounts]
    """By what a sublayer is, as a pattern has it without options (``mamba2``, ``attn|mamba2``): all such sublayers.
    ``embedding and head``: all else, the loss included."""


AROUND = "embedding and head"


@lru_cache(maxsize=64)
def _rehearse(
    key: str, what: Pass, batch_size: int, length: int, precision: Precision, config: "_Hashable"
) -> Rehearsal:
    model = config.config
    texts = [str(sublayer) for sublayer in parse_pattern(model.pattern).sublayers]
    kinds = [_kind(model, index) for index in range(len(texts))]
    first = {kind: index for index, kind in reversed(list(enumerate(kinds)))}
    order = sorted(first.values())
    if model.sublayers()[order[-1]][0].layer.adds_to == "next":
        order.append(next(i for i in order if model.sublayers()[i][0].layer.adds_to == "stream"))

    def run(indices: Iterable[int]) -> Amounts:
        pattern = " ".join(texts[i] for i in indices)
        return _watch(replace(model, pattern=pattern), what, batch_size, length, precision)

    base = run(order)
    whole, around, parts = base, base, {}
    for index in sorted(first.values()):
        place = order.index(index)
        one = run([*order[: place + 1], *order[place:]]).plus(base, -1)
        count = kinds.count(kinds[index])
        name = "|".join(branch.layer.name for branch in model.sublayers()[index])
        parts[name] = parts.get(name, Amounts()).plus(one, count)
        whole = whole.plus(one, count - order.count(index))
        around = around.plus(one, -order.count(index))
    return Rehearsal(whole, {**parts, AROUND: around})


@dataclass(frozen=True)
class _Hashable:
    """A config as a key by its plain values (it holds dictionaries)."""

    config: ModelConfig

    def __hash__(self) -> int:
        return hash(repr(self.config.to_dict()))


def rehearse(
    config: ModelConfig, what: Pass, *, batch_size: int, length: int, precision: Precision = "bf16"
) -> Rehearsal:
    """A training step (forward, loss and backward; autocast to bf16 over fp32 weights unless ``precision`` is fp32), a
    prompt's reading, or one decoding step after ``length`` tokens (both with weights of that precision)."""
    return _rehearse(repr(config.to_dict()), what, batch_size, length, precision, _Hashable(config))


def _kind(config: ModelConfig, index: int) -> tuple[object, ...]:
    """Sublayers of one kind cost the same: the same layers with the same bills, sharing weights alike."""
    d = config.d_model
    return tuple(
        (
            *(place.layer.name, place.label, place.layer.norm, place.layer.adds_to, place.layer.num_parameters(d)),
            *(place.layer.flops_per_token(d, 4096), place.layer.state_bytes(d, 4096)),
        )
        for place in config.sublayers()[index]
    )


def _watch(config: ModelConfig, what: Pass, batch_size: int, length: int, precision: Precision) -> Amounts:
    from .model import HybridModel  # the model's own bill asks for rehearsals

    with as_on_gpu():
        model = HybridModel(config)
        tokens_BT = torch.zeros(batch_size, length, dtype=torch.int64)
        if what == "training":
            return _training_step(model.train(), tokens_BT, precision)
        _cast(model.eval(), torch.bfloat16 if precision == "bf16" else torch.float32)
        with torch.no_grad():
            return _decoding(model, tokens_BT, what)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """``model.to(dtype)``, which fake parameters refuse."""
    for module in model.modules():
        for name, x in module._parameters.items():
            if x is not None and x.is_floating_point():
                module._parameters[name] = nn.Parameter(x.detach().to(dtype))
        for name, x in module._buffers.items():
            if x is not None and x.is_floating_point():
                module._buffers[name] = x.to(dtype)


def _training_step(model: Any, tokens_BT: Tensor, precision: Precision) -> Amounts:
    known = [*model.parameters(), *model.buffers(), tokens_BT]
    with _Watch(known) as watch:
        with autocast_as_on_gpu(precision):
            loss = model.loss(tokens_BT, tokens_BT)
            kept = watch.alive
            balance = model.auxiliary_loss()
        forward_peak = watch.restart(backward=True)
        (loss + balance).backward()
        return Amounts(watch.operations, kept, forward_peak, watch.restart(backward=True))


def _decoding(model: Any, tokens_BT: Tensor, what: Pass) -> Amounts:
    last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    state = model.init_state(len(tokens_BT))
    if what == "decode":
        _, state = model(tokens_BT, state, at_BT=last_BT)
        capacity = tokens_BT.shape[1] + 1
        state = [fixed(place, len(tokens_BT), tokens_BT.shape[1], capacity) for place in state]
        tokens_BT, last_BT = tokens_BT[:, :1], None
    known = [*model.parameters(), *model.buffers(), *tree_leaves(state), tokens_BT]
    with _Watch([x for x in known if isinstance(x, Tensor)]) as watch:
        logits = model(tokens_BT, state, at_BT=last_BT)[0]
        choose(logits.flatten(0, -2), 0.0, None, None)
        return Amounts(watch.operations, watch.alive, watch.restart(backward=False), 0.0)


class _Watch(TorchDispatchMode):
    """Counts launches, and the bytes that are alive beside ``known`` tensors."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()
        self.alive = self.peak = 0
        self.backward = False
        self.seen: set[int] = set()
        for x in known:
            self.seen.add(x.untyped_storage()._cdata)

    def restart(self, *, backward: bool) -> int:
        """The most that was alive until now; from here on the most is sought anew."""
        peak, self.peak, self.backward = self.peak, self.alive, backward
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim" or func.is_view:
            return result
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if func._overloadpacket.__name__ == "log_sigmoid_forward":
            results = results[:1]  # what it keeps beside on a CPU is empty on a GPU
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in results:
            self._hold(x)
        if results and _launches(func, given, results):
            self.operations[self._operation(func, args, kwargs or {}, given, results, result)] += 1
        return result

    def _hold(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.alive -= size

    def _operation(
        self, func: Any, args: Any, kwargs: Any, given: list[Tensor], results: list[Tensor], result: Any
    ) -> Operation:
        return Operation(
            name=f"{func.namespace}.{func._overloadpacket.__name__}",
            shapes=tuple(tuple(x.shape) for x in given),
            dtype=results[0].dtype,
            flops=flops_of(func, args, kwargs, result),
            read=_bytes(given),
            written=_bytes(results),
            options=tuple(x for x in tree_leaves(args) if isinstance(x, (str, bool))),
            backward=self.backward,
            dense=all(map(_dense, (*given, *results))),
        )


def _bytes(tensors: list[Tensor]) -> int:
    """Each tensor's own elements; a broadcast one has those it has in memory, one that is given twice counts once."""
    regions = {}
    for x in tensors:
        size = x.itemsize
        for length, stride in zip(x.shape, x.stride(), strict=True):
            size *= length if stride else 1
        regions[x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape)] = size
    return sum(regions.values())


def _dense(x: Tensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if length > 1 and stride:
            if stride != expected:
                return False
            expected *= length
    return True


_NO_LAUNCH = frozenset(
    ("detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh")
)


def _launches(func: Any, given: list[Tensor], results: list[Tensor]) -> bool:
    """Whether something runs on the device: not for views and memory that is only taken."""
    if func._overloadpacket.__name__ in _NO_LAUNCH:
        return False
    return func._schema.is_mutable or not _aliases(given, results)


def _aliases(given: list[Tensor], results: list[Tensor]) -> bool:
    storages = {x.untyped_storage()._cdata for x in given}
    return bool(storages) and all(x.untyped_storage()._cdata in storages for x in results)
