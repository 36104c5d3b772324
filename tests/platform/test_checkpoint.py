"""What is on disk is whole, is no pickle, and comes back as it was."""

import json
from pathlib import Path

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig
from hybridlab.experiments import ByteTokenizer
from hybridlab.platform import checkpoint
from hybridlab.platform.atomic import replacing, write_json
from hybridlab.platform.checkpoint import (
    load_model,
    load_model_tokenizer,
    load_training,
    save_model,
    save_training,
)


def small(pattern: str = "mamba2 attn@a mlp attn@a", **options) -> HybridModel:
    torch.manual_seed(0)
    layers = {"attn": {"n_heads": 2}, "mamba2": {"head_dim": 8}}
    return HybridModel(ModelConfig(pattern=pattern, d_model=16, vocab_size=264, layers=layers, **options)).eval()


@pytest.mark.parametrize("tie", [True, False])
def test_a_model_comes_back_with_its_logits_and_its_tokenizer(tmp_path: Path, tie: bool):
    model = small(tie_embeddings=tie)
    tokens = torch.randint(264, (2, 9))
    save_model(tmp_path, model, ByteTokenizer())
    again = load_model(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(tokens)[0], model(tokens)[0])
    tokenizer = load_model_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("déjà") == ByteTokenizer().encode("déjà")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]


def test_the_saved_tokenizer_is_one_that_transformers_loads(tmp_path: Path):
    from transformers import AutoTokenizer

    save_model(tmp_path, small(), ByteTokenizer())
    assert AutoTokenizer.from_pretrained(tmp_path)("ab\n").input_ids == [97, 98, 10]


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"no finished model in .*: it has no model.json"):
        load_model(tmp_path)


def test_training_state_comes_back_exactly(tmp_path: Path):
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        model(torch.randint(264, (2, 9)))[0].square().mean().backward()
        optimizer.step()
    progress = {"step": 2, "loss_sum": 0.1 + 0.2}
    save_training(tmp_path, model, optimizer, progress)
    drawn = torch.rand(3)

    other = small()
    restored = torch.optim.AdamW(other.parameters(), fused=True)
    assert load_training(tmp_path, other, restored) == progress
    assert torch.equal(torch.rand(3), drawn)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert restored.state[ours].keys() == optimizer.state[theirs].keys()
        for key in restored.state[ours]:
            assert torch.equal(restored.state[ours][key], optimizer.state[theirs][key])


def test_without_training_state_there_is_nothing_to_continue(tmp_path: Path):
    model = small()
    assert load_training(tmp_path, model, torch.optim.AdamW(model.parameters())) is None


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    save_training(tmp_path, model, optimizer, {"step": 1})
    before = (tmp_path / "training.safetensors").read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_training(tmp_path, model, optimizer, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]
    assert (tmp_path / "training.safetensors").read_bytes() == before
    assert load_training(tmp_path, model, optimizer) == {"step": 1}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"x": float("nan"), "y": [1.5, float("inf")]})
    assert json.loads(path.read_text()) == {"x": None, "y": [1.5, None]}
    with (
        pytest.raises(ValueError, match="Out of range float"),
        replacing(path) as temporary,
        temporary.open("w") as half,
    ):
        json.dump([1, float("nan")], half, allow_nan=False)
    assert json.loads(path.read_text()) == {"x": None, "y": [1.5, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
