"""The sweep that a newcomer runs first is what README says it is."""

import pytest
import torch
from hybridlab.architectures import HybridModel, bill, parse_pattern
from hybridlab.experiments import sweep_path
from hybridlab.platform.loading import load_sweep
from hybridlab.platform.sweep import expand, matched_models

SWEEP = load_sweep(sweep_path("quickstart"))
MODELS = {model.name: model for model in matched_models(SWEEP)}


def layers_of(name: str) -> set[str]:
    return {use.name for use in parse_pattern(MODELS[name].config.pattern).uses}


def test_every_model_meets_the_budget_within_two_percent():
    assert SWEEP.match
    assert SWEEP.match.value
    for model in MODELS.values():
        assert model.mismatch is not None
        assert abs(model.mismatch) <= 0.02
        assert bill(model.config).parameters == pytest.approx(SWEEP.match.value, rel=0.02)


def test_the_pure_models_and_three_different_hybrids_are_on_every_task():
    pure = {frozenset(layers_of(name) - {"mlp"}) for name in MODELS}
    assert {frozenset({mixer}) for mixer in ("attn", "mamba", "mamba2", "linear", "retnet", "rwkv6")} <= pure
    hybrids = [name for name in MODELS if {"attn", "mamba2"} <= layers_of(name)]
    assert len(hybrids) == 3
    assert sum("moe" in layers_of(name) for name in hybrids) == 1
    assert len(expand(SWEEP)) == len(MODELS) * len({"text", "recall", "copying"})


@pytest.mark.parametrize("name", MODELS)
def test_parallel_logits_equal_token_by_token_logits(name):
    torch.manual_seed(0)
    model = HybridModel(MODELS[name].config).eval()
    tokens_BT = torch.randint(model.config.vocab_size, (2, 70))
    with torch.no_grad():
        whole, _ = model(tokens_BT)
        state = model.init_state(2)
        steps = []
        for t in range(tokens_BT.shape[1]):
            logits, state = model(tokens_BT[:, t : t + 1], state)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-5 * whole.abs().max().item())
