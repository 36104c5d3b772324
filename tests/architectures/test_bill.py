"""The bill of whole models, from the config alone, against the model that is built."""

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig, bill, layer_config

LAYERS = {
    "attn": {"head_dim": 8},
    "swa": {"window": 4, "n_heads": 2},
    "mamba2": {"d_state": 4, "head_dim": 8},
    "mamba": {"d_state": 4},
    "moe": {"n_experts": 4, "hidden": 16},
    "rwkv6": {"mix_rank": 4, "decay_rank": 4},
}
PATTERNS = [
    "attn mlp",
    "(mamba2 mlp)*3 (attn moe)",
    "(attn|mamba2 mlp)*2",
    "(mamba2*2 attn@a)*2 mlp@b swa mlp@b",
    "linear retnet gla rwkv6 rwkv_channel mamba",
]
EVERY = pytest.mark.parametrize("pattern", PATTERNS)


def config_of(pattern: str, **settings) -> ModelConfig:
    return ModelConfig(pattern=pattern, d_model=32, vocab_size=50, layers=LAYERS, **settings)


@EVERY
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_parameters_are_those_of_the_model(pattern, tied):
    config = config_of(pattern, tie_embeddings=tied)
    with torch.device("meta"):
        model = HybridModel(config)
    assert bill(config).parameters == sum(p.numel() for p in model.parameters())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_bytes_are_those_that_decoding_holds(pattern, dtype):
    model = HybridModel(config_of(pattern)).eval().to(dtype)
    with torch.no_grad():
        _, state = model(torch.zeros(3, 9, dtype=torch.int64), model.init_state(3))
    assert model.state_nbytes(state) == 3 * model.bill().state_bytes(9, dtype)


def test_shared_weights_count_once_but_work_and_remember_at_every_place():
    shared, apart = bill(config_of("(mamba2 attn@a)*3")), bill(config_of("(mamba2 attn)*3"))
    attention = layer_config("attn", LAYERS["attn"]).num_parameters(32)
    assert apart.parameters - shared.parameters == 2 * attention
    assert apart.flops_per_token(64) == shared.flops_per_token(64)
    assert apart.state_bytes(64) == shared.state_bytes(64)


def test_active_parameters_leave_out_the_experts_a_token_is_not_sent_to():
    costs = bill(config_of("attn moe"))
    assert costs.parameters - costs.active_parameters == 2 * 3 * 32 * 16  # 2 of 4 experts, 3 matrices each


def test_flops_add_up_over_places_and_head():
    d, V, T = 32, 50, 100
    places = [layer_config(name, LAYERS.get(name)) for name in ("attn", "mamba2", "mlp")]
    total = 2 * V * d + sum(place.flops_per_token(d, T) for place in places)
    costs = bill(config_of("attn|mamba2 mlp"))
    assert costs.flops_per_token(T) == pytest.approx(total)
    assert costs.training_flops_per_token(T) == pytest.approx(3 * total)


def test_attention_grows_with_length_and_a_recurrence_does_not():
    attention, window, recurrence = (bill(config_of(pattern)) for pattern in ("attn", "swa", "mamba2"))
    assert attention.state_bytes(2001) - attention.state_bytes(2000) == 2 * 32 * 2  # keys and values, bfloat16
    assert attention.flops_per_token(2001) - attention.flops_per_token(2000) == pytest.approx(4 * 32 / 2)
    assert window.state_bytes(2000) == window.state_bytes(4)
    assert recurrence.state_bytes(2000) == recurrence.state_bytes(1)
    assert recurrence.flops_per_token(2000) == recurrence.flops_per_token(1)
