"""Weights and training state on disk: safetensors and JSON, never pickles, each file whole or absent.

model.safetensors, model.json    a finished model and its config; beside them its tokenizer, as transformers
                                 writes one
training.safetensors             what a killed trial continues from: weights, AdamW's moments, random states, and,
                                 as JSON in the file's own header, the progress: one file, so that one rename
                                 replaces all of it
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import load_model as read_weights
from safetensors.torch import save_model as write_weights
from torch import Tensor, nn

from ..architectures import HybridModel, InvalidInput, ModelConfig
from ..architectures.initialization import unfilled
from ..experiments import Tokenizer, load_tokenizer
from .atomic import replacing, write_json
from .folders import runs_folder

MODEL_FILE, CONFIG_FILE, TRAINING_FILE = "model.safetensors", "model.json", "training.safetensors"


def save_model(
    folder: Path, model: HybridModel, tokenizer: Tokenizer | None = None, sequence_length: int | None = None
) -> None:
    """Write weights (shared ones once), then tokenizer, then config: a folder with ``model.json`` is complete.
    ``sequence_length`` is what the model was trained at, in tokens."""
    with replacing(folder / MODEL_FILE) as temporary:
        write_weights(model, str(temporary))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    name = None if tokenizer is None else tokenizer.name
    written = {"model": model.config.to_dict(), "tokenizer": name, "sequence_length": sequence_length}
    write_json(folder / CONFIG_FILE, written)


def load_model(folder: Path, device: torch.device | str = "cpu") -> HybridModel:
    """The model that ``save_model`` wrote, in its dtype, in evaluation mode. Raises InvalidInput if the folder has
    none."""
    with unfilled():
        model = HybridModel(ModelConfig.from_dict(_written(folder)["model"]))
    with safetensors.safe_open(folder / MODEL_FILE, framework="pt") as opened:
        model.to(opened.get_tensor("embedding.weight").dtype)
    read_weights(model, folder / MODEL_FILE)
    return model.to(device).eval()


def load_model_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer saved with a model; none for models of tokens that are no text."""
    name = _written(folder)["tokenizer"]
    if name is None:
        return None
    return load_tokenizer(name if name == "bytes" else str(folder))


def trained_length(folder: Path) -> int | None:
    """Tokens per sequence that a saved model was trained at; none if nobody said."""
    return _written(folder)["sequence_length"]


def find_checkpoint(run: str) -> Path:
    """The folder of a finished model, by trial id, trial folder or the folder itself. Raises InvalidInput if there is
    none."""
    places = [Path(run), Path(run) / "checkpoint", *sorted(runs_folder().glob(f"*/{Path(run).name}/checkpoint"))]
    for place in places:
        if (place / CONFIG_FILE).is_file():
            return place
    under = str(runs_folder())
    raise InvalidInput(
        f"no run {run!r}: neither a finished model's folder nor the id of a finished trial under {under!r}"
    )


def save_training(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Replace the training state. ``progress`` is plain JSON; its floats come back exactly."""
    tensors = {f"model.{name}": tensor for name, tensor in _weights(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    with replacing(folder / TRAINING_FILE) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, temporary, metadata={"progress": json.dumps(progress)})


def load_training(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore model, optimizer and random states in place and return the progress; None if there is no training
    state."""
    path = folder / TRAINING_FILE
    if not path.is_file():
        return None
    with safetensors.safe_open(path, framework="pt") as opened:
        progress = json.loads(opened.metadata()["progress"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(tensors[f"model.{name}"])
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if moments:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return progress


def drop_training(folder: Path) -> None:
    """Forget the training state: the trial is done."""
    (folder / TRAINING_FILE).unlink(missing_ok=True)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, shared ones under one name."""
    parameters = dict(model.named_parameters())
    saved = model.state_dict().keys()
    return parameters | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _written(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InvalidInput(f"no finished model in {str(folder)!r}: it has no {CONFIG_FILE}")
    return json.loads(path.read_text(encoding="utf-8"))
