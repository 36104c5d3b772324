"""The lm-eval tasks, run by lm-eval itself with models whose score is known beforehand."""

import math
import re
import sys
from typing import Any

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import (
    ByteTokenizer,
    generated_task_names,
    held_out_documents,
    lm_task_folder,
    lm_task_manager,
    lm_task_names,
    stock_task_metadata,
)
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate


class KnowingModel(LM):
    """Spends three bits on every byte, finds the held-out line that follows, and the number in the haystack."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = [document.text for document in held_out_documents()]

    def loglikelihood_rolling(self, requests):
        return [-3 * math.log(2) * len(request.args[0].encode()) for request in requests]

    def loglikelihood(self, requests):
        return [(0.0 if any("".join(r.args) + "\n" in text for text in self.texts) else -1.0, False) for r in requests]

    def generate_until(self, requests):
        return [re.findall(r"is: (\d+)\.", request.args[0])[0] for request in requests]


def evaluate(task: str, manager, limit: int | None = None) -> Any:
    return simple_evaluate(KnowingModel(), tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0)


@pytest.fixture
def few_words(monkeypatch):
    """RULER's first import pairs all adjectives with all nouns, six million names: here, ten of each."""
    wonderwords = pytest.importorskip("wonderwords", reason="needs hybridlab[ruler]")
    pytest.importorskip("nltk", reason="needs hybridlab[ruler]")
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        monkeypatch.delitem(sys.modules, name)

    class FewWords(wonderwords.RandomWord):
        def __init__(self):
            super().__init__()
            self._categories = {category: list(words)[:10] for category, words in self._categories.items()}

    monkeypatch.setattr(wonderwords, "RandomWord", FewWords)
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)  # nothing of it is needed
    yield
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def manager():
    return lm_task_manager(lm_task_names())


def test_the_folder_holds_the_tasks_it_names(manager):
    assert lm_task_names() == ["stdlib_bits_per_byte", "stdlib_next_line"]
    assert (lm_task_folder() / "stdlib_next_line.yaml").is_file()
    assert {*lm_task_names(), *generated_task_names()} <= set(manager.all_tasks)


def test_bits_per_byte_covers_exactly_the_test_files_and_counts_their_bytes(manager):
    found = evaluate("stdlib_bits_per_byte", manager)
    assert found["results"]["stdlib_bits_per_byte"]["bits_per_byte,none"] == pytest.approx(3)
    assert found["results"]["stdlib_bits_per_byte"]["byte_perplexity,none"] == pytest.approx(8)
    scored = [sample["doc"]["text"] for sample in found["samples"]["stdlib_bits_per_byte"]]
    assert scored == [document.text for document in held_out_documents()]


def test_the_line_that_follows_is_the_answer_and_no_other_line_does_follow(manager):
    found = evaluate("stdlib_next_line", manager)
    assert found["results"]["stdlib_next_line"]["acc,none"] == 1
    questions = [sample["doc"] for sample in found["samples"]["stdlib_next_line"]]
    assert len(questions) > 100
    by_path = {document.key: document.text for document in held_out_documents()}
    for question in questions:
        followers = [
            c for c in question["choices"] if question["context"] + c + "\n" in by_path[question["path"]] + "\n"
        ]
        assert followers == [question["choices"][question["answer"]]]
        assert len({*question["choices"]}) == 4
        assert len({len(choice) - len(choice.lstrip()) for choice in question["choices"]}) == 1


def test_no_place_among_the_choices_is_favoured(manager):
    found = evaluate("stdlib_next_line", manager)
    answers = [sample["doc"]["answer"] for sample in found["samples"]["stdlib_next_line"]]
    for place in range(4):
        assert answers.count(place) == pytest.approx(len(answers) / 4, abs=4 * math.sqrt(len(answers) * 3 / 16))


@pytest.mark.usefixtures("few_words")
def test_stock_needle_in_a_haystack_runs_without_a_hub(tmp_path):
    folder = ByteTokenizer().save_pretrained(tmp_path / "bytes")
    manager = lm_task_manager(["niah_single_1"], stock_task_metadata(folder, [1024]))
    found = evaluate("niah_single_1", manager, limit=5)
    assert found["results"]["niah_single_1"]["1024,none"] == 1
    lengths = [len(ByteTokenizer().encode(sample["doc"]["input"])) for sample in found["samples"]["niah_single_1"]]
    assert len(lengths) == 5
    assert 600 < min(lengths) <= max(lengths) <= 1024 - 128


def test_metadata_for_stock_tasks_is_refused_where_it_could_not_work(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"no tokenizer.json in it$"):
        stock_task_metadata(tmp_path, [1024])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"^RULER lengths \[\] should be one or more numbers of tokens$"):
        stock_task_metadata(tmp_path, [])
    monkeypatch.setattr("hybridlab.experiments.lm_tasks.stock.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"need the package 'wonderwords': pip install 'hybridlab\[ruler\]'$"):
        stock_task_metadata(tmp_path, [1024])
