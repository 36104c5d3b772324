"""What a row of the benchmark is: an operation at a shape, called by this project, in fp64 and by a peer.

Every family of operations has a module with its rows, `ROWS`, and is named once, in `rows.py`; `run.py` measures them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

Inputs = dict[str, Tensor]
"""The arguments by name; gradients are taken of those that require them."""
Call = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Recorded:
    """A peer's times that were measured elsewhere, by the names of a row's columns, at a copy bandwidth (bytes/s)."""

    name: str
    columns: dict[str, float]
    bandwidth: float


class Row(ABC):
    """One row; subclasses are frozen dataclasses of plain numbers, so that a row can be sent to another process."""

    op: str
    """The operation's name, as `hybridlab bench kernels --op` takes it."""
    forward_only: bool = False
    """No gradients are taken."""
    is_step: bool = False
    """One decoding step: forward only, timed as a CUDA graph; the inputs hold "state", which it advances in place."""

    @property
    @abstractmethod
    def shape(self) -> str:
        """The shape as text, "B8 T4096 D2048"."""

    @property
    def name(self) -> tuple[str, str, bool]:
        """The operation, the shape, and whether there is no backward pass: what tells it from every other row."""
        return self.op, self.shape, self.forward_only or self.is_step

    @abstractmethod
    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """Fresh random arguments."""

    @abstractmethod
    def ours(self, x: Inputs) -> Tensor:
        """This project's Triton kernels."""

    @abstractmethod
    def exact(self, x: Inputs) -> Tensor:
        """The PyTorch form, which is called with fp64 arguments."""

    @abstractmethod
    def bytes_moved(self, *, backward: bool) -> int:
        """The fewest bytes of device memory that a forward pass (with its backward pass) must touch."""

    def peer(self) -> tuple[str, Call] | None:
        """The peer's name and its call, or None where none is installed."""
        return None

    def recorded(self) -> Recorded | None:
        """A peer that need not be installed: it was measured elsewhere."""
        return None

    def reduced(self) -> Row:
        """The row with fewer sequences, heads or channels, of which errors against fp64 are taken."""
        return self

    def brief(self) -> Row:
        """The row with fewer tokens, for which a peer compiles the same kernels in little memory."""
        return self

    def kernels(self) -> Hashable:
        """Rows for which this is equal have peers that compile the same kernels."""
        return self
