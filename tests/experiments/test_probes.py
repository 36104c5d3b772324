"""Probes: answerable, the same every time, and never the same example in two splits."""

from typing import Any

import numpy as np
import pytest
import torch
from hybridlab.architectures import InvalidInput
from hybridlab.experiments import SPLITS, UNLABELLED, Batch, Score, Split, task_config
from hybridlab.experiments.probes.sampling import distinct, distinct_weighted
from hypothesis import given, settings
from hypothesis import strategies as st

splits = st.sampled_from(SPLITS)


def build(options: dict) -> Any:
    return task_config(options).build()


@st.composite
def recall_options(draw):
    n_pairs = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    return {
        "kind": "recall",
        "n_pairs": n_pairs,
        "sequence_length": 2 * draw(st.integers(2 * max(n_pairs), 40)),
        "vocab_size": draw(st.integers(40, 300)),
        "power_a": draw(st.sampled_from([0.01, 0.5, 1.0])),
        "random_filler": draw(st.booleans()),
    }


@settings(max_examples=30, deadline=None)
@given(recall_options(), splits, st.integers(0, 5), st.integers(0, 3))
def test_every_query_of_recall_is_answered_by_the_pairs_before_it(options, split, index, seed):
    task = build(options)
    batch = task.batch(split, index, 16, seed)
    assert batch.tokens_BT.shape == (16, options["sequence_length"])
    assert 0 <= int(batch.tokens_BT.min()) <= int(batch.tokens_BT.max()) < task.vocab_size
    for tokens, targets, n_pairs in zip(
        batch.tokens_BT.tolist(), batch.targets_BT.tolist(), batch.slices_B, strict=True
    ):
        answers = dict(zip(tokens[0 : 2 * n_pairs : 2], tokens[1 : 2 * n_pairs : 2], strict=True))
        asked = [place for place, target in enumerate(targets) if target != UNLABELLED]
        assert len(answers) == len(asked) == n_pairs
        assert sorted(tokens[place] for place in asked) == sorted(answers)
        assert all(place >= 2 * n_pairs and targets[place] == answers[tokens[place]] for place in asked)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(0, 12),
    st.lists(st.integers(2, 30), max_size=3),
    splits,
    st.integers(0, 5),
)
def test_every_label_of_copying_is_the_letter_of_the_string_before_it(shortest, span, heldout, split, index):
    options = {"min_length": shortest, "max_length": shortest + span, "heldout_lengths": heldout}
    task = build({"kind": "copying", **options})
    batch = task.batch(split, index, 16, 0)
    assert int(batch.tokens_BT.max()) < task.vocab_size
    lengths = set()
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        middle = tokens.index(task.separator)
        string = tokens[1:middle]
        lengths.add(len(string))
        assert tokens[0] == task.begin
        assert all(letter < 26 for letter in string)
        assert targets[:middle] == [UNLABELLED] * middle
        assert [t for t in targets[middle:] if t != UNLABELLED] == [*string, task.end]
        assert tokens[middle + 1 : middle + 1 + len(string)] == string
    expected = set(heldout) if heldout and split != "train" else set(range(shortest, shortest + span + 1))
    assert lengths <= expected


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(5, 12), st.integers(0, 30), splits, st.integers(0, 5))
def test_selective_copying_asks_for_the_scattered_tokens_in_their_order(n_tokens, n_memorize, noise, split, index):
    options = {"n_tokens": n_tokens, "n_memorize": n_memorize, "sequence_length": 2 * n_memorize + noise}
    task = build({"kind": "selective_copying", **options})
    batch = task.batch(split, index, 16, 0)
    assert int(batch.tokens_BT.max()) < task.vocab_size
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        context = tokens[:-n_memorize]
        assert tokens[-n_memorize:] == [task.ask] * n_memorize
        assert targets[:-n_memorize] == [UNLABELLED] * len(context)
        assert [token for token in context if token != task.noise] == targets[-n_memorize:]
        assert all(token < n_tokens for token in targets[-n_memorize:])


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 20), st.integers(8, 60), st.integers(8, 60), splits, st.integers(0, 5))
def test_induction_asks_for_what_followed_the_special_token(vocab_size, length, heldout, split, index):
    options = {"vocab_size": vocab_size, "sequence_length": length, "heldout_sequence_length": heldout}
    task = build({"kind": "induction", **options})
    batch = task.batch(split, index, 16, 0)
    assert batch.tokens_BT.shape == (16, length if split == "train" else heldout)
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        first, last = (place for place, token in enumerate(tokens) if token == task.special)
        assert last == len(tokens) - 1
        assert targets == [UNLABELLED] * last + [tokens[first + 1]]
        assert targets[-1] < task.special


