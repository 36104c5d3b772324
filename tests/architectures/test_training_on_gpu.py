"""A training step of every layer where there is a GPU: by this project's kernels, held against fp64 on the CPU."""

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig, layer_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Of the gradient of all parameters, relative, in fp32 and under autocast."""
ROUTED = 0.15
"""The same under autocast where rounding sends some tokens to another expert."""


def model_of(name: str) -> HybridModel:
    torch.manual_seed(0)
    layers = {"swa": {"window": 16}, "moe": {"hidden": 64}}
    return HybridModel(ModelConfig(pattern=f"{name} attn mlp", d_model=128, vocab_size=200, layers=layers)).train()


def gradient(model: HybridModel, tokens_BT: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The loss, and the gradient of all parameters as one vector on the CPU."""
    loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
    loss.backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return loss.item(), torch.cat([g.double().flatten().cpu() for g in parts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", layer_names())
def test_a_training_step_has_the_gradient_of_fp64(name, dtype, record_property):
    tokens_BT = torch.randint(200, (2, 301), generator=torch.Generator().manual_seed(1))
    exact_loss, exact = gradient(model_of(name).double(), tokens_BT)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss, found = gradient(model_of(name).cuda(), tokens_BT.cuda())
    error = float((found - exact).norm() / exact.norm())
    record_property("error", error)
    bound = ROUTED if name == "moe" and dtype == torch.bfloat16 else TOLERANCE[dtype]
    assert loss == pytest.approx(exact_loss, rel=TOLERANCE[dtype] / 10)
    assert error <= bound, f"{error:.1e}"
