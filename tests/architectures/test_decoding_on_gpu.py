"""Decoding by CUDA graphs, where there is a GPU; test_decoding_lengths.py holds their contract without one."""

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig, layer_names, steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REFUSED = {"moe": "synchronizing", "hyena": "changes its shape"}
"""Experts outside of bf16, whose rows are counted on the host; a convolution as long as what was read."""


@pytest.mark.parametrize("name", layer_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_replayed_graph_writes_what_eager_decoding_writes(name, dtype):
    torch.manual_seed(0)
    layers = {"swa": {"window": 16}, "moe": {"hidden": 64}}
    config = ModelConfig(pattern=f"{name} attn mlp", d_model=128, vocab_size=200, layers=layers)
    model = HybridModel(config).cuda().eval().to(dtype)
    rows = [torch.randint(200, (n,)).tolist() for n in (5, 40, 5, 17)]
    eager = model.generate(rows, 24, cuda_graphs=False)
    try:
        assert torch.equal(model.generate(rows, 24, cuda_graphs=True), eager)
    except InvalidInput as refused:
        assert REFUSED[name] in str(refused)  # noqa: PT017
        assert name == "hyena" or dtype == torch.float32
    assert torch.equal(model.generate(rows, 24), eager)
    steps.forget_graphs()