TASKS = [
    {"kind": "recall", "n_pairs": [2, 4], "heldout_n_pairs": [2, 4, 6], "vocab_size": 64},
    {"kind": "copying", "min_length": 2, "max_length": 9},
    {"kind": "copying", "min_length": 2, "max_length": 9, "heldout_lengths": [4, 20]},
    {"kind": "selective_copying", "n_memorize": 4, "sequence_length": 24},
    {"kind": "induction", "sequence_length": 12, "heldout_sequence_length": 24},
]


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(one.tokens_BT, other.tokens_BT), (one.targets_BT, other.targets_BT), (one.slices_B, other.slices_B)]
    return all(a is b or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("options", TASKS, ids=["recall", "copying", "copying-longer", "selective", "induction"])
class TestEveryProbe:
    def test_batch_depends_on_its_arguments_alone(self, options):
        used, fresh = build(options), build(options)
        for index in (5, 0, 7):
            used.batch("train", index, 100, seed=1)
        for split in SPLITS:
            assert equal(used.batch(split, 2, 100, seed=1), fresh.batch(split, 2, 100, seed=1))

    def test_changing_a_batch_changes_no_other(self, options):
        task = build(options)
        before = task.batch("train", 0, 32)
        task.batch("train", 0, 32).tokens_BT.zero_()
        assert equal(before, task.batch("train", 0, 32))

    def test_examples_do_not_depend_on_the_batch_size(self, options):
        task = build(options)
        whole = task.batch("validation", 0, 1000)
        parts = torch.cat([task.batch("validation", index, 125).tokens_BT for index in range(8)])
        assert torch.equal(whole.tokens_BT, parts)

    def test_seeds_change_training_and_leave_held_out_splits(self, options):
        task = build(options)
        assert not equal(task.batch("train", 0, 64, seed=0), task.batch("train", 0, 64, seed=1))
        assert not equal(task.batch("train", 0, 64, seed=0), task.batch("train", 1, 64, seed=0))
        for split in ("validation", "test"):
            assert equal(task.batch(split, 0, 64, seed=0), task.batch(split, 0, 64, seed=1))

    def test_held_out_splits_end_where_num_batches_says(self, options):
        task = build({**options, "validation_examples": 130, "test_examples": 64})
        assert task.num_batches("train", 64) is None
        assert task.num_batches("validation", 64) == 3
        assert task.num_batches("test", 64) == 1
        assert len(task.batch("validation", 2, 64).tokens_BT) == 2
        with pytest.raises(IndexError):
            task.batch("validation", 3, 64)


def contents(options: dict, split: Split, n_examples: int) -> set[tuple[int, ...]]:
    """What was drawn for each example: the pairs of recall, the string of copying, all of induction."""
    task = build({**options, "validation_examples": n_examples, "test_examples": n_examples})
    batch = task.batch(split, 0, n_examples)
    if options["kind"] == "recall":
        return {tuple(row[: 2 * n]) for row, n in zip(batch.tokens_BT.tolist(), batch.slices_B.tolist(), strict=True)}
    if options["kind"] == "selective_copying":
        return {tuple(row) for row in batch.targets_BT.tolist()}
    if options["kind"] == "induction":
        return {tuple(row) for row in batch.tokens_BT.tolist()}
    return {tuple(row[: row.index(task.separator)]) for row in batch.tokens_BT.tolist()}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "recall", "n_pairs": [1, 2], "vocab_size": 24},
        {"kind": "copying", "letters": 4, "min_length": 2, "max_length": 5},
        {"kind": "copying", "letters": 4, "min_length": 2, "max_length": 5, "heldout_lengths": [3, 4]},
        {"kind": "selective_copying", "n_tokens": 4, "n_memorize": 5, "sequence_length": 12},
        {"kind": "induction", "vocab_size": 4, "sequence_length": 8},
    ],
    ids=["recall", "copying", "copying-listed", "selective-copying", "induction"],
)
def test_no_example_of_one_split_occurs_in_another_even_in_a_tiny_space(options):
    train, validation, test = (contents(options, split, 20_000) for split in SPLITS)
    assert min(len(train), len(validation), len(test)) > 10
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_a_space_too_small_for_three_splits_is_refused():
    """One key and two values: two examples, for three splits."""
    task = build({"kind": "recall", "vocab_size": 4, "n_pairs": 1})

    def draw_all():
        return [task.batch(split, 0, 8) for split in SPLITS]

    with pytest.raises(InvalidInput, match=r"task recall with 1 pairs of 4 tokens: too few different examples"):
        draw_all()


