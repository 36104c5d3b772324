"""The guarantees of platform/schedule.py, on a real local Ray."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.platform import schedule
from hybridlab.platform.cluster import cluster
from hybridlab.platform.config import ResourcesConfig, SelectConfig, SweepConfig
from hybridlab.platform.folders import read_record, sweep_folder, sweep_lock
from hybridlab.platform.jobs import is_due, plan
from hybridlab.platform.records import load_records
from hybridlab.platform.schedule import run_sweep

from .samples import free_port, make_record, make_trial, place

SWEEP = SweepConfig(name="s", resources=ResourcesConfig(max_concurrent=1))


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self):
        self.told = []

    def started(self, job):
        self.told.append(("started", job.id))

    def reported(self, job, row):
        self.told.append(("reported", job.id))

    def retried(self, job):
        self.told.append(("retried", job.id))

    def ended(self, job, record):
        self.told.append(("ended", job.id))

    def count(self, what, trial_id):
        return self.told.count((what, trial_id))


def make_runner():
    """A runner by the trial's task: ``die`` as many times, ``raise``, or end as ``status``.

    It is defined inside a function so that it travels to the worker by value.
    """

    def runner(trial, folder, *, report, threads):
        import os

        from hybridlab.platform.folders import write_record
        from hybridlab.platform.jobs import failed_record

        folder.mkdir(parents=True, exist_ok=True)
        attempts = len(list(folder.glob("attempt*")))
        (folder / f"attempt{attempts}").write_text(json.dumps({"process": os.getpid(), "threads": threads}))
        report({"step": 1, "train/loss": 1.0})
        if attempts < trial.task.get("die", 0):
            os.kill(os.getpid(), 9)
        if "raise" in trial.task:
            raise ValueError(trial.task["raise"])
        status = trial.task.get("status", "finished") if attempts == 0 else "finished"
        write_record(folder, failed_record(trial, "because") | {"status": status, "metrics": {"test/loss": 1.5}})

    return runner


TRIALS = {
    "well": make_trial(seed=0),
    "also well": make_trial(seed=1),
    "its worker dies once": make_trial(task={"die": 1}),
    "its worker always dies": make_trial(task={"die": 99}),
    "raises": make_trial(task={"raise": "two\nlines"}),
    "diverges": make_trial(task={"status": "diverged"}),
    "well, last": make_trial(seed=2),
}


class Swept:
    """A sweep of TRIALS that has run."""

    def __init__(self):
        self.notes = Notes()
        self.deliveries = run_sweep(SWEEP, list(TRIALS.values()), self.notes, runner=make_runner())
        self.jobs = dict(zip(TRIALS, plan("s", list(TRIALS.values())), strict=True))

    def attempts(self, name):
        return [json.loads(path.read_text()) for path in sorted(self.jobs[name].folder.glob("attempt*"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDLAB_RUNS", str(tmp_path_factory.mktemp("runs")))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setattr(schedule, "RETRIES", 1)  # each costs the start of a worker
    yield Swept()
    patch.undo()


def test_a_failed_trial_never_ends_the_sweep(swept):
    ended = {name: job.record["status"] for name, job in swept.jobs.items()}
    assert ended == {
        "well": "finished",
        "also well": "finished",
        "its worker dies once": "finished",
        "its worker always dies": "failed",
        "raises": "failed",
        "diverges": "diverged",
        "well, last": "finished",
    }


def test_a_worker_that_dies_is_replaced_a_bounded_number_of_times(swept):
    assert len(swept.attempts("its worker dies once")) == 2
    assert len(swept.attempts("its worker always dies")) == 1 + schedule.RETRIES == 2
    assert swept.notes.count("retried", swept.jobs["its worker always dies"].id) == schedule.RETRIES
    reason = swept.jobs["its worker always dies"].record["reason"]
    assert reason.startswith("its worker died 2 times: Worker unexpectedly exits")
    assert "\n" not in reason


def test_a_trials_own_mistake_is_kept_and_not_repeated(swept):
    assert swept.jobs["raises"].record["reason"] == "ValueError: two lines"
    assert len(swept.attempts("raises")) == 1


def test_workers_are_reused(swept):
    first, second = swept.attempts("well"), swept.attempts("also well")
    assert first[0]["process"] == second[0]["process"] != os.getpid()
    assert first[0]["threads"] == 1


def test_the_observer_is_told_of_every_trial(swept):
    for job in swept.jobs.values():
        assert swept.notes.count("started", job.id) >= 1
        assert swept.notes.count("reported", job.id) >= 1
        assert swept.notes.count("ended", job.id) == 1


def test_every_record_is_in_mlflow_in_the_sweeps_order(swept):
    assert (swept.deliveries.delivered, swept.deliveries.waiting) == (len(TRIALS), [])
    assert [record["id"] for record in load_records("s")] == [job.id for job in swept.jobs.values()]


def test_only_records_and_what_ray_said_are_left(swept):
    folder = sweep_folder("s")
    assert {path.name for path in folder.iterdir()} == {job.id for job in swept.jobs.values()} | {"ray.log", ".lock"}
    assert "worker died" in (folder / "ray.log").read_text()


def test_running_again_repeats_nothing_and_needs_no_ray(swept, monkeypatch):
    def no_ray(address):
        raise AssertionError("started Ray")

    monkeypatch.setattr(schedule, "cluster", no_ray)
    notes = Notes()
    deliveries = run_sweep(SWEEP, list(TRIALS.values()), notes, runner=make_runner())
    assert notes.told == []
    assert deliveries.delivered == 0


def test_what_failed_is_tried_again_only_when_asked(swept):
    """Last of those that share the sweep, as it changes it."""
    for job in swept.jobs.values():
        (job.folder / "checkpoint").mkdir()
    chosen = [TRIALS[name] for name in ("well", "raises", "diverges")]
    notes = Notes()
    deliveries = run_sweep(SWEEP, chosen, notes, retry_failed=True, runner=make_runner())
    assert notes.count("started", swept.jobs["well"].id) == 0
    assert read_record(swept.jobs["diverges"].folder)["status"] == "finished"
    assert read_record(swept.jobs["raises"].folder)["status"] == "failed"
    assert not (swept.jobs["diverges"].folder / "checkpoint").exists(), "a diverged trial starts over"
    assert (swept.jobs["raises"].folder / "checkpoint").exists(), "others continue"
    assert deliveries.delivered == 2
    by_id = {record["id"]: record["status"] for record in load_records("s")}
    assert len(by_id) == len(TRIALS)
    assert by_id[swept.jobs["diverges"].id] == "finished"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_second_driver_is_refused_while_the_first_lives(runs):
    with sweep_lock("s"), pytest.raises(InvalidInput, match=rf"sweep 's' is already run by process {os.getpid()}"):
        run_sweep(SWEEP, [make_trial()], Notes())
    with sweep_lock("s"):
        pass


def test_nothing_starts_while_mlflow_is_down(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InvalidInput, match="does not answer"):
        run_sweep(SWEEP, [make_trial()], Notes())
    assert plan("s", [make_trial()])[0].record is None


def test_what_is_due_follows_from_the_records(runs):
    place("s", make_trial(seed=0))
    place("s", make_trial(seed=1), status="out_of_memory")
    finished, failed, new = plan("s", [make_trial(seed=seed) for seed in range(3)])
    assert [is_due(job) for job in (finished, failed, new)] == [False, False, True]
    assert [is_due(job, retry_failed=True) for job in (finished, failed, new)] == [False, True, True]


def test_a_record_without_its_end_is_no_record(runs):
    folder = place("s", make_trial())
    (folder / "record.json").rename(folder / ".record.json.123.tmp")
    assert plan("s", [make_trial()])[0].record is None


def test_resources_that_this_machine_lacks_are_refused(runs, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    schedule._check_resources(ResourcesConfig(cpus=2), may_grow=False)
    with pytest.raises(InvalidInput, match=r"resources\.gpus: a trial asks for 0.5, this machine has 0"):
        schedule._check_resources(ResourcesConfig(gpus=0.5), may_grow=False)
    schedule._check_resources(ResourcesConfig(gpus=0.5), may_grow=True)


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:port"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(InvalidInput, match=f"address '{address}' is not host:port or auto"), cluster(address):
        pass


def test_a_cluster_that_does_not_answer_is_one_line_within_seconds():
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match=r"no Ray answers at '127\.0\.0\.1:"), cluster(f"127.0.0.1:{free_port()}"):
        pass
    assert time.monotonic() - begun < 10


def test_a_local_ray_is_guarded_by_a_token_and_hears_only_this_machine():
    """In a process of its own: Ray reads both when it is imported."""
    code = """
