"""The benchmark counts the bytes a row must move, and its rows say what was measured."""

import json
from pathlib import Path

from hybridlab.kernels import benchmarks
from hybridlab.kernels.benchmarks.cases import CASES, Case, bytes_moved

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


def test_the_kept_result_has_every_row() -> None:
    kept = json.loads(Path(benchmarks.__file__).with_name("h100.json").read_text())
    assert [(row["op"], row["shape"]) for row in kept["rows"]] == [(case.op, case.shape) for case in CASES]
    assert all(row.keys() >= COLUMNS for row in kept["rows"])
    assert max(max(row["error"].values()) for row in kept["rows"]) <= 5e-3
