"""Corpora: every source, split by document, packed whole or not at all."""

import gzip
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import SPLITS, ByteTokenizer, Corpus, CorpusConfig, Split
from hybridlab.experiments.corpora import Document, packing
from hybridlab.experiments.corpora.document import assigned_split

TEXTS = [f"Document {number} says {number * 7}.\n" * (1 + number % 3) for number in range(200)]


def corpus(source: object, **options: Any) -> Corpus:
    return CorpusConfig(source=str(source), **options).build(ByteTokenizer())


def texts_of(packed: Corpus, split: Split) -> list[str]:
    """The split's documents, read back from its tokens."""
    tokens = packed.tokens(split).tolist()
    assert tokens[0] == tokens[-1] == ByteTokenizer.eos_id
    found: list[list[int]] = []
    for token in tokens[:-1]:
        if token == ByteTokenizer.eos_id:
            found.append([])
        else:
            found[-1].append(token)
    return [bytes(text).decode() for text in found]


def check_holds(packed: Corpus, texts: list[str]) -> None:
    """Every text is in exactly one split, and sizes are what is on disk."""
    by_split: dict[Split, list[str]] = {split: texts_of(packed, split) for split in SPLITS}
    assert Counter(text for found in by_split.values() for text in found) == Counter(texts)
    for split, found in by_split.items():
        size = packed.size(split)
        assert size.n_documents == len(found) >= 1
        assert size.n_bytes == sum(len(text.encode()) for text in found)
        assert size.n_tokens == len(packed.tokens(split)) == size.n_bytes + len(found) + 1


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> None:
    path.write_text("".join(json.dumps({field: text, "id": number}) + "\n" for number, text in enumerate(texts)))


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": range(len(texts))}), path)


def test_text_files_of_a_folder_are_documents(folder):
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    check_holds(corpus(folder), TEXTS)
    check_holds(corpus(folder / "*.txt"), TEXTS)


def test_a_separator_cuts_a_text_file_into_documents(folder):
    (folder / "all.txt").write_text("====".join(TEXTS))
    check_holds(corpus(folder / "all.txt", separator="===="), TEXTS)


def test_json_lines_and_parquet_hold_the_same_corpus_as_one_another(folder):
    write_jsonl(folder / "a.jsonl", TEXTS)
    write_parquet(folder / "a.parquet", TEXTS)
    lines, table = corpus(folder / "a.jsonl"), corpus(folder / "a.parquet")
    check_holds(lines, TEXTS)
    assert all(np.array_equal(lines.tokens(split), table.tokens(split)) for split in SPLITS)


def test_several_json_files_and_compressed_ones_are_one_corpus(folder):
    write_jsonl(folder / "a.jsonl", TEXTS[:120], field="content")
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"content": text}) + "\n" for text in TEXTS[120:])
    check_holds(corpus(folder, text_field="content"), TEXTS)


def test_a_text_in_one_piece_is_cut_into_three_at_line_ends(folder):
    text = "".join(f"line {number}\n" for number in range(1000))
    (folder / "book.txt").write_text(text)
    packed = corpus(folder / "book.txt", validation_fraction=0.1, test_fraction=0.2)
    parts = [texts_of(packed, split)[0] for split in SPLITS]
    assert "".join(parts) == text
    assert all(part.endswith("\n") for part in parts)
    assert np.allclose([len(part) / len(text) for part in parts], [0.7, 0.1, 0.2], atol=0.005)


def test_a_text_without_lines_is_cut_between_words_or_anywhere(folder):
    for text in (" ".join(f"word{number}" for number in range(2000)), "x" * 5000):
        (folder / "book.txt").write_text(text)
        parts = [texts_of(corpus(folder / "book.txt"), split)[0] for split in SPLITS]
        assert "".join(parts) == text
        assert np.allclose([len(part) / len(text) for part in parts], [0.9, 0.05, 0.05], atol=0.005)
        assert all(part.endswith(" ") for part in parts[:2]) == (" " in text)


