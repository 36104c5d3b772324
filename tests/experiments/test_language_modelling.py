"""Language modelling: which windows, and what the numbers count."""

import itertools
import math
from typing import Any

import pytest
import torch
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import ByteTokenizer, Score, task_config

TEXTS = [f"Chapter {number}: " + "æther " * (number % 11) for number in range(120)]
CORPUS = {"separator": "\f", "test_fraction": 0.2}


def build(options: dict) -> Any:
    return task_config(options).build()


@pytest.fixture
def task(tmp_path) -> Any:
    (tmp_path / "book.txt").write_text("\f".join(TEXTS))
    corpus = CORPUS | {"source": str(tmp_path / "book.txt")}
    return build({"kind": "language_modelling", "corpus": corpus, "sequence_length": 16})


def test_training_targets_are_what_follows_and_windows_lie_in_the_text(task):
    text = task.corpus.tokens("train").tolist()
    batch = task.batch("train", 3, 8, seed=1)
    assert batch.tokens_BT.shape == (8, 16)
    assert torch.equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        window = [*tokens, targets[-1]]
        assert any(text[start : start + 17] == window for start in range(len(text) - 16))


def test_training_batches_depend_on_index_and_seed_alone(task):
    assert torch.equal(task.batch("train", 3, 8, 1).tokens_BT, task.batch("train", 3, 8, 1).tokens_BT)
    assert not torch.equal(task.batch("train", 3, 8, 1).tokens_BT, task.batch("train", 4, 8, 1).tokens_BT)
    assert not torch.equal(task.batch("train", 3, 8, 1).tokens_BT, task.batch("train", 3, 8, 2).tokens_BT)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_held_out_windows_predict_every_token_but_the_first_once(task, batch_size):
    for split in ("validation", "test"):
        tokens = task.corpus.tokens(split).tolist()
        n_batches = task.num_batches(split, batch_size)
        batches = [task.batch(split, index, batch_size) for index in range(n_batches)]
        found = sorted(
            (read[labelled].tolist(), targets[labelled].tolist())
            for batch in batches
            for read, targets, labelled in zip(batch.tokens_BT, batch.targets_BT, batch.labelled_BT, strict=True)
        )
        starts = range(0, len(tokens) - 1, 16)
        assert found == sorted((tokens[s : s + 16][: len(tokens) - 1 - s], tokens[s + 1 : s + 17]) for s in starts)
        with pytest.raises(IndexError):
            task.batch(split, n_batches, batch_size)


def test_the_first_held_out_windows_are_spread_over_the_split(tmp_path):
    (tmp_path / "numbers.txt").write_text("".join(f"{number:07}\n" for number in range(40_000)))
    options = {"corpus": {"source": str(tmp_path / "numbers.txt"), "test_fraction": 0.4}, "sequence_length": 16}
    task = build({"kind": "language_modelling", **options})
    windows = task.batch("test", 0, 10).tokens_BT.tolist()
    numbers = sorted(int(task.tokenizer.decode(window).split()[-1].ljust(7, "0")) for window in windows)
    gaps = [after - before for before, after in itertools.pairwise([24_000, *numbers, 40_000])]
    assert max(gaps) < 3000


def test_bits_per_byte_of_a_whole_split_is_its_information_over_its_bytes(task):
    """A model that finds every token equally likely spends log2(vocabulary) bits on each, end tokens included."""
    score = Score()
    for index in range(task.num_batches("test", 4)):
        batch = task.batch("test", index, 4)
        score.update(torch.zeros(len(batch.targets_N), task.vocab_size), batch)
    size = task.corpus.size("test")
    found = task.metrics(score, "test")
    assert found["loss"] == pytest.approx(math.log(264), rel=1e-5)
    assert found["perplexity"] == pytest.approx(264, rel=1e-4)
    assert score.n_targets == size.n_bytes + size.n_documents
    assert found["bits_per_byte"] == pytest.approx(math.log2(264) * score.n_targets / size.n_bytes, rel=1e-5)


def test_bits_per_byte_counts_bytes_and_not_tokens(tmp_path, task):
    """Two tokenizers of the same text: the same bits in fewer tokens are the same bits per byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "words.json"))
    options = {"tokenizer": str(tmp_path / "words.json"), "sequence_length": 4}
    words = build({"kind": "language_modelling", "corpus": CORPUS | {"source": task.corpus.config.source}, **options})
    assert words.corpus.size("train").n_tokens < task.corpus.size("train").n_tokens / 3

    score = Score()
    for index in range(words.num_batches("test", 4)):
        batch = words.batch("test", index, 4)
        score.update(torch.zeros(len(batch.targets_N), words.vocab_size), batch)
    bits = score.nll_sum / math.log(2)
    assert words.metrics(score, "test")["bits_per_byte"] == pytest.approx(bits / words.corpus.size("test").n_bytes)


def test_padding_of_the_last_window_is_not_scored(task):
    n_targets = task.corpus.size("test").n_tokens - 1
    assert n_targets % 16, "the split should end within a window"
    everything = task.batch("test", 0, 10_000)
    (short,) = [row for row in range(len(everything.tokens_BT)) if not everything.labelled_BT[row].all()]
    assert everything.labelled_BT[short].sum() == n_targets % 16
    assert everything.tokens_BT[short, -1] == ByteTokenizer.eos_id


def test_a_text_shorter_than_a_window_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("a\n" * 100)
    config = task_config({"kind": "language_modelling", "corpus": str(tmp_path / "short.txt"), "sequence_length": 500})
    with pytest.raises(InvalidInput, match=r"182 training tokens are too few for sequence_length=500$"):
        config.build()


def test_a_string_is_short_for_a_corpus_and_the_plain_form_reads_back():
    short = task_config({"kind": "language_modelling", "corpus": "stdlib"})
    assert short == task_config({"kind": "language_modelling", "corpus": {"source": "stdlib"}})
    assert task_config(short.to_dict()) == short
    with pytest.raises(InvalidInput, match=r"corpus: unknown option 'sorce': did you mean 'source'\?$"):
        task_config({"kind": "language_modelling", "corpus": {"sorce": "stdlib"}})
    with pytest.raises(InvalidInput, match=r"^task language_modelling: corpus=3 is int, should be CorpusConfig$"):
        task_config({"kind": "language_modelling", "corpus": 3})
