"""One token for a batch of sequences, in the fastest way that their states allow.

- `_Fixed`: all rows together from one state whose shapes never change (growing_cache), so that rows may be of different
  lengths; on a CUDA device the step is captured once as a graph and replayed.
- `_Growing`: rows of one length from the state that the prompt left.
- `_Apart`: several of the others, where the states of different lengths cannot be put together.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import InvalidInput
from .growing_cache import CACHES, SLOTS, fixed, place, widened
from .layer import State

ModelState = list[State]
ROOM = 256
"""A fixed cache has room for a multiple of this many tokens; when it is full, for twice as many."""
GRAPHED = "cuda"
"""The kind of device whose steps can be captured."""


class Decodable(Protocol):
    """What decoding needs of a model."""

    def __call__(
        self, tokens_BT: Tensor, state: ModelState | None = None, *, at_BT: Tensor | None = None
    ) -> tuple[Tensor, ModelState | None]: ...

    def init_state(self, batch_size: int) -> ModelState: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Step(Protocol):
    """The next tokens [B] to the logits [B,V] after them; a context that frees what it holds."""

    def __call__(self, token_B: Tensor) -> Tensor: ...

    def __enter__(self) -> "Step": ...

    def __exit__(self, *error: object) -> None: ...


class Group:
    """The rows of one length, their prompts read."""

    def __init__(self, model: Decodable, rows: Sequence[Tensor], indices: list[int]) -> None:
        tokens_BT = torch.stack([rows[i] for i in indices])
        self.length = tokens_BT.shape[1]
        self.rows = torch.tensor(indices, device=tokens_BT.device)
        last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        last_BT[:, -1] = True
        self.logits_BV, state = model(tokens_BT, model.init_state(len(indices)), at_BT=last_BT)
        assert state is not None
        self.state: ModelState = state


@torch.inference_mode(False)  # a graph's tensors outlive the call, and what inference mode makes cannot be reused
@torch.no_grad()
def begin(
    model: Decodable, rows: Sequence[Tensor], max_new_tokens: int, cuda_graphs: bool | None = None
) -> tuple[Tensor, Step]:
    """The logits [B,V] after the prompts ``rows``, each [T] of any length, and how to go on from there."""
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    groups = [Group(model, rows, by_length[length]) for length in sorted(by_length)]
    logits_BV = _together([group.logits_BV for group in groups], groups)
    on_device = rows[0].device.type == GRAPHED
    refusal = _why_apart(model, groups)
    if cuda_graphs and refusal:
        raise InvalidInput(f"generate: cuda_graphs=True: {refusal}")
    if refusal or (len(groups) == 1 and not on_device):
        steps = [_Growing(model, group.state) for group in groups]
        return logits_BV, steps[0] if len(steps) == 1 else _Apart(steps, groups)
    # Groups are dropped one by one as they are copied, so that their caches are not held twice.
    return logits_BV, _Fixed(model, groups, max_new_tokens, cuda_graphs if on_device else False)


def _together(parts: Sequence[Tensor], groups: Sequence[Group]) -> Tensor:
    """Rows of all groups, in the order of the prompts."""
    whole = parts[0].new_empty(sum(len(group.rows) for group in groups), *parts[0].shape[1:])
    for part, group in zip(parts, groups, strict=True):
        whole[group.rows] = part
    return whole


def _why_apart(model: Decodable, groups: Sequence[Group]) -> str | None:
    """What keeps the states from the fixed form, which takes entries that keep their shape and `CACHES`."""
    for index, empty in enumerate(model.init_state(1)):
        for name, before in empty.items():
            shapes = {group.state[index][name].shape[1:] for group in groups}
            if name not in CACHES and shapes != {before.shape[1:]}:
                return f"the state {name!r} of layer {index} changes its shape from token to token"
    return None


class _Growing:
    """Rows of one length, from the state that the prompt left."""

    def __init__(self, model: Decodable, state: ModelState) -> None:
        self.model, self.state = model, state

    def __call__(self, token_B: Tensor) -> Tensor:
        logits_B1V, state = self.model(token_B[:, None], self.state)
        assert state is not None
        self.state = state
        return logits_B1V[:, 0]

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, *error: object) -> None:
        self.state = []


class _Apart:
    """Groups of rows, each with a state of its own."""

    def __init__(self, steps: Sequence[_Growing], groups: Sequence[Group]) -> None:
        self.steps, self.groups = steps, groups

    def __call__(self, token_B: Tensor) -> Tensor:
        return _together(
            [step(token_B[group.rows]) for step, group in zip(self.steps, self.groups, strict=True)], self.groups
        )

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, *error: object) -> None:
        for step in self.steps:
            step.__exit__()


class _Fixed:
    """All rows from one state of the fixed form, by a replayed CUDA graph or step by step."""

    def __init__(self, model: Decodable, groups: list[Group], max_new_tokens: int, cuda_graphs: bool | None) -> None:
        self.model, self.cuda_graphs = model, cuda_graphs
        self.longest = max(group.length for group in groups)
        self.capacity = _rounded(self.longest + min(max_new_tokens, max(ROOM, self.longest)))
        batch_size = sum(len(group.rows) for group in groups)
        longest = groups[-1]
        made = [fixed(x, batch_size, longest.length, self.capacity) for x in longest.state]
        self.held = self._hold(made)
        while groups:
            group = groups.pop()
            for into, state in zip(self.held.state, group.state, strict=True):
                place(into, group.rows, state, group.length)

    def __call__(self, token_B: Tensor) -> Tensor:
        if self.longest == self.capacity:
            self._grow()
        self.longest += 1
        return self.held(token_B)

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self.held, _Graph):
            _keep(self.model, self.held)

    def _hold(self, made: ModelState) -> "_Graph | _Eager":
        """What steps from a state like ``made``: a graph where it is wanted and possible."""
        if self.cuda_graphs is False:
            return _Eager(self.model, made)
        kept = _kept(self.model, made)
        if kept is not None:
            return kept
        refusal = _why_no_graph(self.model, made)
        if refusal is None:
            return _Graph(self.model, made)
        if self.cuda_graphs:
            raise InvalidInput(f"generate: cuda_graphs=True: {refusal}")
        return _Eager(self.model, made)

    def _grow(self) -> None:
        """Twice the room: new tensors, hence a new graph."""
        old, self.capacity = self.capacity, 2 * self.capacity
        made = [widened(x, old, self.capacity) for x in self.held.state]
        self.held = _Eager(self.model, made) if isinstance(self.held, _Eager) else self._hold_copy(made)

    def _hold_copy(self, made: ModelState) -> "_Graph | _Eager":
        """A graph over a state of which ``made`` is the content; capturing runs steps, which spoil it."""
        held = self._hold([{name: x.clone() for name, x in state.items()} for state in made])
        for into, state in zip(held.state, made, strict=True):
            for name, x in state.items():
                into[name].copy_(x)
        return held


def _rounded(tokens: int) -> int:
    return -(-tokens // ROOM) * ROOM


class _Eager:
    """The step, launched operation by operation."""

    def __init__(self, model: Decodable, state: ModelState) -> None:
        self.model, self.state = model, state

    def __call__(self, token_B: Tensor) -> Tensor:
        logits_B1V, state = self.model(token_B[:, None], self.state)
        assert state is not None
        self.state = state
        return logits_B1V[:, 0]


class _Graph:
    """The step, captured once over tensors that stay where they are: tokens in, state through, logits out."""

    def __init__(self, model: Decodable, state: ModelState) -> None:
        self.state = state
        self.weights = _addresses(model)
        device = next(iter(model.parameters())).device
        self.token_B = torch.zeros(_sequences(state), dtype=torch.int64, device=device)
        self.graph = torch.cuda.CUDAGraph()
        with _no_weight_cache(device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits_BV = _in_place(model, self.token_B, self.state)

    def __call__(self, token_B: Tensor) -> Tensor:
        self.token_B.copy_(token_B)
        self.graph.replay()
        return self.logits_BV


def _sequences(state: ModelState) -> int:
    return next(x.shape[0] for place in state for name, x in place.items() if name != SLOTS)


def _in_place(model: Decodable, token_B: Tensor, state: ModelState) -> Tensor:
    """The logits [B,V] of one step; what the layers replace of the state is copied back into its tensors."""
    logits_B1V, after = model(token_B[:, None], [dict(place) for place in state])
    assert after is not None
    for before, now in zip(state, after, strict=True):
        for name, x in before.items():
            if now[name] is not x:
                x.copy_(now[name])
    return logits_B1V[:, 0]


def _why_no_graph(model: Decodable, state: ModelState) -> str | None:
    """Runs the step twice over ``state``, which spoils it: once so that kernels are compiled and libraries loaded, once
    to see whether it waits for the device anywhere, which a graph cannot."""
    if not any(place for place in state):
        return "the model has no state"
    device = next(iter(model.parameters())).device
    token_B = torch.zeros(_sequences(state), dtype=torch.int64, device=device)
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    before = torch.cuda.get_sync_debug_mode()
    try:
        with torch.cuda.stream(side), _no_weight_cache(device):
            _in_place(model, token_B, state)
            torch.cuda.set_sync_debug_mode("error")
            _in_place(model, token_B, state)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(side)
    return None


def _no_weight_cache(device: torch.device) -> Any:
    """Under autocast, weights cast at every step and not once: a graph must not refer to a cast that was freed."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.get_autocast_dtype(device.type), cache_enabled=False)


_GRAPHS: "weakref.WeakKeyDictionary[Any, _Graph]" = weakref.WeakKeyDictionary()
"""The last graph of each model, for the next call with a batch and a capacity like that one's. Whoever decodes with it
takes it out meanwhile."""


def forget_graphs() -> None:
    """Frees the memory of graphs that are kept for later calls."""
    _GRAPHS.clear()


def _keep(model: Decodable, graph: _Graph) -> None:
    _GRAPHS[model] = graph


def _kept(model: Decodable, like: ModelState) -> _Graph | None:
    graph = _GRAPHS.pop(model, None)
    same = graph is not None and graph.weights == _addresses(model) and _shapes(graph.state) == _shapes(like)
    return graph if same else None


def _shapes(state: ModelState) -> list[dict[str, tuple[torch.Size, torch.dtype]]]:
    return [{name: (x.shape, x.dtype) for name, x in place.items()} for place in state]


def _addresses(model: Decodable) -> tuple[object, ...]:
    """What a graph of the model is bound to: its weights' places, and how it computes."""
    device = next(iter(model.parameters())).device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return dtype, getattr(model, "training", None), *(parameter.data_ptr() for parameter in model.parameters())
