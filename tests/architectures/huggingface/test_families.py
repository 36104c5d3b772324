"""Every family of transformers that we have: theirs as ours and ours as theirs give the same logits.

Each ``*_cases.py`` beside this file has a family's tiny configurations: CASES that convert both ways, and REFUSED ones
with the line that refuses them.
"""

import inspect
import runpy
from pathlib import Path

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, bill
from hybridlab.architectures.huggingface import all_families, from_huggingface, to_huggingface
from hybridlab.architectures.huggingface.family import difference
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

TOLERANCE = 1e-5  # fp32, of the largest logit
BATCH, LENGTH = 2, 19
FILES = {
    path.name.removesuffix("_cases.py"): runpy.run_path(str(path)) for path in Path(__file__).parent.glob("*_cases.py")
}
CASES = [(family, name) for family, file in sorted(FILES.items()) for name in file["CASES"]]
REFUSED = [(family, name) for family, file in sorted(FILES.items()) for name in file.get("REFUSED", {})]
THEIRS_FAIL = {
    ("jamba", "no attention"): "their cache asks for the length of an attention that is not there",
    ("nemotron_h", "latent experts"): "the same",
    ("mamba2", "options"): "their one-token step leaves time_step_limit out, which their forward applies",
}
"""Cases that transformers 5.23 does not generate as its own forward says."""
EVERY = pytest.mark.parametrize("family, case", CASES, ids=["-".join(case) for case in CASES])


def theirs_of(family: str, case: str) -> PreTrainedModel:
    """Their model in evaluation mode, every weight moved off its initial value; what only chooses experts too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FILES[family]["CASES"][case])
    take_their_torch_form(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in dict(model.named_parameters()) or name.endswith("correction_bias"):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def take_their_torch_form(config: PretrainedConfig) -> None:
    """transformers takes kernels of other packages where they are installed; this takes its own PyTorch form."""
    cls = AutoModelForCausalLM._model_mapping[type(config)]
    module = inspect.getmodule(cls)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == cls.__module__:
            setattr(module, name, inspect.unwrap(function))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(their model, its folder, ours), made once a case."""
    made: dict[tuple[str, str], tuple[PreTrainedModel, Path, HybridModel]] = {}

    def of(family: str, case: str) -> tuple[PreTrainedModel, Path, HybridModel]:
        if (family, case) not in made:
            model, folder = theirs_of(family, case), tmp_path_factory.mktemp(f"{family}-{case}")
            model.save_pretrained(folder)
            made[family, case] = model, folder, from_huggingface(folder)
        return made[family, case]

    return of


def tokens_of(model: PreTrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, model.config.vocab_size, (BATCH, LENGTH), generator=generator)


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    return model(tokens_of(model), use_cache=False).logits.float()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def test_every_family_is_tested_here_and_documented():
    assert set(FILES) == set(all_families())
    table = (Path(__file__).parents[3] / "docs" / "huggingface.md").read_text(encoding="utf-8")
    assert [name for name in all_families() if f"`{name}`" not in table] == []


@EVERY
def test_an_imported_model_gives_their_logits(saved, family, case):
    theirs, _, ours = saved(family, case)
    with torch.no_grad():
        assert_same(ours(tokens_of(theirs))[0], logits_of(theirs))


@EVERY
def test_an_imported_model_gives_their_logits_token_by_token(saved, family, case):
    theirs, _, ours = saved(family, case)
    tokens, state, outputs = tokens_of(theirs), ours.init_state(BATCH), []
    with torch.no_grad():
        for piece in tokens.split([5, 1, 1, 3, *[1] * (LENGTH - 10)], dim=1):
            logits, state = ours(piece, state)
            outputs.append(logits)
    assert_same(torch.cat(outputs, dim=1), logits_of(theirs))
    assert ours.state_nbytes(state) == BATCH * ours.bill().state_bytes(LENGTH, torch.float32)


@EVERY
def test_an_imported_model_gives_their_gradient(saved, family, case):
    """Of the embedding, which the gradients of all layers go into, as evaluation computes it."""
    theirs, _, ours = saved(family, case)
    tokens = tokens_of(theirs)
    weights = torch.randn((BATCH, LENGTH, theirs.config.vocab_size), generator=torch.Generator().manual_seed(3))
    logits = theirs(tokens, use_cache=False).logits
    expected = torch.autograd.grad((logits.float() * weights).sum(), theirs.get_input_embeddings().weight)[0]
    (found,) = torch.autograd.grad((ours(tokens)[0] * weights).sum(), ours.embedding.weight)
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 10 * TOLERANCE * expected.abs().max()


@EVERY
def test_a_model_in_memory_is_read_as_its_folder_is(saved, family, case):
    theirs, _, ours = saved(family, case)
    read = from_huggingface(theirs)
    assert read.config == ours.config
    torch.testing.assert_close(read.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("family, case", [pair for pair in CASES if pair not in THEIRS_FAIL], ids=str)
def test_both_generate_the_same_tokens(saved, family, case):
    theirs, _, ours = saved(family, case)
    tokens = tokens_of(theirs)[:1]
    theirs.generation_config.eos_token_id = None
    text = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=8, do_sample=False)
    assert text[0, LENGTH:].tolist() == ours.generate(tokens, 8)[0].tolist()


@EVERY
def test_the_bill_counts_their_parameters(saved, family, case):
    theirs, _, ours = saved(family, case)
    assert bill(ours.config).parameters == theirs.num_parameters()


@EVERY
@pytest.mark.parametrize("kept", [False, True], ids=["written", "like"])
def test_an_exported_model_loads_and_gives_our_logits(saved, family, case, kept, tmp_path):
    theirs, folder, ours = saved(family, case)
    assert to_huggingface(ours, tmp_path, family, like=folder if kept else None) == family
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert_same(logits_of(loaded.eval()), logits_of(theirs))
    if kept:
        assert loaded.config.to_diff_dict() == AutoConfig.from_pretrained(folder).to_diff_dict()


@EVERY
def test_configurations_keep_what_is_computed(saved, family, case):
    _, _, ours = saved(family, case)
    known = all_families()[family]
    assert difference(ours.config, known.read(known.config(known.express(ours.config)))) is None


@pytest.mark.parametrize("family", sorted(FILES))
def test_defaults_are_those_of_their_class(family):
    theirs = AutoConfig.for_model(family).to_dict()
    fresh = type(AutoConfig.for_model(family)).__dataclass_fields__
    for key, value in all_families()[family].defaults.items():
        default = fresh[key].default if key in fresh else theirs.get(key)
        assert (list(default) if isinstance(default, tuple) else default) == (
            list(value) if isinstance(value, tuple) else value
        ), key


@pytest.mark.parametrize("family, case", REFUSED, ids=["-".join(case) for case in REFUSED])
def test_what_cannot_be_expressed_is_refused_in_one_line(family, case):
    options, said = FILES[family]["REFUSED"][case]
    known, theirs = all_families()[family], AutoConfig.for_model(family, **options).to_dict()
    with pytest.raises(InvalidInput) as caught:
        known.read(known.config(theirs))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