def test_zoologys_distances_follow_their_power_law():
    """The place of the first query drawn for each example, against p proportional to i^(a - 1)."""
    weights = np.arange(1, 11, dtype=float) ** -0.7
    draws = distinct_weighted(np.random.default_rng(0), weights, 40_000, 10)
    assert (np.sort(draws, axis=1) == np.arange(10)).all()
    found = np.bincount(draws[:, 0], minlength=10) / 40_000
    assert np.allclose(found, weights / weights.sum(), atol=0.01)
    second = np.bincount(draws[draws[:, 0] == 0, 1], minlength=10)[1:]
    assert np.allclose(second / second.sum(), weights[1:] / weights[1:].sum(), atol=0.015)


def test_distinct_draws_every_ordered_choice_equally_often():
    draws = distinct(np.random.default_rng(0), 3, 7, 60_000, 2)
    ordered, counts = np.unique(draws, axis=0, return_counts=True)
    assert sorted(map(tuple, ordered.tolist())) == [(a, b) for a in range(3, 7) for b in range(3, 7) if a != b]
    assert np.allclose(counts / 60_000, 1 / 12, atol=0.006)


def test_scores_of_a_perfect_and_a_wrong_model_are_one_and_zero():
    task = build(TASKS[0])
    batch = task.batch("test", 0, 60)
    right = torch.nn.functional.one_hot(batch.targets_N, task.vocab_size).float() * 20
    for logits, accuracy in ((right, 1.0), (-right, 0.0)):
        score = Score()
        score.update(logits, batch)
        found = task.metrics(score, "test")
        assert found["accuracy"] == found["exact_match"] == accuracy
        assert [found[f"accuracy/pairs_{n}"] for n in (2, 4, 6)] == [accuracy] * 3


def test_score_counts_positions_examples_and_slices():
    batch = Batch(
        tokens_BT=torch.zeros(3, 4, dtype=torch.int64),
        targets_BT=torch.tensor([[1, 0, -100, -100], [-100, 1, -100, -100], [-100] * 4]),
        slices_B=torch.tensor([7, 8, 8]),
    )
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])  # says 1 at all three labelled positions
    score = Score()
    score.update(logits, batch)
    score.update(logits, batch)
    assert (score.n_targets, score.n_correct, score.n_examples, score.n_exact) == (6, 4, 4, 2)
    assert score.correct_by_slice == {7: 2, 8: 2}
    assert score.targets_by_slice == {7: 4, 8: 2}
    right, wrong = np.log1p(np.exp(-2)), 2 + np.log1p(np.exp(-2))
    assert score.nll_sum == pytest.approx(2 * (2 * right + wrong))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kind": "recal"}, "task kind 'recal' is unknown: did you mean 'recall'?"),
        ({}, "task: no kind given; one of: copying, induction, language_modelling, recall, selective_copying"),
        ({"kind": "recall", "n_pair": 4}, "task recall: unknown option 'n_pair': did you mean 'n_pairs'?"),
        ({"kind": "recall", "n_pairs": "4"}, "task recall: n_pairs='4' is str, should be int"),
        ({"kind": "recall", "power_a": 0}, "task recall: power_a=0.0 should be above 0 (1 is uniform)"),
        ({"kind": "recall", "sequence_length": 63}, "task recall: sequence_length=63 should be even and 4 or more"),
        (
            {"kind": "recall", "n_pairs": 17, "sequence_length": 64},
            "task recall: n_pairs=[17] should be from 1 to 16 (a pair takes 4 of 64 positions and a key of its own)",
        ),
        (
            {"kind": "copying", "min_length": 9, "max_length": 8},
            "task copying: min_length=9 should be from 1 to max_length=8",
        ),
        ({"kind": "copying", "test_examples": 0}, "task copying: test_examples=0 should be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, line):
    with pytest.raises(InvalidInput) as refused:
        task_config(options)
    assert str(refused.value) == line


@pytest.mark.parametrize("options", TASKS)
def test_a_config_survives_its_plain_form(options):
    config = task_config(options)
    assert task_config(config.to_dict()) == config
