"""A sweep's trials on Ray Tune.

Guarantees:

- Nothing is repeated: a trial whose folder holds its record is not run again; running a sweep again runs what is
  missing.
- A failed trial never ends the sweep: it is kept with its status and reason, and is tried again only when that is asked
  for.
- A worker that dies is replaced: its trial continues from its own checkpoint, ``RETRIES`` times, then counts as failed.
- An interrupted driver loses nothing: trials that have ended are recorded, and those under way continue from their
  checkpoints.
- One driver a sweep: a second one is refused while the first lives.
- What is done does not depend on MLflow: records that it does not take wait in their folders.

Workers are reused from trial to trial, since starting one takes seconds. The runs folder has to be one that every node
sees at the same path, and hybridlab has to be installed on every node.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict

from ..architectures import InvalidInput
from .cluster import cluster
from .config import ResourcesConfig, SweepConfig, TrialConfig
from .deliveries import Deliveries
from .folders import sweep_folder, sweep_lock
from .jobs import Job, Observer, is_due, plan, reopen
from .tracking import SELECT, Tracker
from .worker import Runner, work

RAY_LOG = "ray.log"
"""In the sweep's folder: what Ray's own processes tell the driver, such as why a worker died."""
RETRIES = 2
"""Times that a trial whose worker died is given to another worker."""


def run_sweep(
    sweep: SweepConfig,
    trials: Sequence[TrialConfig],
    observer: Observer,
    *,
    address: str | None = None,
    retry_failed: bool = False,
    runner: Runner | None = None,
) -> Deliveries:
    """Run what is due of a sweep and bring every record to MLflow; returns what became of the records.

    Args:
        address: of a running Ray; none starts one here for the time of the sweep.
        retry_failed: also run the trials that ended other than ``finished``.
        runner: in place of ``trial.run_trial``.

    Raises:
        InvalidInput: MLflow or Ray does not answer, another driver runs this sweep, or this machine cannot hold a
        trial. KeyboardInterrupt: the user's; everything that ended is recorded.
    """
    with sweep_lock(sweep.name):
        jobs = plan(sweep.name, trials)
        tags = {SELECT: json.dumps(sweep.select and asdict(sweep.select))}
        deliveries = Deliveries(Tracker(sweep.name, tags, [job.id for job in jobs]))
        try:
            for job in jobs:
                if not is_due(job, retry_failed):
                    deliveries.put(job.folder)  # what an earlier run could not deliver
            due = [job for job in jobs if is_due(job, retry_failed)]
            if due:
                with cluster(address):
                    _check_resources(sweep.resources, may_grow=address is not None)
                    try:
                        _run(sweep, due, observer, deliveries, runner)
                    finally:
                        deliveries.close()  # no thread of ours runs while Ray ends
        finally:
            deliveries.close()
        return deliveries


def _run(sweep: SweepConfig, due: list[Job], observer: Observer, deliveries: Deliveries, runner: Runner | None) -> None:
    from ray import tune

    from .watch import Watch

    for job in due:
        reopen(job)
    folder, resources = sweep_folder(sweep.name), sweep.resources
    scratch = folder / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed driver's; what counts is in the trials' own folders
    space = [{"folder": str(job.folder), "trial": job.trial.to_dict()} for job in due]
    tuner = tune.Tuner(
        tune.with_resources(
            functools.partial(work, runner=runner, threads=resources.threads),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        ),
        param_space={"job": tune.grid_search(space)},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=resources.max_concurrent),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Watch(due, observer, deliveries)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        with (folder / RAY_LOG).open("a") as log, contextlib.redirect_stdout(log):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_resources(resources: ResourcesConfig, *, may_grow: bool) -> None:
    """Refuse what this machine can never give; a cluster may still grow."""
    import ray

    have = ray.cluster_resources()
    for key, kind, asked in (("cpus", "CPU", resources.cpus), ("gpus", "GPU", resources.gpus)):
        if asked > have.get(kind, 0) and not may_grow:
            raise InvalidInput(f"resources.{key}: a trial asks for {asked:g}, this machine has {have.get(kind, 0):g}")
