"""The benchmark counts the bytes a row must move, and its rows say what was measured."""

import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from hybridlab.kernels import benchmarks
from hybridlab.kernels.benchmarks import run
from hybridlab.kernels.benchmarks.cases import CASES, Case, bytes_moved
from hybridlab.kernels.benchmarks.kept import name_of
from hybridlab.kernels.benchmarks.row import Recorded, Row
from hybridlab.kernels.benchmarks.rows import ROWS
from hybridlab.platform.atomic import write_json

COLUMNS = {"op", "shape", "dtype", "forward_ms", "peer", "peer_forward_ms", "floor_share", "error"}


def test_linear_attention_moves_four_tensors_forward_and_seven_more_backward() -> None:
    case = Case("linear", B=2, T=10, H=3, K=16, V=16)
    tensor = 2 * 10 * 3 * 16 * 2
    assert bytes_moved(case, backward=False) == 4 * tensor
    assert bytes_moved(case, backward=True) == 11 * tensor


def test_shared_queries_and_keys_are_counted_once_a_group() -> None:
    alone, shared = Case("mamba2", 1, 8, 4, 16, 16), Case("mamba2", 1, 8, 4, 16, 16, groups=1)
    assert bytes_moved(alone, backward=False) - bytes_moved(shared, backward=False) == 2 * 2 * 8 * 3 * 16


def test_a_step_reads_and_writes_its_state() -> None:
    assert bytes_moved(Case("step", 2, 1, 3, 16, 8), backward=False) == 2 * 4 * 2 * 3 * 16 * 8


KEPT = json.loads(Path(benchmarks.__file__).with_name("h100.json").read_text())["rows"]


def test_the_kept_result_has_every_row_and_no_large_error() -> None:
    names = {row.name for row in ROWS}
    assert {name_of(row) for row in KEPT} == names
    assert len(KEPT) == len(names)
    assert all(row.keys() >= COLUMNS for row in KEPT)
    gated = {case.op for case in CASES}
    for row in KEPT:
        assert max(row["error"].values()) <= (5e-3 if row["op"] in gated else 1e-2), row


# What is slower than its peer, as README and others.md say.
SLOWER = {("long_conv", "forward_ms"), ("long_conv", "forward_backward_ms"), ("l2", "forward_backward_ms")}


def test_the_kept_result_is_slower_or_larger_than_its_peers_in_no_row_but_those_named() -> None:
    worse = {
        (row["op"], column)
        for row in KEPT
        for column in ("forward_ms", "forward_backward_ms", "peak_mib")
        if row[column] is not None and row[f"peer_{column}"] is not None
        if row[column] > 1.001 * row[f"peer_{column}"]
    }
    assert worse == SLOWER


@pytest.mark.parametrize(
    ("op", "least"),
    [("linear", 2.2), ("retention", 2.2), ("simple_gla", 2.4), ("gla", 2.5), ("rwkv6", 2.5), ("mamba2", 2.5)],
)
def test_gated_linear_attention_trains_that_much_faster_than_its_peer(op: str, least: float) -> None:
    row = next(row for row in KEPT if row["op"] == op and row["forward_backward_ms"] is not None)
    assert row["peer_forward_backward_ms"] >= least * row["forward_backward_ms"]
    assert row["peak_mib"] < row["peer_peak_mib"]


def test_every_row_has_a_name_of_its_own_and_can_be_sent_to_a_process() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert pickle.loads(pickle.dumps(ROWS)) == ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.op} {row.shape}")
def test_every_row_moves_bytes_and_more_of_them_backward(row: Row) -> None:
    assert row.bytes_moved(backward=False) > 0
    if not row.forward_only and not row.is_step:
        assert row.bytes_moved(backward=True) > row.bytes_moved(backward=False)


