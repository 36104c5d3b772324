"""lm-eval's tasks by name: refused before a sweep starts if there is none, loaded once per process.

Loading is what costs: lm-eval's index of all its tasks takes 20 s to build, RULER's data half a minute the first
time. What was loaded serves every later trial of the process whose tokenizer is the same.
"""

import importlib.util
import random
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..architectures import InvalidInput, nearest
from ..experiments import generated_task_names, lm_task_manager, lm_task_names, stock_task_metadata
from .config import LmEvalConfig


def check_tasks(config: LmEvalConfig, *, where: str) -> None:
    """Refuse, without importing lm-eval, a name that nothing in its tasks or ours bears, and tasks that need lengths
    and have none. ``where`` is the config's key in the sweep file.

    Raises:
        InvalidInput: one line with the name and the nearest one.
    """
    generated, ours = generated_task_names(), lm_task_names()
    for name in config.tasks:
        if name in generated and not config.lengths:
            raise InvalidInput(
                f"{where}.lengths: empty, but {name!r} makes prompts of given lengths, in tokens; give one"
            )
        if name not in generated and name not in ours and not _mentioned(name):
            known = [*ours, *(path.stem for path in _stock_files())]
            raise InvalidInput(f"{where}.tasks: lm-eval has no task {name!r}; {nearest(name, known)}")


def loaded_tasks(config: LmEvalConfig, fingerprint: str, tokenizer: Path) -> list[Any]:
    """lm-eval's task objects with their data. ``tokenizer`` is a folder that transformers loads, ``fingerprint`` says
    which tokenizer it holds.

    Raises:
        InvalidInput: lm-eval does not know a name, or a package that makes a task's data is missing.
    """
    return _loaded(tuple(config.tasks), tuple(config.lengths), fingerprint, _Folder(tokenizer))


class _Folder:
    """A path that is no part of a cache's key: all folders with one tokenizer load the same tasks."""

    def __init__(self, path: Path):
        self.path = path

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Folder)


@lru_cache(maxsize=4)
def _loaded(names: tuple[str, ...], lengths: tuple[int, ...], fingerprint: str, tokenizer: _Folder) -> list[Any]:
    metadata: dict[str, Any] = {"tokenizer": str(tokenizer.path)}
    if set(names) & set(generated_task_names()):
        metadata = stock_task_metadata(tokenizer.path, lengths)
    random.seed(0)  # as lm-eval's command line does: tasks that draw their data draw the same
    np.random.seed(1234)  # noqa: NPY002
    try:
        return list(lm_task_manager(names, metadata).load(list(names))["tasks"].values())
    except KeyError as error:
        raise InvalidInput(f"evaluation.lm_eval.tasks: {error.args[0]}") from None


def _stock_files() -> list[Path]:
    spec = importlib.util.find_spec("lm_eval")
    roots = spec.submodule_search_locations if spec else None
    return [path for root in roots or [] for path in (Path(root) / "tasks").rglob("*.yaml")]


def _mentioned(name: str) -> bool:
    """Whether any of lm-eval's own task files is called ``name`` or says it: tasks, groups and tags all do."""
    files = _stock_files()
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])".encode())
    return any(path.stem == name for path in files) or any(word.search(path.read_bytes()) for path in files)
