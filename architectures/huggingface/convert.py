"""Models of transformers as ours, and ours as theirs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..initialization import unfilled
from ..model import HybridModel
from .config import TheirConfig
from .family import Family, all_families, difference, family_of
from .folder import read_config, stored, write_folder
from .rules import Rule, Tensors, to_ours, to_theirs


class _InMemory:
    """The tensors of a model of theirs."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = model.state_dict()

    def names(self) -> Iterable[str]:
        return self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].detach()


class _Widened:
    """Tensors in at least this dtype, so that what rules compute with them is rounded once, at the end."""

    def __init__(self, tensors: Tensors, dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def names(self) -> Iterable[str]:
        return self._tensors.names()

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        return tensor.to(torch.promote_types(tensor.dtype, self._dtype))


def from_huggingface(source: str | Path | nn.Module, *, dtype: torch.dtype | None = None) -> HybridModel:
    """The model that a folder of config.json and safetensors holds, or that a model of transformers is, to evaluate.

    Its dtype is that of the weights unless ``dtype`` says otherwise. transformers is not needed for a folder.
    Raises InvalidInput for a family, an option or a tensor that cannot be expressed.
    """
    if isinstance(source, nn.Module):
        config: Any = source.config
        return _read(*_described(config.to_dict()), _InMemory(source), dtype)
    family, theirs = _described(read_config(Path(source)))
    with stored(Path(source)) as tensors:
        return _read(family, theirs, tensors, dtype)


def _described(config: Mapping[str, Any]) -> tuple[Family, TheirConfig]:
    family = family_of(str(config.get("model_type")))
    if config.get("quantization_config"):
        raise InvalidInput(f"{family.name}: the weights are quantised (quantization_config), which is not read")
    return family, family.config(config)


def _read(family: Family, theirs: TheirConfig, tensors: Tensors, dtype: torch.dtype | None) -> HybridModel:
    config = family.read(theirs)
    rules = list(family.tensors(theirs))
    if dtype is None:
        embedding = [rule for rule in rules if "embedding.weight" in rule.ours]
        ((_, tensor),) = to_ours(family.name, embedding, tensors, lambda name: True)
        dtype = tensor.dtype
    ours = to_ours(family.name, rules, _Widened(tensors, dtype), family.is_ignored)
    with unfilled():
        model = HybridModel(config).to(dtype)
    _fill(family, model, ours)
    return model.eval()


@torch.no_grad()
def _fill(family: Family, model: HybridModel, ours: Iterable[tuple[str, Tensor]]) -> None:
    """Copies every tensor to its place; the rules name all of them, once."""
    places = model.state_dict()
    for name, tensor in ours:
        place = places.pop(name)
        if place.shape != tensor.shape:
            shapes = f"{list(tensor.shape)} and not {list(place.shape)}"
            raise InvalidInput(f"{family.name}: the weights of {name} are {shapes}, as the configuration says")
        place.copy_(tensor)
    assert not places, f"{family.name}: no rules for {', '.join(places)}"


def to_huggingface(
    model: HybridModel,
    folder: str | Path,
    family: str | None = None,
    *,
    like: Mapping[str, Any] | str | Path | None = None,
    end_token: int | None = None,
) -> str:
    """Write a folder that the family's class in transformers loads, and return the family.

    Without ``family``, the first that can express the model. ``like`` is a configuration of theirs (or the folder that
    has one), such as the one the model came from: it is kept key by key, token ids and multipliers included, once it is
    found to describe this model; without it the end token, if given, is the one special token. Raises InvalidInput
    naming what cannot be expressed.
    """
    given = dict(like) if isinstance(like, Mapping) else {} if like is None else read_config(Path(like))
    chosen = family_of(family or given["model_type"]) if family or "model_type" in given else _first_family(model)
    tokens = {"bos_token_id": None, "eos_token_id": end_token, "pad_token_id": None}
    config = _like(chosen, model, given) if given else chosen.express(model.config) | tokens
    rules: list[Rule] = list(chosen.tensors(chosen.config(config)))
    tensors = to_theirs(rules, model.state_dict())
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    named = {"architectures": [chosen.architecture], "model_type": chosen.name, "dtype": dtype}
    write_folder(Path(folder), config | named, tensors)
    return chosen.name


def _like(family: Family, model: HybridModel, given: Mapping[str, Any]) -> dict[str, Any]:
    lost = difference(model.config, family.read(family.config(given)))
    if lost is not None:
        raise InvalidInput(f"{family.name}: the configuration to be like does not describe this model: it has {lost}")
    return {key: value for key, value in given.items() if key not in ("torch_dtype", "transformers_version")}


def _first_family(model: HybridModel) -> Family:
    reasons = []
    for family in all_families().values():
        try:
            family.express(model.config)
        except InvalidInput as refused:
            reasons.append(str(refused))
        else:
            return family
    raise InvalidInput(f"no Hugging Face family can express this model: {'; '.join(reasons)}")
