"""``hybridlab import`` and ``hybridlab export``: models of transformers as checkpoints here, and checkpoints as theirs.

An imported checkpoint keeps their config.json beside it, so that it is exported with every key it came with.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..experiments import Tokenizer

SOURCE_FILE = "huggingface.json"
"""Their config.json, in the checkpoint of an imported model."""
GENERATION_FILE = "generation_config.json"
"""How they generate by default; kept as it is."""


def import_folder(source: Path, checkpoint: Path, dtype: str | None = None) -> str:
    """Write the checkpoint, tokenizer included, of a folder with config.json and safetensors; a line that says what it
    is. ``dtype`` is one of torch's; None keeps the weights' own. Raises InvalidInput for what cannot be expressed."""
    import torch

    from ..architectures import InvalidInput
    from ..architectures.huggingface import from_huggingface
    from ..architectures.huggingface.folder import CONFIG_FILE
    from .checkpoint import save_model

    wanted = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise InvalidInput(f"--dtype {dtype!r}: one of: bfloat16, float16, float32, float64")
    model = from_huggingface(source, dtype=wanted)
    checkpoint.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / CONFIG_FILE, checkpoint / SOURCE_FILE)
    _copy_generation(source, checkpoint)
    save_model(checkpoint, model, _tokenizer_in(source))
    return f"{model.config.pattern}: {model.bill().parameters:,} parameters, in {checkpoint}"


def export_checkpoint(checkpoint: Path, folder: Path, family: str | None = None, like: Path | None = None) -> str:
    """Write a folder that transformers loads, tokenizer included; a line that says what it is.

    Without ``family`` and ``like``, an imported model goes back as what it came as, and another becomes the first
    family that can express it. Raises InvalidInput naming what cannot be expressed.
    """
    from ..architectures.huggingface import all_families, to_huggingface
    from .checkpoint import find_checkpoint, load_model, load_model_tokenizer

    checkpoint = find_checkpoint(str(checkpoint))
    model, tokenizer = load_model(checkpoint), load_model_tokenizer(checkpoint)
    if family is None and like is None and (checkpoint / SOURCE_FILE).is_file():
        like = checkpoint / SOURCE_FILE
    end = None if tokenizer is None else tokenizer.eos_id
    written = to_huggingface(model, folder, family, like=like, end_token=end)
    _copy_generation(checkpoint, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return f"{all_families()[written].architecture} in {folder}"


def _tokenizer_in(folder: Path) -> "Tokenizer | None":
    """The folder's tokenizer; none where it has no files of one."""
    from ..experiments import load_tokenizer

    return load_tokenizer(str(folder)) if any(folder.glob("tokenizer*")) else None


def _copy_generation(source: Path, target: Path) -> None:
    if (source / GENERATION_FILE).is_file():
        shutil.copyfile(source / GENERATION_FILE, target / GENERATION_FILE)


def import_command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="config.json, *.safetensors and a tokenizer.")],
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Where the checkpoint goes.")],
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float32, …; the weights' own unless given.")] = None,
) -> None:
    """Make a checkpoint of a model in Hugging Face's format."""
    print(import_folder(source, checkpoint, dtype))


def export_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, or a trial's id.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where config.json and the weights go.")],
    family: Annotated[
        str | None, typer.Option(help="mamba2, jamba, bamba, …; the first that can express it unless given.")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="A folder whose config.json is kept key by key.")] = None,
) -> None:
    """Write a checkpoint in Hugging Face's format, for transformers and what is built on it."""
    print(export_checkpoint(checkpoint, folder, family, like))
