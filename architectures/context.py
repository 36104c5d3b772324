"""What a layer may read beside its normed input, within one forward pass of the model.

A layer's config says what it ``reads`` and what it ``shares``; one that does either is called as
``layer(x, state, context)``. The model makes one context a pass, for training, for a prompt and for every token alike:

- ``embedding``: the tokens as they enter the stream (Zamba reads them beside it);
- ``read(name)`` and ``share(name, tensor)``: what the nearest earlier layer shared under that name. A tensor of this
  pass's tokens (RWKV-7's first values) needs no state; a cache (YOCO's, Hymba's keys and values) is in the state of the
  layer that shares it, which shares all that it holds, so that its readers keep nothing;
- ``own``: this use's own weights, where uses of one label share the rest (``LayerConfig.build_per_use``).
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

EMBEDDING = "embedding"
"""What every layer may read."""


@dataclass(frozen=True)
class Context:
    """One forward pass, seen from one place of the model."""

    embedding_BTD: Tensor
    """The tokens' embeddings, scaled, as they enter the stream."""
    own: nn.Module | None = None
    """The weights that this place has for itself; None: none."""
    shared: dict[str, Tensor] = field(default_factory=dict)
    """What earlier places shared; one dictionary for the whole pass."""

    def read(self, name: str) -> Tensor:
        """What the nearest earlier layer shared as ``name``; the model's config has checked that there is one."""
        return self.embedding_BTD if name == EMBEDDING else self.shared[name]

    def share(self, name: str, value: Tensor) -> None:
        """Hands ``value`` to all later layers that read ``name``, in place of what was shared before."""
        self.shared[name] = value

    def at(self, own: nn.Module | None) -> "Context":
        """The same pass, seen from a place with these weights of its own."""
        return Context(self.embedding_BTD, own, self.shared)
