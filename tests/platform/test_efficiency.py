"""Speeds are of what they are named after, and bytes are those of real tensors."""

import itertools

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig, bill
from hybridlab.platform import efficiency
from hybridlab.platform.config import EfficiencyConfig

LAYERS = {"attn": {"n_heads": 2}, "mamba2": {"head_dim": 8, "d_state": 8}}


def small() -> HybridModel:
    return HybridModel(ModelConfig(pattern="mamba2 attn mlp", d_model=16, vocab_size=32, layers=LAYERS))


def test_state_bytes_are_those_the_bill_computes():
    model = small()
    metrics = efficiency.measure(model, EfficiencyConfig(lengths=[16, 64], batch_size=2, seconds=0.001))
    for length in (16, 64):
        assert metrics[f"efficiency/state_bytes/{length}"] == bill(model.config).state_bytes(length, torch.float32)


def test_tokens_are_counted_over_the_batch_and_time_is_the_median(monkeypatch: pytest.MonkeyPatch):
    ticks = itertools.count()
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: float(next(ticks)))  # each timed run takes one second
    config = EfficiencyConfig(lengths=[16], batch_size=2, decode_tokens=4, seconds=1.0)
    metrics = efficiency.measure(small(), config)
    assert metrics["efficiency/prefill_tokens_per_second/16"] == 32
    assert metrics["efficiency/decode_tokens_per_second/16"] == 8


def test_every_repetition_decodes_from_a_prompt_of_the_length_asked_for(monkeypatch: pytest.MonkeyPatch):
    model, calls = small(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda tokens, state=None, **kw: calls.append(tokens.shape[1]) or forward(tokens, state, **kw)
    )
    efficiency.measure(model, EfficiencyConfig(lengths=[16], decode_tokens=4, seconds=1e-9))
    runs = efficiency.LEAST_REPETITIONS + 1
    assert calls == [16] + [16] * runs + [16, 1, 1, 1, 1] * runs


def test_no_lengths_measure_nothing():
    assert efficiency.measure(small(), EfficiencyConfig(lengths=[])) == {}
