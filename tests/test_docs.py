"""What the documentation shows works as it is shown."""

import re
from pathlib import Path

import torch
from hybridlab.architectures import HybridModel, ModelConfig, bill, layer_config, layer_names, parse_pattern
from hybridlab.architectures.huggingface import all_families
from hybridlab.platform.loading import load_sweep
from hybridlab.platform.sweep import expand, matched_models

ROOT = Path(__file__).resolve().parent.parent


def test_the_sweep_of_the_guide_expands_to_matched_models(tmp_path):
    text = re.search(r"```yaml\n(name: ratios.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.DOTALL)
    axes = re.search(r"```yaml\n(axes:.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.DOTALL)
    assert text
    assert axes
    file = tmp_path / "ratios.yaml"
    file.write_text(text[1])
    sweep = load_sweep(file)
    assert len(expand(sweep)) == 4 * 2 * 3
    counts = {
        model.name: [use.name for use in parse_pattern(model.config.pattern).uses].count("attn")
        for model in matched_models(sweep)
    }
    assert counts == {"attention": 8, "mamba2": 0, "one-in-8": 1, "one-in-4": 2}
    file.write_text(text[1].replace("  text:   {kind: language_modelling, corpus: stdlib", "  #", 1) + axes[1])
    assert len({trial.training.learning_rate for trial in expand(load_sweep(file))}) == 3


def test_the_mixer_of_the_guide_trains_decodes_and_has_a_true_bill():
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/add-a-mixer.md").read_text(), re.DOTALL)
    assert code
    exec(compile(code[1], "docs/add-a-mixer.md", "exec"), {"__name__": "guide"})
    config = ModelConfig(pattern="(average mlp)*2", d_model=16, vocab_size=32)
    model = HybridModel(config)
    assert bill(config).parameters == sum(p.numel() for p in model.parameters())

    tokens_BT = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))
    whole, _ = model(tokens_BT)
    whole.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        state = model.init_state(2)
        steps = []
        for t in range(9):
            logits, state = model(tokens_BT[:, t : t + 1], state)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-4)


def test_the_readme_names_every_layer_and_every_family():
    section = re.search(r"## Layers and families\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)
    assert section
    layers, families = section[1].split("`hybridlab import`")
    rows = [line.split("|")[1] for line in layers.splitlines() if line.startswith("| `")]
    ours = [name for name in layer_names() if type(layer_config(name)).__module__.startswith("hybridlab.")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == ours
    rows = [line.split("|")[1] for line in families.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(all_families())