def test_a_long_document_is_packed_in_pieces_without_loss(folder, monkeypatch):
    monkeypatch.setattr(packing, "PIECE", 100)
    (folder / "book.txt").write_text("".join(f"{number} lines\n" for number in range(2000)) + "é" * 500)
    parts = [texts_of(corpus(folder / "book.txt"), split)[0] for split in SPLITS]
    assert "".join(parts) == (folder / "book.txt").read_text()


def test_equal_documents_never_stand_in_two_splits(folder):
    write_jsonl(folder / "a.jsonl", TEXTS * 3)
    found = [set(texts_of(corpus(folder / "a.jsonl"), split)) for split in SPLITS]
    assert sum(map(len, found)) == len(set().union(*found))
    for number, text in enumerate(TEXTS * 2):
        (folder / f"{number}.txt").write_text(text)
    check_holds(corpus(folder / "*.txt"), TEXTS)


def test_a_document_keeps_its_split_when_others_come_and_go(folder):
    def splits() -> dict[str, Split]:
        packed = corpus(folder / "*.txt")
        return {text: split for split in SPLITS for text in texts_of(packed, split)}

    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    before = splits()
    for number in range(0, 100, 3):
        (folder / f"{number}.txt").unlink()
    after = splits()
    assert len(after) < len(before)
    assert all(before[text] == split for text, split in after.items())


def data_set(folder: Path, **splits: list[str]) -> Path:
    """A data set that `datasets` loads by name, as it loads one from the hub."""
    for split, texts in splits.items():
        write_jsonl(folder / f"{split}.jsonl", texts)
    return folder


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.usefixtures("datasets_cache")
def test_a_data_set_keeps_its_own_splits(folder):
    packed = corpus(f"hub:{data_set(folder, train=TEXTS[:150], validation=TEXTS[150:160], test=TEXTS[160:])}")
    assert [texts_of(packed, split) for split in SPLITS] == [TEXTS[:150], TEXTS[150:160], TEXTS[160:]]


@pytest.mark.usefixtures("datasets_cache")
def test_a_split_a_data_set_lacks_is_taken_from_its_training_documents(folder):
    packed = corpus(f"hub:{data_set(folder, train=TEXTS[:150], test=TEXTS[150:])}")
    assert texts_of(packed, "test") == TEXTS[150:]
    assert packed.size("validation").n_documents > 0
    check_holds(packed, TEXTS)


@pytest.mark.usefixtures("datasets_cache")
def test_one_split_of_a_data_set_is_split_by_document(folder):
    named = f"hub:{data_set(folder, train=TEXTS[:50], test=TEXTS[50:])}"
    check_holds(corpus(named, split="test"), TEXTS[50:])
    with pytest.raises(InvalidInput, match=r"no split 'tets': did you mean 'test'\?$"):
        corpus(named, split="tets")


