"""A model's scores on lm-eval tasks, by lm-eval's own evaluator, as flat metrics."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from ..architectures import HybridModel
from ..experiments import Tokenizer
from .checkpoint import trained_length
from .config import LmEvalConfig
from .lm_eval_model import HybridLabLM
from .lm_eval_tasks import loaded_tasks

BOOTSTRAPS = 100
"""Resamples for the standard errors that have no formula."""


def lm_eval_scores(model: HybridModel, tokenizer: Tokenizer, config: LmEvalConfig, folder: Path) -> dict[str, float]:
    """``lm_eval/<task>/<metric>`` for every task of ``config``. ``folder`` is the trial's: its checkpoint has the
    tokenizer, and what lm-eval has to say goes to its ``lm_eval.log``."""
    checkpoint = folder / "checkpoint"
    wrapped = HybridLabLM.of(
        model,
        tokenizer,
        batch_size=config.batch_size,
        max_length=config.max_length,
        rolling_length=config.rolling_length or trained_length(checkpoint),
    )
    with (folder / "lm_eval.log").open("w", encoding="utf-8") as log, _speaking_to(log):
        results = simple_evaluate(
            wrapped,
            tasks=loaded_tasks(config, tokenizer.fingerprint, checkpoint),
            task_manager=TaskManager(include_defaults=False),
            limit=config.limit,
            num_fewshot=config.num_fewshot,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=False,
        )
    assert results is not None  # only ranks above 0 get none
    return flatten_results(results.get("results", {}))


def flatten_results(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """lm-eval's ``{task: {"acc,none": x, ...}}`` as ``lm_eval/<task>/<metric>``; filters other than ``none`` are
    appended to the name. RULER marks the lengths that were not asked for by -1: those are left out, as is what is no
    number."""
    flat = {}
    for task, scores in results.items():
        for key, value in scores.items():
            metric, _, chosen = key.partition(",")
            unasked = metric.isdecimal() and value == -1
            if key == "sample_len" or unasked or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            name = metric if chosen in ("", "none") else f"{metric}_{chosen}"
            flat[f"lm_eval/{task}/{name}"] = float(value)
    return flat


@contextlib.contextmanager
def _speaking_to(log: TextIO) -> Iterator[None]:
    """Send lm-eval's progress bars and messages to a file for a while."""
    logger = logging.getLogger("lm_eval")
    handler = logging.StreamHandler(log)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
