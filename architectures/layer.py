"""What a layer is: a frozen config that knows its cost before it is built, and the module that it builds.

A layer maps x [B,T,D] to y [B,T,D]. It neither normalises its input nor adds the residual: the model does
(h = h + layer(norm(h))). With ``state=None`` it runs over whole sequences from nothing, which is how models train. With
a state it continues from there, over a prompt (any T) or one token (T=1), and hands back the state after its input.
A layer that reads more than x, or lets later layers read something of its own, says so and is handed a context; see
context.py.

Axes here and in mixers/: B batch, T time, S keys seen, D model width, H heads, K key (or query) and V value width of
a head, N state size, P head width, E inner width, G groups, W convolution width, X experts.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from .errors import InvalidInput, nearest

State = dict[str, Tensor]
Scalar = int | float | bool | str
NormPlace = Literal["pre", "post", "stream", "none"]
Target = Literal["stream", "next"]


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """Options of one kind of layer, and its bill. Subclasses are registered under their ``name``.

    What the bill counts, the same for every layer:

    - Parameters: trainable tensors. Active ones: those that one token meets (they differ for mixtures of experts).
    - FLOPs: forward only, a multiply-add is 2; products of matrices, convolutions, and a recurrence's two products per
      token (key times value into the state, query times state out). A filter as long as the sequence (Hyena) counts as
      the two transforms of its input, 5/2 n log₂ n each with n = 2T. Elementwise work (norms, gates, decays, softmax,
      rotations) is not counted, nor what makes filters once a batch. Attention counts the keys that causality lets a
      token see, not the masked half. Work that depends on how a recurrence is cut into chunks is not counted: it is the
      machine's choice.
    - State: the bytes that decoding keeps per sequence, without the room that a growing cache leaves for its next
      tokens. Keys, values and convolution tails have the model's dtype; recurrent states are fp32; a position is
      one int64.
    """

    name: ClassVar[str]
    role: ClassVar[Literal["mixer", "mlp"]]

    norm: NormPlace = "pre"
    """Where the model's norm stands: ``pre``, h + f(norm(h)); ``post``, h + norm(f(h)) (OLMo); ``stream``, n + f(n)
    with n = norm(h) (MiniMax); ``none``, h + f(h), for layers with norms of their own."""
    residual_weight: float = 1.0
    """What the stream is multiplied by before this layer's output is added (MiniMax)."""
    adds_to: Target = "stream"
    """What the output is added to: the stream, or only the next sublayer's input, before its norm (Zamba)."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that this layer reads from the context; none by default."""
        return ()

    @property
    def shares(self) -> tuple[str, ...]:
        """Names that it lets later layers read; none by default."""
        return ()

    def build(self, d_model: int) -> "Layer":
        """The module, initialised as its paper says. Raises InvalidInput if the options do not fit ``d_model``."""
        raise NotImplementedError

    def num_parameters(self, d_model: int) -> int:
        """Trainable parameters of ``build(d_model)``, exactly."""
        raise NotImplementedError

    def active_parameters(self, d_model: int) -> int:
        """Parameters that one token meets."""
        return self.num_parameters(d_model)

    def build_per_use(self, d_model: int) -> nn.Module | None:
        """Weights that each place has for itself, however many share the layer (Zamba2's adapters): the context's
        ``own``. None by default. Their FLOPs belong to ``flops_per_token``."""
        return None

    def parameters_per_use(self, d_model: int) -> int:
        """Trainable parameters of ``build_per_use(d_model)``, exactly."""
        return 0

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        """Forward FLOPs of a token, the mean over the positions of a sequence of that length."""
        raise NotImplementedError

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        """Bytes that decoding holds per sequence after ``sequence_length`` tokens."""
        raise NotImplementedError

    def require(self, condition: bool, field: str, wanted: str) -> None:
        """Raises InvalidInput naming this layer, ``field`` and its value unless ``condition`` holds."""
        if not condition:
            raise InvalidInput(f"{self.name}: {field}={getattr(self, field)!r} must be {wanted}")


class Layer(nn.Module):
    """A built layer. ``auxiliary_loss`` is what the last training forward adds to the loss (None: nothing)."""

    auxiliary_loss: Tensor | None = None

    @property
    def capacity(self) -> Tensor | None:
        """Tokens of the last forward's busiest expert over the mean of all; None without experts."""
        return None

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first token; ``dtype`` is that of keys, values and convolution tails."""
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """y [B,T,D] and the state after the last token (None without a state). A given state is consumed: decoding
        updates its tensors in place, so that it must not be used again.

        A layer that reads, shares or has weights per use takes a third argument, ``context: Context | None = None``.
        """
        raise NotImplementedError


_REGISTRY: dict[str, type[LayerConfig]] = {}
ConfigClass = TypeVar("ConfigClass", bound=type[LayerConfig])


def register(cls: ConfigClass) -> ConfigClass:
    """Makes a config class known to patterns by its ``name``."""
    if cls.name in _REGISTRY:
        raise ValueError(f"two layers are named {cls.name!r}: {_REGISTRY[cls.name].__module__} and {cls.__module__}")
    _REGISTRY[cls.name] = cls
    return cls


def layer_names() -> tuple[str, ...]:
    """The names that a pattern may use, sorted."""
    return tuple(sorted(_REGISTRY))


def layer_config(name: str, options: Mapping[str, Scalar] | None = None) -> LayerConfig:
    """The config of layer ``name`` with ``options`` set.

    Raises InvalidInput for an unknown name or option, or a value of the wrong type or range.
    """
    if name not in _REGISTRY:
        raise InvalidInput(f"unknown layer {name!r}: {nearest(name, _REGISTRY)}")
    cls = _REGISTRY[name]
    types_of = _option_types(cls)
    checked = {}
    for option, value in (options or {}).items():
        if option not in types_of:
            raise InvalidInput(f"{name}: unknown option {option!r}: {nearest(option, types_of)}")
        checked[option] = _typed(name, option, value, types_of[option])
    return cls(**checked)


@functools.cache
def _option_types(cls: type[LayerConfig]) -> dict[str, Any]:
    """The fields of a config class and their types; cached, as matching makes thousands of configs."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _typed(layer: str, option: str, value: Any, annotation: Any) -> Any:
    """``value`` if it is of the field's type (an int where a float is wanted becomes one), else InvalidInput."""
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            raise InvalidInput(f"{layer}: {option}={value!r}: {nearest(str(value), choices)}")
        return value
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    accepted = typing.get_args(annotation) if union else (annotation,)
    if type(value) in accepted:
        return value
    if float in accepted and type(value) is int:
        return float(value)
    wanted = " or ".join("none" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in accepted)
    raise InvalidInput(f"{layer}: {option}={value!r} must be {wanted}")
