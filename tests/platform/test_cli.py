"""The command line: what it prints where, and that every mistake is one line and exit code 2."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hybridlab.platform import cli, schedule
from hybridlab.platform.cli import app
from hybridlab.platform.folders import runs_folder, sweep_lock
from hybridlab.platform.tracking import Tracker
from typer.testing import CliRunner

from .samples import free_port, make_trial, place

HYBRIDLAB = str(Path(sys.executable).with_name("hybridlab"))
SWEEP = """
models: {attention: {pattern: "attn mlp", d_model: 16, layers: {attn: {n_heads: 2}}}}
tasks: {recall: {kind: recall, n_pairs: 4, vocab_size: 64, sequence_length: 32}}
training: {steps: 10, batch_size: 4}
"""


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(SWEEP)
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments):
    """The one line that a command ends with; nothing else is printed, and the exit code is 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A runs folder with a recorded sweep of two trials."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDLAB_RUNS", str(folder))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = [place("done", make_trial(), test__loss=1.5, efficiency__state_bytes__128=100.0)]
    places.append(place("done", make_trial(seed=1), status="diverged"))
    tracker = Tracker("done", order=[path.name for path in places])
    for path in places:
        tracker.deliver(path)
    patch.undo()
    return str(folder)


def test_help_comes_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([HYBRIDLAB, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(name in done.stdout for name in ("show", "sweep", "results", "sync", "dashboard", "doctor"))
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.8, "seconds of processor time; torch alone would take more"


def test_no_heavy_library_is_imported_before_a_command_needs_it():
    code = "import sys, hybridlab.platform.cli; print({'torch', 'ray', 'mlflow', 'plotly'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_show_prints_one_object_per_model():
    (model,) = json.loads(run("show", "(mamba2 mlp)*7 (attn moe)", "d_model=64", "--json").stdout)
    assert model["layers"] == 16
    assert list(model["state_bytes"]) == ["1024", "16384", "131072"]


def test_show_of_a_sweep_ends_with_what_it_takes(sweep_file):
    assert run("show", sweep_file).stdout.splitlines()[-1].startswith("1 trial to run, each on 1 CPU; ")


def test_a_dry_run_says_what_is_missing_and_writes_nothing(sweep_file):
    result = run("sweep", sweep_file, "seeds=[0,1]", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "2 of 2 trials to run" in result.stdout
    assert not runs_folder().exists()


def test_results_are_one_record_per_trial(recorded, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", recorded)
    records = json.loads(run("results", "done", "--json").stdout)
    assert [record["status"] for record in records] == ["finished", "diverged"]
    assert {"id", "name", "pattern", "task", "seed", "status", "parameters", "metrics"} <= set(records[0])
    assert records[0]["metrics"]["test/loss"] == 1.5


def test_results_show_a_table_and_draw_the_frontier(recorded, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDLAB_RUNS", recorded)
    result = run("results", "done", "--frontier", str(tmp_path / "f.svg"))
    assert result.exit_code == 0, result.output
    assert "2 trials: 1 diverged, 1 finished" in result.stdout
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")


def test_sync_delivers_what_waits_once(monkeypatch):
    place("waits", make_trial())
    assert run("sync").stderr.strip() == "waits: 1 delivered, 0 there already"
    assert run("sync").stderr.strip() == "waits: 0 delivered, 1 there already"
    with sweep_lock("waits"):
        assert "is already run by process" in run("sync").stderr


def test_a_sweep_ends_with_its_table_and_the_picture_of_its_frontier(sweep_file, monkeypatch):
    def finish(sweep, trials, observer, **options):
        place(sweep.name, trials[0], test__accuracy=0.5)
        return type("Delivered", (), {"waiting": []})

    monkeypatch.setattr(schedule, "run_sweep", finish)
    result = run("sweep", sweep_file)
    assert result.exit_code == 0
    assert "0.500" in result.stdout
    picture = next(line for line in result.stderr.splitlines() if line.startswith("frontier: "))
    assert Path(picture.removeprefix("frontier: ")).read_bytes().startswith(b"\x89PNG")


def test_a_sweep_whose_trials_failed_ends_with_1(sweep_file, monkeypatch):
    def fail(sweep, trials, observer, **options):
        for trial in trials:
            place(sweep.name, trial, status="failed")
        return type("Nothing", (), {"waiting": [], "reason": ""})

    monkeypatch.setattr(schedule, "run_sweep", fail)
    result = run("sweep", sweep_file)
    assert result.exit_code == 1
    assert "1 trial: 1 failed" in result.stdout
    assert "attention on recall, seed 0" in result.stdout


def test_records_that_mlflow_did_not_take_are_one_line(sweep_file, monkeypatch):
    def wait(sweep, trials, observer, **options):
        return type("Waiting", (), {"waiting": [place(sweep.name, trials[0])], "reason": "Connection refused"})

    monkeypatch.setattr(schedule, "run_sweep", wait)
    result = run("sweep", sweep_file)
    assert result.exit_code == 0
    line = result.stderr.splitlines()[-1]
    assert "did not take 1 record (Connection refused)" in line
    assert line.endswith("the next run or `hybridlab sync` delivers")


@pytest.mark.parametrize(
    "override, line",
    [
        ("models.attention.pattern=(atn mlp)", "unknown layer 'atn'; did you mean 'attn'"),
        ("models.attention.layers.attn.n_heads=3", "n_heads=3 does not cut the width 16"),
        ("match={by: parameters, value: 1000000000000000}", "parameters"),
        ("trainning.steps=3", "unknown key 'trainning'; did you mean 'training'"),
        ("training.steps=many", "training.steps"),
        ("tasks.text={kind: language_modelling, corpus: /nowhere/*.txt}", "/nowhere"),
        ("name=../escape", "name: '../escape' is not possible"),
        ("resources.cpus=0", "resources.cpus"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_and_nothing_is_written(sweep_file, override, line):
    assert line in refused("sweep", sweep_file, override)
    assert not runs_folder().exists()


def test_a_missing_file_and_an_unknown_sweep_are_one_line():
    assert "sweep 'quickstrt' is unknown: did you mean 'quickstart'?" in refused("sweep", "quickstrt")
    assert "no sweep 'nothing' in MLflow" in refused("results", "nothing")


def test_a_tracking_server_that_is_down_is_one_line_before_anything_starts(sweep_file, monkeypatch):
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = run("sweep", sweep_file)
    assert result.exit_code == 2
    assert f"MLflow at {uri} does not answer: " in result.stderr.splitlines()[-1]
    assert f"MLflow at {uri} does not answer" in refused("results", "quickstart")
    assert list(runs_folder().glob("*/*/record.json")) == []


def test_a_picture_of_another_kind_is_refused_before_reading():
    assert "'f.jpg': a picture ends in one of" in refused("results", "done", "--frontier", "f.jpg")


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [HYBRIDLAB, "dashboard", "--port", str(port)], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"port {port}" in line


@pytest.mark.parametrize(
    "error, code, line",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x"), 2, "hybridlab: disk full at /runs/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), 2, "Permission denied: '/runs'"),
        (KeyboardInterrupt(), 130, "interrupted: what has ended is recorded; run it again to go on"),
        (RuntimeError("a\nb"), 2, "hybridlab: RuntimeError: a b (a mistake of ours: HYBRIDLAB_DEBUG=1 shows where)"),
    ],
)
def test_whatever_happens_is_one_line(sweep_file, monkeypatch, error, code, line):
    def happen(*arguments, **options):
        raise error

    monkeypatch.setattr(cli, "_run_sweep", happen)
    result = run("sweep", sweep_file)
    assert result.exit_code == code
    (said,) = result.stderr.splitlines()
    assert line in said


def test_a_bare_command_and_an_unknown_option_explain_themselves():
    assert "Usage" in run().output
    assert run("sweep", "quickstart", "--adress", "x").exit_code == 2


def test_the_kernel_benchmark_names_what_it_has_and_what_it_needs(monkeypatch):
    assert "--op 'rwkv66': did you mean 'rwkv6'?" in refused("bench", "kernels", "--op", "rwkv66")
    assert "--resume goes on with a file" in refused("bench", "kernels", "--resume")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "needs a CUDA GPU" in refused("bench", "kernels")
