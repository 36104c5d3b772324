"""The corpus every machine has."""

from pathlib import PurePosixPath

import pytest
from hybridlab.experiments import SPLITS, held_out_documents
from hybridlab.experiments.corpora import standard_library
from hybridlab.experiments.corpora.standard_library import StandardLibrary, split_of


@pytest.fixture(scope="module")
def documents():
    return list(StandardLibrary().documents())


def test_it_is_large_and_every_split_has_a_fair_part(documents):
    shares = {split: sum(len(d.text) for d in documents if split_of(d) == split) for split in SPLITS}
    total = sum(shares.values())
    assert total > 5_000_000
    assert shares["train"] > 0.8 * total
    assert min(shares.values()) > 0.01 * total


def test_tests_and_installed_packages_are_left_out(documents):
    for document in documents:
        assert not {"test", "tests", "idle_test", "site-packages"} & set(PurePosixPath(document.key).parts)


def test_no_two_files_share_half_their_lines(documents):
    lines = [{s for line in d.text.splitlines() if len(s := line.strip()) >= 8} for d in documents]
    encodings = [n for n, d in enumerate(documents) if d.key.startswith("encodings/")]
    assert len(encodings) > 5
    for later in encodings:
        for earlier in encodings[: encodings.index(later)]:
            assert len(lines[later] & lines[earlier]) <= 0.5 * len(lines[later])


def test_texts_are_unlike_one_another(documents):
    assert len({d.text for d in documents}) == len({d.key for d in documents}) == len(documents)


def test_the_held_out_documents_are_the_test_split(documents):
    assert held_out_documents() == [d for d in documents if split_of(d) == "test"]


def test_a_near_duplicate_and_a_file_of_no_lines_are_dropped(tmp_path):
    for name, first, last in [("a.py", 0, 20), ("b.py", 8, 28), ("c.py", 11, 31), ("z.py", 100, 100)]:
        (tmp_path / name).write_text("".join(f"statement_{n} = {n}\n" for n in range(first, last)))
    standard_library._kept.cache_clear()
    try:
        kept = [d.key for d in standard_library._kept(tmp_path)]
    finally:
        standard_library._kept.cache_clear()
    assert kept == ["a.py", "c.py"]  # b shares 12 of its 20 lines with a, c shares 9 with a
