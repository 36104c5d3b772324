"""Compile what the rows need before anything is timed, and let peers tune themselves quickly.

Peers tune themselves on their first call: they compile tens of variants of each kernel, one after another, and time
them. Here the variants are only compiled, in parallel processes, into Triton's cache on disk; the tuning itself is
later undisturbed, in the measuring process, alone on the GPU.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from .row import Row

SHARDS = 6
"""Jobs among which the variants of one peer's kernels are shared."""
CROWDED = 3
"""Jobs that what found no memory is tried again with, at once."""
Job = tuple[Row, int | None]
"""This project's kernels for a row or, with a number, that shard of its peer's."""


def compile_all(rows: list[Row], *, peers: bool, report: Callable[[str], None]) -> None:
    """Compile every kernel of every row once; with `peers`, theirs too. What fails is reported and passed over."""
    # What a kernel is compiled for may hang on any size, so this project's see the very rows that will be measured.
    ours = dict.fromkeys(form for row in rows for form in (row, row.reduced()))
    jobs: list[Job] = [(row, None) for row in ours]
    # A peer's backward kernels may know the batch when they are compiled.
    theirs = {(type(row), row.kernels(), "" if row.forward_only else row.brief().shape): row.brief() for row in rows}
    if peers:
        jobs += [(row, shard) for shard in range(SHARDS) for row in theirs.values()]
    workers = max(1, (os.cpu_count() or 2) - 2)
    failed = _run_all(jobs, workers)
    crowded = [job for job, reason in failed if "memory" in reason or "ALLOC_FAILED" in reason]
    failed = [(job, reason) for job, reason in failed if job not in crowded]
    for _, reason in failed + _run_all(crowded, min(workers, CROWDED)):
        report(reason)


def _run_all(jobs: list[Job], workers: int) -> list[tuple[Job, str]]:
    """The jobs that failed, and why."""
    if not jobs:
        return []
    with multiprocessing.get_context("spawn").Pool(min(len(jobs), workers)) as pool:
        reasons = pool.map(_compile, jobs, chunksize=1)
    return [(job, reason) for job, reason in zip(jobs, reasons, strict=True) if reason is not None]


def _compile(job: Job) -> str | None:
    row, shard = job
    try:
        if shard is None:
            _call(row, row.ours)
        else:
            other = row.peer()
            if other is not None:
                with only_compiling(shard):
                    _call(row, other[1])
    except Exception as error:  # the row itself will say what failed; this is only the warm-up
        whose = "" if shard is None else " (peer)"
        return f"compiling {row.op} {row.shape}{whose}: {type(error).__name__}: {error}"[:300]
    finally:
        torch.cuda.empty_cache()  # the process stays, what it allocated need not
    return None


def _call(row: Row, call: Callable[..., torch.Tensor]) -> None:
    x = row.inputs("cuda")
    o = call(x)
    leaves = [t for t in x.values() if t.requires_grad]
    if leaves and not (row.forward_only or row.is_step):
        torch.autograd.grad(o, leaves, torch.ones_like(o), allow_unused=True)
    torch.cuda.synchronize()


@contextmanager
def only_compiling(shard: int) -> Iterator[None]:
    """Within it Triton's autotuner compiles every SHARDS-th variant, times none and remembers nothing."""
    from triton.compiler.errors import CompileTimeAssertionFailure
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.errors import OutOfResources, PTXASError

    run = Autotuner.run

    def forgetful(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        tuner.cache.clear()  # another shard may have run in this process
        tuner.cache_results = False
        return run(tuner, *args, **kwargs)

    def compile_only(tuner: Any, *args: Any, config: Any, **meta: Any) -> list[float]:
        if tuner.configs.index(config) % SHARDS != shard:
            return [2.0] * 3
        try:
            kernel = tuner.fn.run(*args, **{**meta, **config.all_kwargs(), "warmup": True})
            kernel._init_handles()  # raises where a block would need more than the GPU has
        except (OutOfResources, CompileTimeAssertionFailure, PTXASError):
            return [float("inf")] * 3
        return [1.0] * 3

    with patch.object(Autotuner, "run", forgetful), patch.object(Autotuner, "_bench", compile_only):
        yield


@contextmanager
def quick_tuning() -> Iterator[None]:
    """Within it Triton's autotuner times each variant for 10 and 40 ms instead of 25 and 100, and does so anew: what
    is best for the sequence that it was first called with, as short as that may be, is not for every other."""
    from triton.runtime.autotuner import Autotuner
    from triton.testing import do_bench

    run, met = Autotuner.run, set()

    def anew(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        if tuner not in met:
            met.add(tuner)
            tuner.cache.clear()
        return run(tuner, *args, **kwargs)

    quick = partial(do_bench, warmup=10, rep=40)
    with patch.object(Autotuner, "do_bench", quick), patch.object(Autotuner, "run", anew):
        yield
