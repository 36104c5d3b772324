"""MLflow's writer, against SQLite and against a real server on this machine."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import requests
from hybridlab.architectures import InvalidInput
from hybridlab.platform import store
from hybridlab.platform.deliveries import Deliveries
from hybridlab.platform.folders import read_record, runs_folder, write_record
from hybridlab.platform.records import load_records
from hybridlab.platform.store import StoreDown, connect
from hybridlab.platform.tracking import Tracker, all_runs

from .samples import free_port, make_record, make_trial, place


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Making MLflow's tables takes seconds: once is enough."""
    folder = tmp_path_factory.mktemp("store")
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDLAB_RUNS", str(folder))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect()
    patch.undo()
    return folder / "mlflow.db"


@pytest.fixture
def sqlite_store(empty_database, tmp_path, monkeypatch):
    """A runs folder with an empty default store."""
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs_folder().mkdir()
    shutil.copy(empty_database, runs_folder() / "mlflow.db")


def runs_of(sweep):
    client = connect()
    return all_runs(client, client.get_experiment_by_name(sweep).experiment_id)


def test_a_delivered_record_reads_back_as_it_was_written(sqlite_store):
    folder = place("s", make_trial(seed=2), test__loss=1.5, test__accuracy=0.25)
    assert Tracker("s").deliver(folder)
    (record,) = load_records("s")
    written = read_record(folder)
    assert record["metrics"].pop("train/loss") == 1.0, "the last value of a curve that has no final metric"
    assert record == written


def test_a_run_has_parameters_tags_curve_and_files(sqlite_store):
    folder = place("s", make_trial(), test__loss=1.5)
    Tracker("s").deliver(folder)
    (run,) = runs_of("s")
    client = connect()
    assert run.info.run_name == "hybrid"
    assert run.info.status == "FINISHED"
    assert run.data.params["training.learning_rate"] == "0.003"
    assert {"id": folder.name, "status": "finished", "task": "recall", "seed": "0"}.items() <= run.data.tags.items()
    assert run.data.tags["pattern"] == "attn mlp"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"record.json", "trial.json", "curve.jsonl", "checkpoint"}
    checkpoint = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoint")}
    assert checkpoint == {"checkpoint/model.safetensors"}, "what only a continuing trial needs is left out"


def test_delivering_again_makes_no_second_run(sqlite_store):
    folder = place("s", make_trial())
    tracker = Tracker("s")
    assert [tracker.deliver(folder), tracker.deliver(folder), Tracker("s").deliver(folder)] == [True, False, False]
    assert len(runs_of("s")) == 1


def test_what_a_crash_left_half_delivered_is_not_read_and_is_replaced(sqlite_store, monkeypatch):
    folder = place("s", make_trial(), test__loss=1.5)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "_log_points", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Tracker("s").deliver(folder)
    assert len(runs_of("s")) == 1
    assert load_records("s") == []
    assert Tracker("s").deliver(folder)
    assert len(runs_of("s")) == 1
    assert load_records("s")[0]["metrics"]["test/loss"] == 1.5


def test_a_record_that_changed_replaces_the_old_one(sqlite_store):
    trial = make_trial()
    folder = place("s", trial, status="failed")
    Tracker("s").deliver(folder)
    write_record(folder, make_record(trial, test__loss=2.0))
    assert Tracker("s").deliver(folder)
    (record,) = load_records("s")
    assert (record["status"], record["reason"], record["metrics"]["test/loss"]) == ("finished", None, 2.0)


def test_of_two_complete_runs_of_a_trial_the_later_is_read(sqlite_store, monkeypatch):
    trial = make_trial()
    folder = place("s", trial, status="failed")
    Tracker("s").deliver(folder)
    tracker = Tracker("s")
    write_record(folder, make_record(trial))
    monkeypatch.setattr(tracker.client, "delete_run", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tracker.deliver(folder)
    assert len(runs_of("s")) == 2
    assert [record["status"] for record in load_records("s")] == ["finished"]


def test_records_are_read_in_the_order_of_the_sweep(sqlite_store):
    folders = [place("s", make_trial(seed=seed)) for seed in range(4)]
    order = [folders[i].name for i in (2, 0, 3, 1)]
    tracker = Tracker("s", order=order)
    for folder in folders:
        tracker.deliver(folder)
    assert [record["id"] for record in load_records("s")] == order


def test_a_delivery_takes_less_than_half_a_second(sqlite_store):
    folders = [place("s", make_trial(seed=seed), test__loss=1.0) for seed in range(5)]
    rows = [{"step": step, "train/loss": 1.0, "train/learning_rate": 0.1, "train/norm": 1.0} for step in range(2000)]
    for folder in folders:
        (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tracker, took = Tracker("s"), []
    for folder in folders:
        begun = time.process_time()
        tracker.deliver(folder)
        took.append(time.process_time() - begun)
    assert statistics.median(took) < 0.5


def test_an_experiment_deleted_in_mlflow_is_named(sqlite_store):
    client = connect()
    client.delete_experiment(client.create_experiment("s"))
    with pytest.raises(InvalidInput, match="experiment 's' was deleted in MLflow"):
        Tracker("s")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "sqlite:////proc/nowhere/mlflow.db", "gopher://x"])
def test_a_store_that_is_down_is_one_line_within_seconds(uri, monkeypatch):
    uri = uri.format(port=free_port())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    begun = time.monotonic()
    with pytest.raises(StoreDown) as caught:
        connect()
    assert time.monotonic() - begun < 20
    assert "\n" not in str(caught.value)
    assert f"MLflow at {uri} does not answer: " in str(caught.value)


def test_a_password_in_the_address_is_not_shown():
    assert store.shown("https://me:secret@host:5000/x") == "https://host:5000/x"


def test_what_the_user_set_is_left_alone(monkeypatch, sqlite_store):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    connect()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


class Server:
    """An MLflow server process on a free port, over one database."""

    def __init__(self, folder):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.command = [*command, "--workers", "1", *options]

    def start(self):
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, start_new_session=True, stdout=nowhere, stderr=nowhere)
        begun = time.monotonic()
        while time.monotonic() - begun < 120:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            time.sleep(0.2)
        raise TimeoutError("the server did not start")

    def stop(self):
        """As a crash would: the server and its worker at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(empty_database, tmp_path, monkeypatch):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    served = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    served.start()
    yield served
    served.stop()


def test_records_wait_while_the_server_is_down_and_are_delivered_when_it_is_back(server):
    first, second = place("s", make_trial(seed=0), test__loss=1.0), place("s", make_trial(seed=1), test__loss=2.0)
    tracker = Tracker("s", order=[first.name, second.name])
    deliveries = Deliveries(tracker)
    deliveries.put(first)
    deliveries.close()
    assert (deliveries.delivered, deliveries.waiting) == (1, [])
    assert connect().get_experiment_by_name("s").artifact_location.startswith("mlflow-artifacts:")

    server.stop()
    deliveries = Deliveries(tracker)
    deliveries.put(second)
    deliveries.close()
    assert (deliveries.delivered, deliveries.waiting) == (0, [second])
    assert deliveries.reason

    server.start()
    assert [record["metrics"]["test/loss"] for record in load_records("s")] == [1.0]
    assert [Tracker("s").deliver(folder) for folder in (first, second)] == [False, True]
    assert sorted(record["metrics"]["test/loss"] for record in load_records("s")) == [1.0, 2.0]
