"""lm-eval sees a trial as a model: likelihoods and texts are those of the plain model, batched or not, from Python
and its command line."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from hybridlab.architectures import HybridModel, InvalidInput, ModelConfig
from hybridlab.experiments import ByteTokenizer
from hybridlab.platform import lm_eval_hook
from hybridlab.platform.checkpoint import save_model
from hybridlab.platform.config import LmEvalConfig
from hybridlab.platform.lm_eval_model import HybridLabLM, find_checkpoint
from hybridlab.platform.lm_eval_scores import flatten_results
from hybridlab.platform.trial import run_trial, trial_id
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

LAYERS = {"attn": {"n_heads": 2}, "mamba2": {"head_dim": 8, "d_state": 8}}
END = ByteTokenizer.eos_id


@pytest.fixture(scope="module")
def model() -> HybridModel:
    torch.manual_seed(0)
    config = ModelConfig(pattern="mamba2 mlp attn mlp", d_model=16, vocab_size=264, layers=LAYERS)
    made = HybridModel(config).eval()
    with torch.no_grad():
        made.embedding.weight.mul_(20)  # far from uniform, so that greedy texts and likelihoods tell tokens apart
    return made


def log_probabilities(model: HybridModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens[:-1]]))[0][0].double().log_softmax(-1)


def asked(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]  # type: ignore[arg-type]


PAIRS = [
    ("def f(x):", " return x"),
    ("a", "b"),
    ("", "no context"),
    ("a longer context than the others", "!"),
    ("q ", "r"),
]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_likelihoods_are_the_models_own_however_they_are_batched(model: HybridModel, batch_size: int):
    wrapped = HybridLabLM.of(model, ByteTokenizer(), batch_size=batch_size)
    for (context, rest), (score, greedy) in zip(
        PAIRS, wrapped.loglikelihood(asked("loglikelihood", *PAIRS)), strict=True
    ):
        before = list(context.encode()) or [END]
        if context.endswith(" "):
            before, rest = before[:-1], " " + rest
        after = list(rest.encode())
        logs = log_probabilities(model, before + after)[len(before) - 1 :]
        assert score == pytest.approx(float(logs[range(len(after)), after].sum()), abs=1e-3)
        assert greedy == (logs.argmax(-1).tolist() == after)


def test_a_greedy_continuation_is_recognised(model: HybridModel):
    wrapped = HybridLabLM.of(model, ByteTokenizer())
    prompt = list(b"abc")
    written = model.generate(torch.tensor([prompt]), 4)[0].tolist()
    requests = [(("", ""), prompt, written), (("", ""), prompt, [*written[:3], (written[3] + 1) % 256])]
    assert [greedy for _, greedy in wrapped._loglikelihood_tokens(requests)] == [True, False]


def test_rolling_likelihood_predicts_every_token_once_in_its_window(model: HybridModel):
    text = "import os\nimport sys\n"
    wrapped = HybridLabLM.of(model, ByteTokenizer(), rolling_length=8)
    tokens = list(text.encode())
    total = 0.0
    for start in range(0, len(tokens), 8):
        window = tokens[start : start + 8]
        before = tokens[start - 1] if start else END
        if len(window) == 8:
            total += float(log_probabilities(model, [before, *window])[range(8), window].sum())
    last = len(tokens) % 8  # the last window is filled up with context
    row = tokens[-9:]
    total += float(log_probabilities(model, row)[range(8 - last, 8), row[-last:]].sum())
    assert wrapped.loglikelihood_rolling(asked("loglikelihood_rolling", (text,))) == [pytest.approx(total, abs=1e-3)]


def test_texts_are_those_of_generate_though_prompts_of_all_lengths_run_together(model: HybridModel):
    wrapped = HybridLabLM.of(model, ByteTokenizer(), batch_size=8)
    prompts = ["a", "def f(x):", "import os, sys", "def f(y):"]
    options = {"until": [], "max_gen_toks": 12, "do_sample": False}
    texts = wrapped.generate_until(asked("generate_until", *[(prompt, options) for prompt in prompts]))
    for prompt, text in zip(prompts, texts, strict=True):
        tokens = model.generate(torch.tensor([list(prompt.encode())]), 12, stop=[END])[0].tolist()
        tokens = tokens[: tokens.index(END)] if END in tokens else tokens
        assert text == ByteTokenizer().decode(tokens)


def test_a_text_ends_before_its_first_stop_string_and_at_its_most_tokens(model: HybridModel, monkeypatch):
    wrapped = HybridLabLM.of(model, ByteTokenizer(), batch_size=2)
    said = iter(b"one\ntwo. three four five six")
    monkeypatch.setattr("hybridlab.architectures.decoding.choose", lambda *_: torch.tensor([next(said)]))
    requests = asked("generate_until", ("q", {"until": [". ", "\n\n"], "max_gen_toks": 20}))
    assert wrapped.generate_until(requests) == ["one\ntwo"]
    said = iter(b"one\ntwo. three four five six")
    assert wrapped.generate_until(asked("generate_until", ("q", {"until": "never", "max_gen_toks": 6}))) == ["one\ntw"]


def test_a_run_is_found_by_id_by_folder_and_by_checkpoint(model: HybridModel, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "runs" / "a-sweep" / "abc123abc123"
    save_model(folder / "checkpoint", model, ByteTokenizer(), 32)
    for run in ("abc123abc123", str(folder), str(folder / "checkpoint")):
        assert find_checkpoint(run) == folder / "checkpoint"
    wrapped = get_model("hybridlab").create_from_arg_string("run=abc123abc123", {"batch_size": 2, "device": "cuda:0"})
    assert isinstance(wrapped, HybridLabLM)
    assert (wrapped.batch_size, wrapped.rolling_length) == (2, 32)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [({"run": "abc"}, "no run 'abc'"), ({}, "give one of run=ID and pretrained=FOLDER")],
    ids=["unknown", "none"],
)
def test_an_unknown_run_is_one_line(arguments: dict, line: str):
    with pytest.raises(InvalidInput, match=line) as refused:
        HybridLabLM(**arguments)
    assert "\n" not in str(refused.value)


def test_a_model_of_a_probe_has_no_text(model: HybridModel, tmp_path: Path):
    save_model(tmp_path, model)
    with pytest.raises(InvalidInput, match="no tokenizer for text"):
        HybridLabLM(run=tmp_path)


def test_results_become_flat_metrics_without_lengths_that_were_not_asked_for():
    scores = {
        "alias": "x",
        "sample_len": 3,
        "acc,none": 0.5,
        "acc_stderr,none": "N/A",
        "em,strict": 1,
        "4096,none": -1,
        "512,none": 0.0,
    }
    assert flatten_results({"t": scores}) == {"lm_eval/t/acc": 0.5, "lm_eval/t/em_strict": 1.0, "lm_eval/t/512": 0.0}


def test_the_hook_leaves_processes_alone_that_are_not_lm_eval(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lm_eval_hook, "sys", type("sys", (), {"modules": {}}))
    monkeypatch.setattr(lm_eval_hook, "importlib", None)
    lm_eval_hook.register()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"q": f"def f{i}(x): return", "choices": [" x", " yy"], "a": 0} for i in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tiny_choice.yaml").write_text(json.dumps(config))
    return folder


def test_lm_evals_own_command_line_takes_a_run(model: HybridModel, tasks: Path, tmp_path: Path):
    if not [point for point in entry_points(group="torch.backends") if point.value.startswith("hybridlab")]:
        pytest.fail("hybridlab is installed without its entry point under torch.backends: install it again")
    save_model(tmp_path / "run", model, ByteTokenizer(), 32)
    command = [sys.executable, "-m", "lm_eval", "--model", "hybridlab", "--tasks", "tiny_choice"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out"), "--model_args"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, f"run={tmp_path / 'run'}"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["tiny_choice"]["acc,none"] in (0.0, 0.5, 1.0, 0.25, 0.75)


def test_a_language_model_is_scored_on_our_task_and_on_a_stock_one(text_trial, tmp_path: Path):
    asked_for = LmEvalConfig(tasks=["stdlib_next_line", "niah_single_1"], limit=2, lengths=[1024])
    trial = text_trial(lm_eval=asked_for)
    record = run_trial(trial, tmp_path / trial_id(trial))
    assert record["status"] == "finished", record["reason"]
    assert 0 <= record["metrics"]["lm_eval/stdlib_next_line/acc"] <= 1
    assert 0 <= record["metrics"]["lm_eval/niah_single_1/1024"] <= 1
    assert "lm_eval/niah_single_1/4096" not in record["metrics"]
    log = (tmp_path / trial_id(trial) / "lm_eval.log").read_text()
    assert "niah_single_1" in log
