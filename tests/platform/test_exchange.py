"""``hybridlab import`` and ``hybridlab export``: a model of transformers, evaluated here and given back."""

import json
import shutil
import sys

import pytest
import torch
from hybridlab.architectures import HybridModel, ModelConfig
from hybridlab.experiments import ByteTokenizer
from hybridlab.platform.checkpoint import load_model, load_model_tokenizer, save_model
from hybridlab.platform.cli import app
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM
from typer.testing import CliRunner

LAYERS = {"mamba2": {"d_state": 4, "head_dim": 8}, "attn": {"n_heads": 2, "rope_fraction": 0.5}}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder with a tiny model of theirs and a tokenizer, and the model."""
    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=264, hidden_size=16, state_size=4, num_hidden_layers=2, eos_token_id=256)
    model = MambaForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size="8KB")
    ByteTokenizer().save_pretrained(folder)
    return folder, model


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@torch.no_grad()
def test_an_imported_model_is_a_checkpoint_with_its_tokenizer(theirs, tmp_path):
    folder, model = theirs
    assert len(list(folder.glob("*.safetensors"))) > 1
    parameters = f"{model.num_parameters():,}"
    assert done("import", folder, tmp_path / "ours") == f"mamba*2: {parameters} parameters, in {tmp_path / 'ours'}\n"
    tokens = torch.tensor([load_model_tokenizer(tmp_path / "ours").encode("hybrid")])
    torch.testing.assert_close(load_model(tmp_path / "ours")(tokens)[0], model(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_it_goes_back_with_every_key_that_it_came_with(theirs, tmp_path):
    folder, model = theirs
    done("import", folder, tmp_path / "ours")
    assert done("export", tmp_path / "ours", tmp_path / "back") == f"MambaForCausalLM in {tmp_path / 'back'}\n"
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "back"))
    assert {k: v for k, v in before.items() if k != "transformers_version"} == after
    generation = (f / "generation_config.json" for f in (folder, tmp_path / "back"))
    assert len({path.read_text() for path in generation}) == 1
    back, tokens = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval(), torch.arange(20)[None]
    torch.testing.assert_close(back(tokens).logits, model(tokens).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "back")("hybrid").input_ids == list(b"hybrid")


@torch.no_grad()
def test_what_was_trained_here_becomes_the_family_that_can_express_it(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(pattern="(mamba2 mlp)*2 attn mlp", d_model=16, vocab_size=264, layers=LAYERS)
    model = HybridModel(config).eval()
    save_model(tmp_path / "ours", model, ByteTokenizer())
    assert done("export", tmp_path / "ours", tmp_path / "theirs").startswith("BambaForCausalLM")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokens = torch.arange(30)[None]
    torch.testing.assert_close(served(tokens).logits, model(tokens)[0], rtol=1e-5, atol=1e-5)
    assert served.config.eos_token_id == ByteTokenizer.eos_id
    assert served.config.pad_token_id is None


def test_the_dtype_can_be_chosen(theirs, tmp_path):
    done("import", theirs[0], tmp_path, "--dtype", "bfloat16")
    assert load_model(tmp_path).embedding.weight.dtype == torch.bfloat16
    assert "one of: bfloat16" in refused("import", theirs[0], tmp_path, "--dtype", "int8")


def test_what_cannot_be_done_is_one_line(theirs, tmp_path):
    folder = theirs[0]
    assert "it has no config.json" in refused("import", tmp_path, tmp_path / "x")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(folder / "config.json", only)
    (only / "pytorch_model.bin").touch()
    assert "pytorch_model.bin is a pickle, which is not read" in refused("import", only, tmp_path / "x")
    (only / "config.json").write_text(json.dumps({"model_type": "mambo"}))
    assert "no Hugging Face family 'mambo': did you mean 'mamba'?" in refused("import", only, tmp_path / "x")
    config = ModelConfig(pattern="gla mlp", d_model=16, vocab_size=30, layers={"gla": {"head_dim": 8}})
    save_model(tmp_path / "gla", HybridModel(config))
    line = refused("export", tmp_path / "gla", tmp_path / "x")
    assert "no Hugging Face family can express this model: " in line
    assert "mamba: sublayer 0 is 'gla', but its blocks are mamba" in line
    assert not (tmp_path / "x").exists()


def test_reading_a_folder_needs_no_transformers(theirs, tmp_path):
    import subprocess

    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from hybridlab.architectures.huggingface import from_huggingface\n"
        f"print(from_huggingface({str(theirs[0])!r}).config.pattern)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout == "mamba*2\n", run.stderr
