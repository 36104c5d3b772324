"""Rehearsals: what they hold is what real tensors hold."""

import pytest
import torch
import torch.nn.functional as F
from hybridlab.architectures import HybridModel, ModelConfig, bill, layer_names, rehearsal, rehearse
from hybridlab.kernels.backend import resolve_backend
from torch._subclasses.fake_tensor import FakeTensorMode

D, V, B, T = 64, 96, 2, 128


def config_of(pattern: str, **settings) -> ModelConfig:
    layers = {"moe": {"hidden": 32}, "attn": {"head_dim": 32}, "conv": {"d_conv": 4}}
    return ModelConfig(pattern=pattern, d_model=D, vocab_size=V, layers=layers, **settings)


def alone_in_a_model(name: str) -> str:
    return {"shared_block": "shared_block@a mlp"}.get(name, name)


def kept_by_autograd(config: ModelConfig) -> int:
    """Bytes that a real forward pass on the CPU leaves for the backward pass, but for parameters and the logits."""
    model = HybridModel(config).train()
    tokens = torch.zeros(B, T, dtype=torch.int64)
    own = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers(), tokens]}
    saved: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logits = model(tokens)[0]
    alive = sum(saved.values())
    del logits
    return alive


TOLERANCE = 0.05
"""Of the bytes kept. Attention's kernel on the CPU keeps what the GPU's does but for some numbers."""


@pytest.mark.parametrize("name", [name for name in layer_names() if name != "moe"])
def test_the_bytes_kept_for_the_backward_pass_are_what_autograd_saves(name, monkeypatch):
    """Both in the PyTorch forms and in fp32, as a CPU without a GPU runs them; without the loss, which keeps less."""
    pattern = alone_in_a_model(name)
    real = kept_by_autograd(config_of(pattern))
    monkeypatch.setattr(rehearsal, "as_on_gpu", lambda: FakeTensorMode(allow_non_fake_inputs=True))
    monkeypatch.setattr(HybridModel, "loss", lambda model, tokens, _: model(tokens)[0].sum())
    kept = rehearsal._watch(config_of(pattern), "training", B, T, "fp32").kept
    assert kept == pytest.approx(real, rel=TOLERANCE)


@pytest.mark.parametrize("name", layer_names())
@pytest.mark.parametrize("what", ["training", "prefill", "decode"])
def test_every_layer_can_be_rehearsed_on_any_machine(name, what):
    done = rehearsal._watch(config_of(alone_in_a_model(name)), what, B, T, "bf16")
    assert done.operations
    assert done.forward_peak > 0
    assert (done.backward_peak > 0) == (what == "training")


def test_a_deep_model_is_the_sum_of_its_sublayers():
    """Rehearsed by kinds of sublayers, and whole."""
    config = config_of("mamba2 mlp (mamba2 attn mlp)*2 mamba2@a mamba2@a mlp")
    rehearsed = rehearse(config, "training", batch_size=B, length=T)
    by_kind = rehearsed.whole
    assert set(rehearsed.parts) == {"mamba2", "attn", "mlp", "embedding and head"}
    assert sum(part.kept for part in rehearsed.parts.values()) == pytest.approx(by_kind.kept)
    whole = rehearsal._watch(config, "training", B, T, "bf16")
    assert by_kind.operations == whole.operations
    assert by_kind.kept == pytest.approx(whole.kept, rel=0.01)
    assert by_kind.forward_peak == pytest.approx(whole.forward_peak, rel=0.01)
    assert by_kind.backward_peak == pytest.approx(whole.backward_peak, rel=0.05)


def test_training_memory_adds_up_and_grows_with_the_tokens():
    costs = bill(config_of("(mamba2 mlp)*2 attn mlp"))
    small, large = costs.training_memory(1, T), costs.training_memory(4, T)
    assert small.parameters == small.gradients == 4 * costs.parameters
    assert small.optimizer == 8 * costs.parameters
    assert costs.training_memory(1, T, optimizer="sgd").optimizer == 0
    weights_cast = 2 * costs.parameters
    assert large.activations - weights_cast == pytest.approx(4 * (small.activations - weights_cast), rel=0.05)
    assert large.peak >= large.parameters + large.optimizer + large.activations + large.loss
    low, full = (costs.training_memory(4, T, precision=p).activations for p in ("bf16", "fp32"))
    assert low < full


def test_a_rehearsal_leaves_nothing_behind():
    rehearse(config_of("mamba2 attn"), "training", batch_size=1, length=8)
    assert resolve_backend("auto", torch.device("cpu"), operation="x", has_triton=True) == "torch"
    assert not torch.is_autocast_enabled("cuda")
    assert type(F.relu(torch.ones(2))) is torch.Tensor
