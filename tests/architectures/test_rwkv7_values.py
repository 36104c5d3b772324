"""RWKV-7's later layers blend their values with the first one's."""

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig, bill, layer_config
from hybridlab.architectures.context import Context
from torch import nn

D_MODEL = 32
PATTERN = "rwkv7{first_values=share} mlp (rwkv7{first_values=blend, value_rank=4} rwkv_channel{gate=false})*2"


def moved(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def model_of(pattern=PATTERN):
    torch.manual_seed(0)
    return moved(HybridModel(ModelConfig(pattern=pattern, d_model=D_MODEL, vocab_size=40)))


class Blended(nn.Module):
    """The values of Peng et al. 2025, equation 8, from their mixed input."""

    def __init__(self, layer, first):
        super().__init__()
        self.layer, self.first = layer, first

    def forward(self, mixed):
        own = mixed @ self.layer.v_proj.weight.T
        share = torch.sigmoid(self.layer.blend + (mixed @ self.layer.blend_down) @ self.layer.blend_up)
        return torch.lerp(own, self.first, share)


@torch.no_grad()
def test_values_are_blended_by_a_share_that_their_own_input_sets():
    torch.manual_seed(0)
    layer = moved(layer_config("rwkv7", {"first_values": "blend", "n_heads": 2}).build(D_MODEL))
    plain = layer_config("rwkv7", {"n_heads": 2}).build(D_MODEL).eval()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "blend" not in name})
    x, first = torch.randn(2, 9, D_MODEL), torch.randn(2, 9, D_MODEL)
    plain.v_proj = Blended(layer, first)
    blended = layer(x, None, Context(x, shared={"first_values": first}))[0]
    torch.testing.assert_close(blended, plain(x)[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_prefill_and_steps_are_the_whole():
    model, text = model_of(), torch.randint(0, 40, (2, 12))
    whole, state, pieces = model(text)[0], model.init_state(2), []
    for piece in text.split([5, 1, 1, 4, 1], dim=1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)


def test_the_bill_is_that_of_the_model_and_every_parameter_has_a_gradient():
    model = model_of()
    assert bill(model.config).parameters == sum(p.numel() for p in model.parameters())
    _, state = model(torch.randint(0, 40, (2, 7)), model.init_state(2))
    assert model.state_nbytes(state) == 2 * bill(model.config).state_bytes(7, torch.float32)
    model(torch.randint(0, 40, (2, 7)))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_blending_with_what_nobody_shares_is_refused():
    with pytest.raises(InvalidInput, match="rwkv7 in sublayer 0 reads 'first_values', which no earlier layer shares"):
        ModelConfig(pattern="rwkv7{first_values=blend}", d_model=32, vocab_size=8)
