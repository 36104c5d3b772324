"""Before anything is timed every kernel of ours and every variant of a peer's is compiled once, and none is timed."""

from types import SimpleNamespace

import pytest
import triton
from hybridlab.kernels.benchmarks import tuning
from hybridlab.kernels.benchmarks.rows import ROWS
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources


def test_each_row_is_compiled_briefly_and_a_peers_variants_in_shards(monkeypatch):
    made = []
    monkeypatch.setattr(tuning, "_run_all", lambda jobs, workers: made.append(jobs) or [])
    tuning.compile_all(list(ROWS), peers=True, report=print)
    ours = [row for row, shard in made[0] if shard is None]
    theirs = [(row, shard) for row, shard in made[0] if shard is not None]
    assert {row.op for row in ours} == {row.op for row, _ in theirs} == {row.op for row in ROWS}
    assert len(set(theirs)) == len(theirs) == tuning.SHARDS * len({row for row, _ in theirs})
    assert max(row.bytes_moved(backward=False) for row, _ in theirs if not row.is_step) < 2**30
    made.clear()
    tuning.compile_all(list(ROWS), peers=False, report=print)
    assert made[0] == [(row, None) for row in ours]


def test_what_found_no_memory_is_tried_again_with_fewer_at_once(monkeypatch):
    runs, reported = [], []

    def run_all(jobs, workers):
        runs.append((jobs, workers))
        return [(jobs[0], "CUDA out of memory"), (jobs[1], "no such kernel")] if len(runs) == 1 else []

    monkeypatch.setattr(tuning, "_run_all", run_all)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    tuning.compile_all(list(ROWS[:3]), peers=False, report=reported.append)
    assert runs[1] == ([runs[0][0][0]], tuning.CROWDED)
    assert runs[0][1] == 14
    assert reported == ["no such kernel"]


class Kernel:
    """Stands in for a kernel: notes what is compiled and what is launched; one variant is too large for a GPU."""

    arg_names = ("x",)

    def __init__(self):
        self.compiled, self.launched = [], []

    def run(self, *args, size, warmup=False, **options):
        (self.compiled if warmup else self.launched).append(size)
        return SimpleNamespace(_init_handles=lambda: self.load(size))

    def load(self, size):
        if size == 64:
            raise OutOfResources(1, 1, "shared memory")


@pytest.fixture
def tuner():
    kernel = Kernel()
    configs = [triton.Config({"size": 2**i}) for i in range(14)]

    def timed(call, quantiles):
        raise AssertionError("a variant was timed")

    made = Autotuner.__new__(Autotuner)
    vars(made).update(
        fn=kernel, configs=configs, keys=[], arg_names=["x"], cache={}, cache_results=True, _do_bench=timed,
        pre_hook=lambda *_, **__: None, post_hook=lambda *_, **__: None, base_fn=kernel.run, perf_model=None,
        early_config_prune=None,
    )  # fmt: skip
    return made


def test_the_shards_compile_every_variant_once_and_time_none(tuner):
    kernel = tuner.fn
    for shard in range(tuning.SHARDS):
        with tuning.only_compiling(shard):
            tuner.run(1)
    assert sorted(kernel.compiled) == [2**i for i in range(14)]
    assert 64 not in kernel.launched
    assert len(kernel.launched) == tuning.SHARDS
    tuner.cache.clear()
    with pytest.raises(AssertionError, match="was timed"):
        tuner.run(1)


def test_quick_tuning_leaves_a_peer_its_own_way_of_timing_afterwards(tuner, monkeypatch):
    spent = []
    monkeypatch.setattr("triton.testing.do_bench", lambda call, **options: spent.append(options))
    before = vars(Autotuner)["do_bench"]
    with tuning.quick_tuning():
        tuner.do_bench(lambda: None, quantiles=(0.5,))
    assert spent == [{"warmup": 10, "rep": 40, "quantiles": (0.5,)}]
    assert vars(Autotuner)["do_bench"] is before


def test_each_row_tunes_its_peers_kernels_anew_and_once(tuner, monkeypatch):
    timed = []
    monkeypatch.setattr(Autotuner, "_bench", lambda tuner, *args, config, **meta: [timed.append(config) or 1.0] * 3)
    for row in (1, 2):
        with tuning.quick_tuning():
            tuner.run(1)
            tuner.run(1)
        assert len(timed) == row * len(tuner.configs)
