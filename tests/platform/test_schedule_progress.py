"""What a person sees while a sweep runs."""

import io

import pytest
from hybridlab.platform.jobs import Job
from hybridlab.platform.progress import LINE_EVERY, LiveBars, PlainLines, progress, quality_text
from rich.console import Console

from .samples import make_record, make_trial


@pytest.fixture
def job(tmp_path):
    return Job("id", make_trial(seed=3), tmp_path)


def test_away_from_a_terminal_each_event_is_a_line(job):
    console = Console(file=io.StringIO(), width=60)
    with progress(console, total=5, done=2) as observer:
        assert isinstance(observer, PlainLines)
        observer.started(job)
        observer.reported(job, {"step": 1, "train/loss": 2.0})
        observer.said[job.id] -= LINE_EVERY
        observer.reported(job, {"step": 2, "train/loss": 1.23456})
        observer.retried(job)
        observer.ended(job, make_record(job.trial, test__accuracy=0.5))
        observer.ended(job, make_record(job.trial, "diverged"))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "[2/5] hybrid · recall · seed 3: 5 steps",
        "[2/5] hybrid · recall · seed 3: step 2/5, loss 1.235",
        "[2/5] hybrid · recall · seed 3: its worker died; another continues from the checkpoint",
        "[3/5] hybrid · recall · seed 3: accuracy 0.500 in 4 s",
        "[4/5] hybrid · recall · seed 3: diverged: because",
    ]


def test_on_a_terminal_there_is_a_bar_for_the_sweep_and_one_per_running_trial(job):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with progress(console, total=5, done=2) as observer:
        assert isinstance(observer, LiveBars)
        observer.started(job)
        observer.started(job)
        observer.reported(job, {"step": 4, "train/loss": 2.0, "validation/accuracy": 0.75})
        observer.reported(job, {"step": 4, "train/loss": 2.0})
        overall, running = observer.bars.tasks
        assert (overall.completed, overall.total) == (2, 5)
        assert (running.completed, running.total) == (4, 5)
        assert "hybrid · recall · seed 3" in running.description
        assert running.fields["quality"] == "loss 2.000"
        observer.retried(job)
        observer.ended(job, make_record(job.trial, test__accuracy=0.5))
        assert [task.completed for task in observer.bars.tasks] == [3]


def test_names_are_not_read_as_markup(tmp_path):
    job = Job("id", make_trial(name="[red]x[/nothing]"), tmp_path)
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
        with progress(console, total=1, done=0) as observer:
            observer.started(job)
            observer.retried(job)
            observer.ended(job, make_record(job.trial, "failed"))
        assert "[red]x[/nothing]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_most_telling_number_is_shown():
    assert quality_text({"step": 1, "train/loss": 2.0, "validation/accuracy": 0.5}) == "accuracy 0.500"
    assert quality_text({"test/bits_per_byte": 2.0, "test/loss": 1.0}) == "bits per byte 2.000"
    assert quality_text({}) == ""
