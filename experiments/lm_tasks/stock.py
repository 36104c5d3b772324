"""Stock lm-eval tasks without a hub, and a task manager that starts at once.

Six of lm-eval's RULER tasks (Hsieh et al., "RULER: What's the real context size of your long-context language models?",
COLM 2024) draw their data themselves. They want a tokenizer to size it, which a local folder can be. Their first use in
a process lists six million two-word names: about 10 s and 1 GB. A context length that lm-eval's YAML does not list
is reported under its own number; those listed and not asked for come as -1.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...architectures import InvalidInput

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

_FOLDER = Path(__file__).parent

_GENERATED = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe", "ruler_fwe")
"""RULER's other tasks fetch essays or questions."""


def lm_task_folder() -> Path:
    """What lm-eval takes as `--include_path`."""
    return _FOLDER


def lm_task_names() -> list[str]:
    """The tasks in that folder."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def generated_task_names() -> list[str]:
    """The stock lm-eval tasks that need no hub. They want `stock_task_metadata`."""
    return list(_GENERATED)


def stock_task_metadata(tokenizer_folder: Path, lengths: Sequence[int]) -> dict[str, Any]:
    """What lm-eval's `metadata` must hold for those tasks to fill contexts of these lengths, in tokens.

    `tokenizer_folder` is what `Tokenizer.save_pretrained` wrote. The shortest context that holds a needle is about
    900 tokens of bytes. Raises `InvalidInput` if a package that generates the data is missing.
    """
    for package in ("wonderwords", "nltk"):
        if find_spec(package) is None:
            raise InvalidInput(f"lm-eval's RULER tasks need the package {package!r}: pip install 'hybridlab[ruler]'")
    if not (Path(tokenizer_folder) / "tokenizer.json").is_file():
        raise InvalidInput(f"tokenizer folder {str(tokenizer_folder)!r}: no tokenizer.json in it")
    if not lengths or min(lengths) < 1:
        raise InvalidInput(f"RULER lengths {list(lengths)!r} should be one or more numbers of tokens")
    return {"tokenizer": str(tokenizer_folder), "max_seq_lengths": list(lengths)}


def lm_task_manager(names: Sequence[str], metadata: dict[str, Any] | None = None) -> "TaskManager":
    """lm-eval's task manager for tasks of these names.

    Where all are known here it reads two folders (0.06 s) instead of lm-eval's ten thousand files (10 s and more).
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    ruler = Path(lm_eval.__file__).parent / "tasks" / "ruler"
    known = set(names) <= {*lm_task_names(), *_GENERATED} and ruler.is_dir()
    folders = [_FOLDER, ruler] if known else [_FOLDER]
    return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=not known, metadata=metadata)
