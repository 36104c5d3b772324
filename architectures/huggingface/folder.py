"""A folder as transformers writes it: config.json and safetensors, in one file or in shards with an index."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InvalidInput

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json, or a file like it, with transformers' own spelling of infinity undone."""
    path = folder if folder.is_file() else folder / CONFIG_FILE
    if not path.is_file():
        raise InvalidInput(f"no Hugging Face model in {str(folder)!r}: it has no {CONFIG_FILE}")
    return json.loads(path.read_text(encoding="utf-8"), object_hook=_number)


def _number(plain: dict[str, Any]) -> Any:
    return float(plain["__float__"]) if set(plain) == {"__float__"} else plain


class Stored:
    """The tensors of a folder, each read from its file when it is asked for."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def names(self) -> Iterator[str]:
        """All names."""
        return iter(self._files)

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)


@contextmanager
def stored(folder: Path) -> Iterator[Stored]:
    """The tensors of a folder. InvalidInput if it has no safetensors; files of pickles are never opened."""
    with ExitStack() as stack:
        opened = {
            path: stack.enter_context(safetensors.safe_open(path, framework="pt")) for path in weight_files(folder)
        }
        yield Stored({name: file for file in opened.values() for name in file.keys()})  # noqa: SIM118


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that the index names."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not (folder / INDEX_FILE).is_file():
        pickles = sorted(folder.glob("*.bin"))
        instead = f"; {pickles[0].name} is a pickle, which is not read" if pickles else ""
        raise InvalidInput(f"no weights in {str(folder)!r}: it has no {WEIGHTS_FILE} and no {INDEX_FILE}{instead}")
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    shards = [folder / name for name in dict.fromkeys(index["weight_map"].values())]
    for shard in shards:
        if shard.parent != folder or not shard.is_file():
            raise InvalidInput(f"{str(folder / INDEX_FILE)!r} names {shard.name!r}, which is not there")
    return shards


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Weights, in shards where they are more than ``shard_bytes``, then config.json: with it the folder is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    shards = _shards(tensors, shard_bytes)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [WEIGHTS_FILE]
    for name, keys in zip(names, shards, strict=True):
        shard = {key: tensors[key].detach().cpu().contiguous() for key in keys}
        save_file(shard, folder / name, metadata={"format": "pt"})
    if len(shards) == 1:
        (folder / INDEX_FILE).unlink(missing_ok=True)
    else:
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        total = sum(tensor.nbytes for tensor in tensors.values())
        where = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / CONFIG_FILE).write_text(json.dumps(_written(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _written(plain: Any) -> Any:
    """Infinities as transformers writes them: JSON has none."""
    if isinstance(plain, Mapping):
        return {key: _written(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_written(value) for value in plain]
    if isinstance(plain, float) and plain in (float("inf"), float("-inf")):
        return {"__float__": "Infinity" if plain > 0 else "-Infinity"}
    return plain


def _shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """The names of the tensors of each file, in order."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.nbytes
    return shards