import os
from hybridlab.platform.cluster import cluster
with cluster(cpus=1):
    import ray
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    print(ray.nodes()[0]["NodeManagerAddress"], ray.cluster_resources()["object_store_memory"] <= 128 * 2**20)
"""
    home = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["127.0.0.1", "True"]
    assert done.stderr == ""


LONG = """
name: long
models: {attention: {pattern: "attn mlp", d_model: 16, layers: {attn: {n_heads: 2}}}}
tasks: {recall: {kind: recall, n_pairs: 4, vocab_size: 64, sequence_length: 32}}
seeds: [0, 1]
training: {steps: 1500, batch_size: 8, log_every: 10, checkpoint_every: 0.2}
evaluation: {validation_batches: 1, test_batches: 1, efficiency: {lengths: []}}
resources: {max_concurrent: 1}
"""


def wait_for(condition, seconds=120):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)


def test_an_interrupted_driver_loses_nothing_and_goes_on_where_it_was(runs, tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text(LONG)
    command = [str(Path(sys.executable).with_name("hybridlab")), "sweep", str(path)]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in a shell's background ignore it
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    folder = sweep_folder("long")
    checkpoints = "*/checkpoint/training.safetensors"
    wait_for(lambda: driver.poll() is not None or (list(folder.glob(checkpoints)) and len(rows(folder)) > 10))
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted: what has ended is recorded; run it again to go on"
    assert "Traceback" not in said
    before = rows(folder)
    assert 0 < before[-1]["step"] < 1500

    again = subprocess.run([*command], capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    records = load_records("long")
    assert [record["status"] for record in records] == ["finished", "finished"]
    for record in records:
        steps = [row["step"] for row in rows(folder, record["id"])]
        assert steps == list(range(10, 1501, 10)), "each part of the curve is there once"
    begun = next(record["id"] for record in records if record["seed"] == 0)
    assert rows(folder, begun)[0] == before[0], "its speed, too, is the first driver's: it was not trained again"


def rows(folder, trial="*"):
    """The rows of the first curve of a sweep that has any."""
    lines = [line for path in sorted(folder.glob(f"{trial}/curve.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_the_rule_for_tuned_settings_reaches_mlflow(runs, monkeypatch):
    from hybridlab.platform.records import load_selection

    trial = make_trial()
    place("tuned", trial)
    rule = SelectConfig(over=["training.learning_rate"])
    run_sweep(SweepConfig(name="tuned", select=rule), [trial], Notes())
    assert load_selection("tuned") == rule
    assert load_records("tuned")[0]["reason"] is make_record(trial)["reason"]
