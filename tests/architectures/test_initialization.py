"""Layers built without initial values are whole once their weights are read."""

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig, layer_config, layer_names
from hybridlab.architectures.initialization import unfilled

D_MODEL = 64
ALONE = [name for name in layer_names() if not layer_config(name).reads]


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that nobody has written holds NaN."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_a_layer_without_initial_values_is_what_is_read_into_it(name, poisoned):
    torch.manual_seed(0)
    config = ModelConfig(pattern=name, d_model=D_MODEL, vocab_size=30, layers={"hyena": {"max_length": 16}})
    model = HybridModel(config).eval()
    with unfilled():
        other = HybridModel(config).eval()
    assert other.embedding.weight.isnan().all()
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(other(tokens)[0], model(tokens)[0], rtol=0, atol=0)


def test_outside_of_it_values_are_drawn_again():
    with unfilled():
        pass
    assert torch.empty(100).normal_().std() > 0.5
