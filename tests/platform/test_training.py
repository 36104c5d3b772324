"""A killed trial ends as if nothing had happened, and one that goes wrong says how."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig
from hybridlab.experiments import task_config
from hybridlab.platform.config import TrainingConfig
from hybridlab.platform.curve import read_curve
from hybridlab.platform.optimization import decays, learning_rate, optimizer_for
from hybridlab.platform.training import Diverged, Training

CLOCK = "train/tokens_per_second"
"""The only column that a clock fills."""


def built(trial):
    torch.manual_seed(trial.seed)
    return HybridModel(ModelConfig.from_dict(trial.model)), task_config(trial.task).build()


def trained(trial, folder: Path, report=lambda row: None):
    model, task = built(trial)
    training = Training(trial, model, task, folder, report)
    return model, training.run()


def rows(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != CLOCK} for row in read_curve(folder / "curve.jsonl")]


@pytest.mark.parametrize("killed_at", [3, 5, 12, 19])
def test_a_killed_trial_continues_to_the_identical_curve_and_weights(recall_trial, tmp_path, monkeypatch, killed_at):
    trial = recall_trial(pattern="mamba2 moe attn mlp", checkpoint_every=1e-9, evaluate_every=10)
    whole, _ = trained(trial, tmp_path / "whole")

    def dying_step(self, step=Training._step):
        if self.progress.step == killed_at:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", dying_step)
        with pytest.raises(KeyboardInterrupt):
            trained(trial, tmp_path / "killed")
    with (tmp_path / "killed" / "curve.jsonl").open("a") as curve:
        curve.write('{"step": 19, "train/lo')  # the line that the dying process was writing
    continued, _ = trained(trial, tmp_path / "killed")

    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == [5, 10, 15, 20]
    for (name, ours), theirs in zip(continued.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_rows_after_the_checkpoint_are_written_again_not_twice(recall_trial, tmp_path, monkeypatch):
    trial = recall_trial(checkpoint_every=1e-9)
    trained(trial, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("hybridlab.platform.training.save_training", lambda *_: None)
        trained(trial, tmp_path / "unsaved")
    trained(trial, tmp_path / "unsaved")
    assert rows(tmp_path / "unsaved") == rows(tmp_path / "whole")


def test_training_that_had_ended_is_not_repeated(recall_trial, tmp_path, monkeypatch):
    trial = recall_trial()
    _, first = trained(trial, tmp_path)
    monkeypatch.setattr(Training, "_step", lambda self: pytest.fail("trained again"))
    _, second = trained(trial, tmp_path)
    assert second == first


def test_rows_are_means_since_the_last_row_and_are_reported_as_written(recall_trial, tmp_path):
    reported: list[dict] = []
    trained(recall_trial(log_every=1), tmp_path / "each")
    trained(recall_trial(log_every=5), tmp_path / "fifth", reported.append)
    each = [row["train/loss"] for row in rows(tmp_path / "each")]
    for i, row in enumerate(rows(tmp_path / "fifth")):
        assert row["train/loss"] == pytest.approx(math.fsum(each[5 * i : 5 * i + 5]) / 5, rel=1e-12)
    assert reported == read_curve(tmp_path / "fifth" / "curve.jsonl")


def test_two_seeds_differ_and_one_seed_repeats(recall_trial, tmp_path):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        trained(recall_trial(seed=seed), tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_a_loss_that_is_not_finite_is_divergence(recall_trial, tmp_path):
    trial = recall_trial(learning_rate=1e30, gradient_clip=0.0, warmup=0.0)
    with pytest.raises(Diverged, match=r"training loss (is nan|is inf|[0-9.e+]+ at step \d+ is above 10 times)"):
        trained(trial, tmp_path)
    last = (tmp_path / "curve.jsonl").read_text().splitlines()[-1]
    assert "NaN" not in last
    assert json.loads(last)["step"] == 5


def test_training_stops_where_validation_accuracy_is_enough(recall_trial, tmp_path):
    _, progress = trained(recall_trial(steps=40, evaluate_every=10, stop_at=1e-9, learning_rate=1e-2), tmp_path)
    assert progress.stopped is not None
    assert progress.stopped.startswith("validation accuracy")
    assert progress.step < 40
    assert rows(tmp_path)[-1]["step"] == progress.step


def test_bf16_autocast_trains_fp32_weights(recall_trial, tmp_path):
    model, progress = trained(recall_trial(precision="bf16"), tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert math.isfinite(progress.metrics["validation/loss"])


def test_training_learns(recall_trial, tmp_path):
    _, progress = trained(recall_trial(steps=60, learning_rate=1e-2), tmp_path)
    losses = [row["train/loss"] for row in rows(tmp_path)]
    assert losses[-1] < losses[0] - 0.2
    assert progress.tokens_per_second
    assert progress.tokens_per_second > 0


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_the_learning_rate_rises_to_its_peak_and_ends_where_it_should(schedule: str):
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup=0.1, schedule=schedule, final_learning_rate=0.25)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.25)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
    if schedule == "wsd":
        assert rates[79] == 1.0
        assert rates[89] == pytest.approx(0.625)
    if schedule == "cosine":
        assert rates[54] == pytest.approx(0.25 + 0.75 / 2)


def test_weight_decay_spares_norms_biases_and_decay_rates():
    options = {"attn": {"n_heads": 2}, "mamba2": {"head_dim": 8}, "rwkv6": {"head_dim": 8}}
    model = HybridModel(ModelConfig(pattern="mamba mamba2 rwkv6 attn moe", d_model=16, vocab_size=32, layers=options))
    spared = {name for name, parameter in model.named_parameters() if not decays(name, parameter)}
    assert {"layers.0.A_log", "layers.0.D", "layers.0.dt_proj.bias", "layers.1.A_log", "layers.2.bonus"} <= spared
    assert {"final_norm.weight", "norms.0.weight", "layers.2.decay_up", "layers.2.mixes"} <= spared
    assert not any(name.endswith(("in_proj.weight", "in_proj", "mix_up", "embedding.weight")) for name in spared)
    groups = optimizer_for(model, TrainingConfig(weight_decay=0.5)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert len(groups[1]["params"]) == len(spared)


def test_the_capacity_that_experts_need_is_in_the_curve(recall_trial, tmp_path):
    trained(recall_trial(pattern="attn moe", steps=20), tmp_path / "moe")
    capacities = [row["train/expert_capacity"] for row in rows(tmp_path / "moe")]
    assert all(1 <= capacity <= 8 for capacity in capacities)
    trained(recall_trial(pattern="attn mlp", steps=20), tmp_path / "mlp")
    assert all("train/expert_capacity" not in row for row in rows(tmp_path / "mlp"))
