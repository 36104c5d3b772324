"""Folders in transformers' format: what is read, what is written, and what is refused in one line."""

import json

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig
from hybridlab.architectures.huggingface import convert, from_huggingface, to_huggingface
from hybridlab.architectures.huggingface.folder import read_config, write_folder
from hybridlab.architectures.huggingface.rules import times
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, JambaConfig, MambaConfig, RecurrentGemmaConfig
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

JAMBA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "mamba_d_state": 4, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 0,
}  # fmt: skip
TOKENS = torch.arange(3, 20)[None]


def theirs_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture
def mamba(tmp_path):
    """(their model, its folder)."""
    model = theirs_of(MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2))
    model.save_pretrained(tmp_path / "mamba")
    return model, tmp_path / "mamba"


def refused(source, **options) -> str:
    with pytest.raises(InvalidInput) as caught:
        from_huggingface(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@torch.no_grad()
def test_a_model_in_memory_is_read_like_its_folder():
    """In memory transformers keeps a layer's experts in one tensor, on disk each alone."""
    theirs = theirs_of(JambaConfig(**JAMBA))
    torch.testing.assert_close(from_huggingface(theirs)(TOKENS)[0], theirs(TOKENS).logits, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_shards_are_read_and_written(mamba, tmp_path, monkeypatch):
    model, _ = mamba
    model.save_pretrained(tmp_path / "in", max_shard_size="4KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    ours = from_huggingface(tmp_path / "in")
    torch.testing.assert_close(ours(TOKENS)[0], model(TOKENS).logits, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(
        convert, "write_folder", lambda folder, config, tensors: write_folder(folder, config, tensors, shard_bytes=4000)
    )
    to_huggingface(ours, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-6)


def test_writing_again_replaces_shards_by_one_file(mamba, tmp_path):
    ours = from_huggingface(mamba[1])
    write_folder(tmp_path, {}, ours.state_dict(), shard_bytes=1000)
    to_huggingface(ours, tmp_path)
    assert not (tmp_path / "model.safetensors.index.json").exists()
    torch.testing.assert_close(from_huggingface(tmp_path).state_dict(), ours.state_dict())


def test_weights_keep_their_dtype_unless_told_otherwise(mamba, tmp_path):
    model, folder = mamba
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert {p.dtype for p in from_huggingface(tmp_path / "half").parameters()} == {torch.bfloat16}
    assert {p.dtype for p in from_huggingface(tmp_path / "half", dtype=torch.float32).parameters()} == {torch.float32}
    to_huggingface(from_huggingface(tmp_path / "half"), tmp_path / "out")
    assert read_config(tmp_path / "out")["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert from_huggingface(folder).embedding.weight.dtype == torch.float32


@torch.no_grad()
def test_what_rules_compute_is_rounded_once():
    """Gemma keeps w of a norm's 1 + w: in bfloat16 most of it would be lost in the sum."""
    config = RecurrentGemmaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    theirs = theirs_of(config).to(torch.bfloat16)
    theirs.model.final_norm.weight.copy_(1e-3 * torch.randn(32))
    exact = 1 + theirs.model.final_norm.weight.float()
    assert torch.equal(from_huggingface(theirs, dtype=torch.float32).final_norm.weight, exact)


def test_a_multiplier_keeps_the_dtype_both_ways():
    weight = torch.randn(3, 2).to(torch.bfloat16)
    for factor in (0.3, torch.tensor([[1.0], [2.0], [3.0]])):
        there = times(factor).ours(weight)
        assert there.dtype == times(factor).theirs(there).dtype == torch.bfloat16
        torch.testing.assert_close(times(factor).theirs(there), weight, rtol=1e-2, atol=0)


def test_a_bias_on_the_choice_of_experts_stays_fp32():
    config = ModelConfig(pattern="moe", d_model=16, vocab_size=30, layers={"moe": {"hidden": 8}})
    model = HybridModel(config)
    model.layers[0].choice_bias += 0.001
    assert model.to(torch.bfloat16).layers[0].choice_bias.dtype == torch.float32
    assert torch.equal(model.layers[0].choice_bias, torch.full((8,), 0.001))


def test_a_tensor_too_few_or_too_many_or_of_another_shape_is_named(mamba):
    _, folder = mamba
    tensors = load_file(folder / "model.safetensors")

    def write(changed):
        save_file(changed, folder / "model.safetensors")

    name = "backbone.layers.1.mixer.D"
    write({key: value for key, value in tensors.items() if key != name})
    assert refused(folder) == f"mamba: the weights have no tensor {name!r}, which the configuration asks for"
    write(tensors | {"backbone.layers.1.mixer.E": torch.zeros(3)})
    said = "mamba: the weights have 'backbone.layers.1.mixer.E', for which the configuration has no place"
    assert refused(folder) == said
    write(tensors | {"lm_head.weight": tensors["backbone.embeddings.weight"].clone()})
    from_huggingface(folder)  # a tied head's copy is no stranger
    write(tensors | {name: torch.zeros(5)})
    assert "mamba: the weights of layers.1.D are [5] and not [32]" in refused(folder)


def test_a_folder_without_what_is_needed_is_refused(mamba, tmp_path):
    _, folder = mamba
    assert "it has no config.json" in refused(tmp_path)
    config = read_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    assert refused(folder) == "mamba: the weights are quantised (quantization_config), which is not read"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "else.safetensors")
    assert "it has no model.safetensors and no model.safetensors.index.json" in refused(folder)
    index = {"weight_map": {"a": "../mamba/else.safetensors", "b": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "which is not there" in refused(folder)


def test_a_configuration_that_describes_another_model_is_not_kept(mamba, tmp_path):
    ours = from_huggingface(mamba[1])
    other = read_config(mamba[1]) | {"layer_norm_epsilon": 0.5}
    with pytest.raises(InvalidInput, match=r"to be like does not describe this model: it has norm_eps=1e-05"):
        to_huggingface(ours, tmp_path / "x", like=other)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "family, pattern, options, said",
    [
        ("mamba", "mamba mlp", {}, "mamba: sublayer 1 is 'mlp', but its blocks are mamba"),
        ("mamba", "mamba*2", {"expand": 1.5}, "mamba cannot express mamba: expand=1.5"),
        ("mamba", "mamba@a mamba@a", {}, "mamba: sublayer 0 shares its weights (@a), which it cannot"),
        ("mamba", "mamba mamba{d_conv=2}", {}, "mamba: mamba layers differ in their options, which it cannot express"),
        ("mamba", "mamba{norm=post}*2", {}, "mamba cannot express mamba: norm='post'"),
        ("mamba", "mamba*2", {"inner_norm": "learned"}, "mamba cannot express mamba: inner_norm='learned'"),
        ("falcon_h1", "attn|mamba2 mlp", {}, "falcon_h1 cannot express parallel='average'"),
        ("jamba", "mamba mlp attn mlp mamba mlp mamba mlp attn mlp attn mlp", {"inner_norm": "learned"},
         "jamba: attn in layers 1, 4, 5 is not one in every so many"),
        ("bamba", "mamba2 mlp attn", {}, "bamba: 3 sublayers are no blocks of mamba2 or attn, then mlp"),
    ],
)  # fmt: skip
def test_a_model_that_a_family_cannot_express_is_refused_in_one_line(family, pattern, options, said, tmp_path):
    layers = {"mamba": {"d_state": 4} | options, "mamba2": {"d_state": 4, "head_dim": 8}, "attn": {"n_heads": 2}}
    model = HybridModel(ModelConfig(pattern=pattern, d_model=16, vocab_size=30, layers=layers))
    with pytest.raises(InvalidInput) as caught:
        to_huggingface(model, tmp_path / "x", family)
    assert said in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_trained_bias_that_a_family_has_no_place_for_is_not_lost(tmp_path):
    ours = from_huggingface(theirs_of(JambaConfig(**JAMBA)))
    moe = next(module for module in ours.modules() if hasattr(module, "choice_bias"))
    moe.choice_bias += 0.1
    with pytest.raises(InvalidInput, match=r"jamba cannot express layers\.3\.choice_bias, which is not 0 everywhere"):
        to_huggingface(ours, tmp_path)
