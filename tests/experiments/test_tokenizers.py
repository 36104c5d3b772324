"""Tokenizers: text survives them, and the written folder is the same tokenizer to transformers."""

import os
from pathlib import Path

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import ByteTokenizer, load_tokenizer
from hybridlab.experiments.tokenizers import END_TOKEN
from hypothesis import given, settings
from hypothesis import strategies as st

TRICKY = [
    "",
    " ",
    "\n\n\t x",
    "naïve café ☕ 日本語 🧪",
    "a  b\r\n",
    f"an {END_TOKEN} in a text",
    "\x00\x7f\xa0",
    "Don't  stop",
]


@given(st.text())
def test_bytes_give_back_every_text(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert all(0 <= i < 256 for i in ids)


def test_the_end_token_is_not_text():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode([104, tokenizer.eos_id, 105, tokenizer.pad_id]) == "hi"
    assert tokenizer.vocab_size % 8 == 0
    assert max(tokenizer.eos_id, tokenizer.pad_id) < tokenizer.vocab_size


def test_bytes_that_are_no_text_are_shown_as_such():
    assert ByteTokenizer().decode([0xFF, 0x41]) == "\ufffdA"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return ByteTokenizer().save_pretrained(tmp_path_factory.mktemp("tokenizer") / "bytes")


@pytest.fixture(scope="module")
def transformers_tokenizer(written):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(written))


@pytest.mark.parametrize("text", TRICKY)
def test_transformers_reads_the_byte_tokenizer_and_agrees_on_tricky_text(transformers_tokenizer, text):
    check_agreement(transformers_tokenizer, text)


def test_transformers_agrees_on_any_text(transformers_tokenizer):
    @settings(max_examples=100, deadline=None)
    @given(st.text())
    def agrees(text):
        check_agreement(transformers_tokenizer, text)

    agrees()


def check_agreement(theirs, text):
    ids = ByteTokenizer().encode(text)
    assert theirs(text).input_ids == ids
    assert theirs.decode(ids) == text
    assert theirs.eos_token_id == ByteTokenizer.eos_id
    assert theirs.pad_token_id == ByteTokenizer.pad_id


def test_a_written_folder_and_its_file_load_as_tokenizers(written):
    for name in (written, written / "tokenizer.json"):
        loaded = load_tokenizer(str(name))
        assert loaded.eos_id == ByteTokenizer.eos_id
        assert loaded.vocab_size == ByteTokenizer.vocab_size
        assert loaded.decode(loaded.encode("naïve ☕")) == "naïve ☕"


def test_a_loaded_tokenizer_writes_a_folder_again(written, tmp_path):
    first = load_tokenizer(str(written))
    second = load_tokenizer(str(first.save_pretrained(tmp_path / "again")))
    assert second.encode("import os") == first.encode("import os")
    assert second.fingerprint == first.fingerprint


def word_tokenizer(folder: Path, *special: str) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["[UNK]", "to", "be", "or", "not", *special])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "words.json"))
    return folder / "words.json"


def test_a_local_file_names_its_end_token_or_is_told(tmp_path):
    assert load_tokenizer(str(word_tokenizer(tmp_path, "</s>"))).eos_id == 5
    path = str(word_tokenizer(tmp_path))
    assert load_tokenizer(path, end_token="not").eos_id == 4
    with pytest.raises(InvalidInput, match=r"words.json': it has no end token; name one with end_token$"):
        load_tokenizer(path)
    with pytest.raises(InvalidInput, match=r"words.json': end_token='stop' is not in it$"):
        load_tokenizer(path, end_token="stop")


def test_tokenizers_that_encode_differently_have_different_fingerprints(tmp_path):
    one = load_tokenizer(str(word_tokenizer(tmp_path, "</s>"))).fingerprint
    other = load_tokenizer(str(word_tokenizer(tmp_path, "question", "</s>"))).fingerprint
    assert len({one, other, ByteTokenizer().fingerprint}) == 3


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") != "1", reason="asks the hub unless it is switched off")
def test_a_name_the_hub_would_have_to_know_is_refused_offline():
    with pytest.raises(
        InvalidInput, match=r"^tokenizer 'byte': not 'bytes', not a local file, and the .* switched off"
    ):
        load_tokenizer("byte")


def test_missing_and_broken_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for name, line in [
        ("missing.json", "no such file or folder"),
        ("broken.json", "not a tokenizer.json: "),
        ("empty", "no tokenizer in this folder"),
    ]:
        with pytest.raises(InvalidInput) as refused:
            load_tokenizer(str(tmp_path / name))
        assert str(refused.value).startswith(f"tokenizer '{tmp_path / name}': {line}")
        assert "\n" not in str(refused.value)
