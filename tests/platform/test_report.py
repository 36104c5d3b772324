"""The table and the picture after a sweep."""

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.platform.picture import axis_title, check_format, panels, write_picture
from hybridlab.platform.report import human, human_bytes, summary_table, verdict
from hybridlab.platform.summary import longest, main_quality, summarize
from rich.console import Console

from .samples import make_record, make_trial


def judged(record, quality, value, cache, speed=1.0):
    """``record`` with a quality, cache bytes and a decoding speed at 128 tokens."""
    costs = {"efficiency/state_bytes/128": cache, "efficiency/decode_tokens_per_second/128": speed}
    return record | {"metrics": {f"test/{quality}": value} | costs}


@pytest.fixture
def records():
    """Three models on two tasks; ``small`` diverged on copying, ``big`` has two seeds on recall."""

    def record(name, task="recall", seed=0, status="finished"):
        return make_record(make_trial(seed=seed, name=name, task_name=task), status)

    return [
        judged(record("small"), "accuracy", 0.3, 100.0, 9000.0),
        judged(record("big"), "accuracy", 0.90, 4000.0, 1000.0),
        judged(record("big", seed=1), "accuracy", 0.98, 4000.0, 1000.0),
        judged(record("worse"), "accuracy", 0.2, 5000.0, 500.0),
        record("small", "copying", status="diverged"),
        judged(record("big", "copying"), "loss", 2.0, 4000.0, 1000.0),
        judged(record("worse", "copying"), "loss", 1.0, 5000.0, 500.0),
    ]


def rows_of(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }


def test_the_table_has_each_task_in_its_own_metric_and_the_costs(records):
    table = summary_table(records, "s")
    titles = [" ".join(str(column.header).split()) for column in table.columns]
    assert titles[2:] == ["recall accuracy", "copying loss", "train tok/s", "decode tok/s at 128", "cache at 128"]
    rows = rows_of(table)
    assert rows["big"][1:] == ["0.940 ±0.040", "2.000", "–", "1k", "4kB"]


def test_a_trial_that_did_not_finish_stands_in_the_table_as_what_happened(records):
    assert rows_of(summary_table(records, "s"))["small"][2] == "diverged"


def test_a_seed_that_is_lost_is_counted_beside_the_mean(records):
    lost = make_record(make_trial(seed=2, name="big"), "out_of_memory")
    assert rows_of(summary_table([*records, lost], "s"))["big"][1] == "0.940 ±0.040 (1 lost)"


def test_the_best_of_each_column_is_bold(records):
    table = summary_table(records, "s")
    bold = [[getattr(cell, "style", "") == "bold" for cell in column._cells] for column in table.columns]
    by_title = {" ".join(str(column.header).split()): marks for column, marks in zip(table.columns, bold, strict=True)}
    assert by_title["recall accuracy"] == [False, True, False]
    assert by_title["copying loss"] == [False, False, True]
    assert by_title["cache at 128"] == [True, False, False]


def test_the_verdict_names_every_trial_that_did_not_finish(records):
    first, *others = verdict(records).splitlines()
    assert first == "7 trials: 1 diverged, 6 finished"
    assert others == [f"  small on copying, seed 0 ({records[4]['id']}): diverged: because"]


def test_a_sweep_in_which_nothing_finished_still_has_a_table():
    rows = rows_of(summary_table([make_record(make_trial(), "failed")], "s"))
    assert rows["hybrid"] == ["–", "failed", "–", "–", "–"]


def test_settings_on_an_axis_are_models_of_their_own():
    trials = [make_trial(axes={"training.learning_rate": rate}) for rate in (0.1, 0.2)]
    assert [model.title for model in summarize(map(make_record, trials))] == [
        "hybrid learning_rate=0.1",
        "hybrid learning_rate=0.2",
    ]


def test_the_metric_of_a_task_is_the_first_that_it_has(records):
    assert main_quality(records, "recall") == "test/accuracy"
    assert main_quality(records, "copying") == "test/loss"
    assert longest(records, "efficiency/state_bytes") == "efficiency/state_bytes/128"
    assert longest(records, "efficiency/nothing") is None


@pytest.mark.parametrize("value, text", [(30_019_901, "30.02M"), (0.99621, "0.9962"), (12_400, "12.4k"), (0, "0")])
def test_numbers_are_short(value, text):
    assert human(value) == text
    assert human_bytes(value) == f"{text}B"


def test_a_panel_has_the_frontier_and_counts_what_it_leaves_out(records):
    recall, copying = panels(records)
    assert {mark.title for mark in recall.marks if mark.on_frontier} == {"small", "big"}
    assert {mark.title for mark in recall.marks if not mark.on_frontier} == {"worse"}
    assert (recall.left_out, copying.left_out) == (0, 1)
    assert "1 trials left out" in copying.title
    assert recall.staircase == [(100.0, 0.3), (4000.0, pytest.approx(0.94))]


def test_a_speed_as_the_cost_is_better_large(records):
    recall, _ = panels(records, x="efficiency/decode_tokens_per_second/128")
    assert {mark.title for mark in recall.marks if mark.on_frontier} == {"small", "big"}
    assert "larger is better" in axis_title(recall.x)


def test_the_page_is_self_contained_and_escapes_names(records, tmp_path):
    evil = judged(make_record(make_trial(name="<script>alert(1)</script>")), "accuracy", 1.0, 1.0)
    write_picture([*records, evil], tmp_path / "f.html", "s & t")
    page = (tmp_path / "f.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', page)
    assert "<script>alert" not in page
    assert "small" in page


def test_an_svg_has_every_model_as_text_and_the_same_bytes_each_time(records, tmp_path):
    for name in ("a.svg", "b.svg"):
        write_picture(records, tmp_path / name, "costs $5 and $6")
    tree = ElementTree.parse(tmp_path / "a.svg")
    texts = {"".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"small", "big", "worse", "costs $5 and $6"} <= texts
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png_and_pdf_are_what_they_say(records, tmp_path):
    write_picture(records, tmp_path / "deep" / "f.png", "s")
    write_picture(records, tmp_path / "f.pdf", "s")
    assert (tmp_path / "deep" / "f.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


def test_values_that_are_no_numbers_are_not_drawn(records):
    nan = judged(make_record(make_trial(name="nan")), "accuracy", math.nan, 1.0)
    recall = panels([*records, nan])[0]
    assert "nan" not in {mark.title for mark in recall.marks}
    assert recall.left_out == 1


def test_an_unknown_ending_or_metric_is_refused(records, tmp_path):
    with pytest.raises(InvalidInput, match=r"'f.jpg': a picture ends in one of: .html, .svg, .png, .pdf"):
        check_format(Path("f.jpg"))
    with pytest.raises(InvalidInput, match="no trial has the metric 'test/acuracy'; did you mean 'test/accuracy'"):
        panels(records, y="test/acuracy")
    with pytest.raises(InvalidInput, match="nothing to draw: none of 1 trials has finished"):
        panels([make_record(make_trial(), "failed")])