def refusal(source: object, **options: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        corpus(source, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_missing_is_named_in_one_line(folder):
    assert refusal(folder / "no.txt").endswith("no.txt': no such file, folder or files of that pattern")
    assert refusal(folder / "*.jsonl").endswith("*.jsonl': no such file, folder or files of that pattern")
    assert refusal(folder).endswith("data': no .jsonl, .md, .ndjson, .parquet, .txt file in this folder")
    assert refusal("stdlb").startswith(
        "corpus 'stdlb': not 'stdlib', not a local file, and not a Hugging Face data set: "
    )


def test_what_cannot_be_read_is_named_in_one_line(folder):
    write_jsonl(folder / "a.jsonl", TEXTS)
    assert refusal(folder / "a.jsonl", text_field="txt").endswith("no field 'txt'; text_field is one of: id, text")
    assert refusal(folder / "a.jsonl", text_field="id").endswith("field 'id' is int, should be text")
    (folder / "b.jsonl").write_text('{"text": "whole"}\n{"text": \n')
    assert "b.jsonl': cannot be read as json: " in refusal(folder / "b.jsonl")
    (folder / "c.parquet").write_text("no parquet")
    assert "c.parquet': cannot be read as parquet: " in refusal(folder / "c.parquet")
    assert refusal(folder).endswith("files of different kinds (json, parquet); name one by a pattern")
    (folder / "d.txt").write_bytes(b"abc\xff")
    assert refusal(folder / "d.txt").endswith("d.txt is not UTF-8 text (byte 3)")


def test_a_corpus_with_an_empty_split_is_refused_and_leaves_nothing(folder, cache):
    write_jsonl(folder / "a.jsonl", TEXTS[:12])
    line = refusal(folder / "a.jsonl", validation_fraction=0.001)
    assert line.endswith("none of its 12 documents is in the validation split; enlarge its fraction")
    assert list((cache / "corpora").iterdir()) == []


def test_the_split_of_the_standard_library_is_fixed():
    with pytest.raises(InvalidInput, match=r"^corpus 'stdlib': test_fraction=0.2: its split is fixed, leave it out$"):
        CorpusConfig(test_fraction=0.2)
    with pytest.raises(InvalidInput, match=r"validation_fraction=0.7 should be between 0 and 0.5$"):
        CorpusConfig(source="a.txt", validation_fraction=0.7)


def test_fractions_are_met_and_splits_do_not_depend_on_order():
    documents = [Document(f"key {number}", "text") for number in range(20_000)]
    splits = [assigned_split(document, 0.1, 0.2) for document in documents]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert np.allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


class CountingSource:
    """A source that says how often it was read."""

    name = "counted"

    def __init__(self, version: int = 0) -> None:
        self.version, self.reads = version, 0

    def fingerprint(self) -> int:
        return self.version

    def documents(self) -> Iterator[Document]:
        self.reads += 1
        return (Document(str(number), text) for number, text in enumerate(TEXTS))


def test_a_corpus_is_packed_once_and_again_when_its_source_changes():
    source = CountingSource()
    first, second = (packing.pack(source, ByteTokenizer(), 0.1, 0.1) for _ in range(2))
    assert first == second
    assert source.reads == 1
    packing.pack(source, ByteTokenizer(), 0.1, 0.2)
    assert source.reads == 2
    changed = CountingSource(version=1)
    assert packing.pack(changed, ByteTokenizer(), 0.1, 0.1).folder != first.folder
    assert changed.reads == 1


def test_a_changed_file_is_packed_again(folder):
    write_jsonl(folder / "a.jsonl", TEXTS)
    corpus(folder / "a.jsonl")
    write_jsonl(folder / "a.jsonl", TEXTS[:150])
    check_holds(corpus(folder / "a.jsonl"), TEXTS[:150])


class DyingSource(CountingSource):
    """The process is killed in the middle of reading it."""

    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            if document.key == "150":
                os.kill(os.getpid(), signal.SIGKILL)
            yield document


def pack_and_die() -> None:
    packing.pack(DyingSource(), ByteTokenizer(), 0.1, 0.1)


def test_what_a_killed_writer_left_is_not_read(cache):
    process = multiprocessing.get_context("fork").Process(target=pack_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = (cache / "corpora").iterdir()
    assert (left / "train.bin").exists()

    source = CountingSource()
    packed = packing.pack(source, ByteTokenizer(), 0.1, 0.1)
    assert source.reads == 1
    assert packed.folder != left
    assert sum(size.n_documents for size in packed.sizes.values()) == len(TEXTS)


class RacingSource(CountingSource):
    """Another process packs the same corpus while this one reads it."""

    def documents(self) -> Iterator[Document]:
        packing.pack(CountingSource(), ByteTokenizer(), 0.1, 0.1)
        return super().documents()


def test_of_two_writers_at_once_both_get_the_corpus(cache):
    packed = packing.pack(RacingSource(), ByteTokenizer(), 0.1, 0.1)
    assert [packed.folder] == list((cache / "corpora").iterdir())
    assert len(packed.tokens("train")) == packed.sizes["train"].n_tokens


def test_a_source_that_fails_leaves_nothing_behind(cache):
    class Failing(CountingSource):
        def documents(self) -> Iterator[Document]:
            yield from list(super().documents())[:100]
            raise InvalidInput("the rest is missing")

    with pytest.raises(InvalidInput, match="the rest is missing"):
        packing.pack(Failing(), ByteTokenizer(), 0.1, 0.1)
    assert list((cache / "corpora").iterdir()) == []