@dataclass(frozen=True)
class Doubling(Row):
    """y = 2 x, by ours with an error of a thousandth; the peer was measured elsewhere, at half the bandwidth."""

    op = "doubling"
    shape = "B3"

    def inputs(self, device: str, seed: int = 0) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(3, requires_grad=True), "fixed": torch.ones(3)}

    def ours(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2.002 * x["x"]

    def exact(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * x["x"]

    def bytes_moved(self, *, backward: bool) -> int:
        return 500 if backward else 100

    def recorded(self) -> Recorded:
        return Recorded("a peer", {"forward_ms": 4.0, "peak_mib": 7.0}, bandwidth=1e5)


def test_a_row_holds_errors_times_the_share_of_the_floor_and_the_peer_scaled_by_the_bandwidth(monkeypatch) -> None:
    for name in ("milliseconds", "host_milliseconds", "peak_mib"):
        monkeypatch.setattr(run, name, lambda call: (call(), 10.0)[1])
    monkeypatch.setattr(run, "poison", lambda device: None)
    row = run.measure(Doubling(), 2e5, peers=True)
    assert row["error"] == pytest.approx({"o": 1e-3, "dx": 1e-3}, rel=1e-2)
    assert row["floor_share"] == pytest.approx(500 / 2e5 / 10e-3)
    assert (row["peer_forward_ms"], row["peer_forward_backward_ms"], row["peer_peak_mib"]) == (2.0, None, 7.0)
    assert row.keys() >= COLUMNS
    assert "doubling" in run.line(row)
    assert run.measure(Doubling(), 2e5, peers=False)["peer"] == "not measured"


@pytest.fixture
def small_run(monkeypatch):
    """A machine with a GPU on which a row takes no time; the names of the rows measured."""
    shape = "B8 T4096 H16 K128 V128"  # of simple_gla's a row each with and without a backward pass
    rows = [row for row in ROWS if row.op in ("linear", "retention", "gla")]
    rows += [row for row in ROWS if (row.op, row.shape) == ("simple_gla", shape)]
    measured = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "compile_all", lambda *_, **__: None)
    monkeypatch.setattr(run, "copy_bandwidth", lambda device: 1e12)
    monkeypatch.setattr(run, "machine", lambda: {"gpu": "a GPU", "triton": "3"})
    monkeypatch.setattr(run, "line", lambda row: "")

    def measure(row, bandwidth, *, peers):
        measured.append(row.op)
        times = {"forward_ms": 1.0, "forward_backward_ms": None if row.forward_only else 2.0}
        return {"op": row.op, "shape": row.shape, **times, "peer": "a peer" if peers else "not measured"}

    monkeypatch.setattr(run, "measure", measure)
    return rows, measured


def test_a_run_that_was_cut_short_goes_on(small_run, tmp_path, monkeypatch):
    rows, measured = small_run
    path = tmp_path / "rows.json"
    go_on = partial(
        run.run_benchmarks, rows=rows, resume=path, save=partial(write_json, path), report=lambda line: None
    )
    go_on(ops=["gla"])
    go_on(ops=["linear"], peers=False)
    assert measured == ["gla", "linear"]
    result = go_on()
    # What was measured without peers, once more.
    assert measured == ["gla", "linear", "linear", "retention", "simple_gla", "simple_gla"]
    assert [row["op"] for row in result["rows"]] == [row.op for row in rows]
    assert json.loads(path.read_text()) == result
    go_on(resume=None)
    assert len(measured) == 6 + len(rows)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{}]}'])
def test_a_file_that_is_no_result_is_refused_and_kept(small_run, tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(benchmarks.NotResumable, match="is not a result of"):
        run.run_benchmarks(rows=small_run[0], resume=path, report=lambda line: None)
    assert path.read_text() == content


def test_another_machines_result_is_refused(small_run, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"gpu": "another GPU", "triton": "3", "rows": []}')
    with pytest.raises(benchmarks.NotResumable, match="gpu another GPU, here a GPU"):
        run.run_benchmarks(rows=small_run[0], resume=path, report=lambda line: None)
