"""The command line. Results go to stdout, everything said meanwhile to stderr.

Exit codes: 0 done; 1 a trial failed, or a check of ``doctor``; 2 one line on stderr says what to mend; 130 interrupted.
What takes time to import is imported by the command that needs it.
"""

import contextlib
import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from .exchange import export_command, import_command

if TYPE_CHECKING:
    from rich.console import Console

    from .config import SweepConfig
    from .jobs import Job

P = ParamSpec("P")
DEBUG = "HYBRIDLAB_DEBUG"

app = typer.Typer(
    name="hybridlab",
    help="Which mix of layers should the next model have? Sweeps of hybrid models at one budget, and their frontier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change any key of the file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Plain JSON instead of a table.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="A running Ray, host:port or auto; without it one is started here."),
]


def main() -> None:
    """The command ``hybridlab``."""
    app()


bench = typer.Typer(help="Measure speed and memory, against the floor and the peers.", no_args_is_help=True)
app.add_typer(bench, name="bench")


def command(name: str, of: typer.Typer = app) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a command whose errors are one line on stderr and an exit code."""

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has had enough
            except (Exception, KeyboardInterrupt) as error:
                _end(error)

        return of.command(name)(guarded)

    return register


@command("show")
def show_command(
    what: Annotated[
        str, typer.Argument(metavar="SWEEP|PATTERN|NAME", help="A sweep file, a pattern, or a published model.")
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
    parameters: Annotated[float | None, typer.Option(help="Match every model to this many parameters (30e6).")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Predict time and memory on a GPU that rates were measured on (h100).")
    ] = None,
    batch: Annotated[int, typer.Option(help="With --gpu: sequences at once.", min=1)] = 4,
    length: Annotated[int, typer.Option(help="With --gpu: tokens of each.", min=2)] = 2048,
) -> None:
    """What would run, and what each model costs, before anything starts.

    A bare pattern takes d_model=1024, vocab_size=50304 and sequence_length=1024 unless given.
    """
    from .show import show, table

    shown = show(what, overrides or [], parameters)
    predicted = []
    if gpu is not None:
        from . import show_gpu

        predicted = show_gpu.predictions(shown.configs, gpu, batch, length)
    if as_json:
        _print_json(show_gpu.plain(shown.models, predicted) if predicted else shown.models)
        return
    out = _console()
    out.print(table(shown))
    if predicted:
        out.print(show_gpu.table([model["name"] for model in shown.models], predicted))
        for line in show_gpu.remarks(predicted):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    if shown.sweep is not None:
        _print_plan(out, shown.sweep, len(shown.trials), shown.training_flops)


@command("sweep")
def sweep_command(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or one that comes along: quickstart.")],
    overrides: Overrides = None,
    address: Address = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what ended other than finished.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")] = False,
) -> None:
    """Run what is missing of a sweep. It may be interrupted, and run again, at any time."""
    from ..experiments import sweep_path
    from .jobs import is_due, plan
    from .loading import load_sweep
    from .show import show_sweep, table
    from .sweep import expand

    sweep = load_sweep(sweep_path(file), overrides or [])
    if dry_run:
        shown = show_sweep(sweep)
        out = _console()
        out.print(table(shown))
        jobs = plan(sweep.name, shown.trials)
        due = [job for job in jobs if is_due(job, retry_failed)]
        _print_plan(out, sweep, len(due), sum(_flops(job) for job in due), of=len(jobs))
        return
    trials = expand(sweep)
    err = _console(stderr=True)
    _run_sweep(sweep, plan(sweep.name, trials), address, retry_failed, err)
    jobs = plan(sweep.name, trials)
    records = [dict(job.record) for job in jobs if job.record]
    _print_table(_console(), records, sweep)
    _draw_frontier(err, records, sweep)
    if any(record["status"] in ("failed", "out_of_memory") for record in records) or len(records) < len(jobs):
        raise typer.Exit(1)


@command("results")
def results_command(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="The name of a sweep that has run.")],
    as_json: AsJson = False,
    frontier: Annotated[
        Path | None, typer.Option(help="Draw quality against cost into FILE.html, .svg, .png or .pdf.")
    ] = None,
    x: Annotated[str | None, typer.Option(help="The cost drawn: a metric, or parameters.")] = None,
    y: Annotated[str | None, typer.Option(help="The quality drawn, in place of each task's own.")] = None,
) -> None:
    """The records of a sweep, from MLflow."""
    from .picture import check_format, write_picture
    from .records import load_records, load_selection

    if frontier is not None:
        check_format(frontier)
    records = load_records(sweep)
    chosen = _selected(records, load_selection(sweep))
    if frontier is not None:
        write_picture(chosen, frontier, sweep, x, y)
        _console(stderr=True).print(f"frontier: {frontier}", highlight=False, soft_wrap=True)
    if as_json:
        _print_json(records)
    else:
        from .report import summary_table, verdict

        out = _console()
        out.print(summary_table(chosen, sweep))
        out.print(verdict(records), highlight=False, markup=False, soft_wrap=True)


@command("sync")
def sync_command() -> None:
    """Bring records that wait in the runs folder to MLflow."""
    from ..architectures import InvalidInput
    from .folders import recorded_sweeps, sweep_lock, trial_folders
    from .tracking import Tracker

    err = _console(stderr=True)
    for sweep in recorded_sweeps():
        try:
            with sweep_lock(sweep):
                tracker, folders = Tracker(sweep), trial_folders(sweep)
                sent = sum(tracker.deliver(folder) for folder in folders)
        except InvalidInput as refused:
            if "already run" not in str(refused):
                raise
            err.print(f"{refused}; it delivers its own", highlight=False, markup=False, soft_wrap=True)
            continue
        err.print(f"{sweep}: {sent} delivered, {len(folders) - sent} there already", highlight=False, soft_wrap=True)


@command("dashboard")
def dashboard_command(port: Annotated[int, typer.Option(help="The port on this machine.")] = 8501) -> None:
    """Serve the dashboard to this machine's browser."""
    os.execv(sys.executable, [sys.executable, "-m", "hybridlab.dashboard.serve", "--port", str(port)])


@command("kernels", of=bench)
def bench_kernels_command(
    output: Annotated[Path | None, typer.Option(help="Also write every row to FILE.json.")] = None,
    op: Annotated[list[str] | None, typer.Option(help="Only these rows (gla, rwkv6, …); may be repeated.")] = None,
    peers: Annotated[bool, typer.Option(help="Measure flash-linear-attention too, where it is installed.")] = True,
    resume: Annotated[bool, typer.Option(help="Keep the rows that FILE.json has from this machine.")] = False,
) -> None:
    """Time each kernel on this machine's GPU, its result checked in the same run."""
    import torch

    from ..architectures import InvalidInput, nearest
    from ..kernels.benchmarks import NotResumable, op_names, run_benchmarks
    from .atomic import write_json

    for name in op or []:
        if name not in op_names():
            raise InvalidInput(f"--op {name!r}: {nearest(name, op_names())}")
    if resume and output is None:
        raise InvalidInput("--resume goes on with a file: name it with --output FILE.json")
    if not torch.cuda.is_available():
        raise InvalidInput("the kernel benchmark needs a CUDA GPU; `hybridlab doctor` says what this machine has")
    try:
        save = None if output is None else functools.partial(write_json, output)
        run_benchmarks(ops=op or None, peers=peers, resume=output if resume else None, save=save)
    except NotResumable as error:
        raise InvalidInput(f"--resume: {error}") from error


command("import")(import_command)
command("export")(export_command)


@command("rates", of=bench)
def bench_rates_command(
    output: Annotated[Path, typer.Option(help="Write them to FILE.json (kernels/benchmarks/rates_h100.json).")],
) -> None:
    """Measure what this machine's GPU does how fast: what `show --gpu` predicts from."""
    import torch

    from ..architectures import InvalidInput
    from .atomic import write_json

    if not torch.cuda.is_available():
        raise InvalidInput("rates are measured on a CUDA GPU; `hybridlab doctor` says what this machine has")
    from ..kernels.benchmarks.rates import measure_rates
    from .layer_rates import layer_rows

    err = _console(stderr=True)

    def report(line: str) -> None:
        err.print(line, highlight=False, markup=False)

    write_json(output, measure_rates(report) | {"layers": layer_rows(report=report)})


@command("steps", of=bench)
def bench_steps_command(
    as_json: AsJson = False,
    rates: Annotated[Path | None, typer.Option(help="Rates of `bench rates`; else those that come along.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these rows; may be repeated.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences a step.", min=1)] = 4,
) -> None:
    """Time training steps of whole models on this machine's GPU, against what `show --gpu` predicts."""
    import torch

    from ..architectures import InvalidInput, nearest
    from .gpu_rates import Rates, rates_of
    from .step_benchmark import MODELS, run_steps, table

    for name in model or []:
        if name not in MODELS:
            raise InvalidInput(f"--model {name!r}: {nearest(name, MODELS)}")
    if not torch.cuda.is_available():
        raise InvalidInput("steps are measured on a CUDA GPU; `hybridlab doctor` says what this machine has")
    gpu = torch.cuda.get_device_name()
    err = _console(stderr=True)
    known = rates_of(gpu) if rates is None else Rates(json.loads(rates.read_text()))
    rows = run_steps(known, model, lambda line: err.print(line, highlight=False, markup=False), batch)
    if as_json:
        _print_json(rows)
    else:
        _console().print(table(rows, gpu))


@command("doctor")
def doctor_command(as_json: AsJson = False, address: Address = None) -> None:
    """Check versions, GPU, kernels, Ray, MLflow and disk."""
    from .doctor import examine, to_json

    findings, out = [], _console()
    for finding in examine(address):
        findings.append(finding)
        if not as_json:
            mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
            out.print(mark, f"{finding.name}: {finding.detail}".replace("[", r"\["), highlight=False, soft_wrap=True)
    if as_json:
        _print_json(to_json(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _run_sweep(
    sweep: "SweepConfig", jobs: Sequence["Job"], address: str | None, retry_failed: bool, err: "Console"
) -> None:
    """Run what is due, with the display, and say what became of the records."""
    from .folders import sweep_folder
    from .jobs import is_due
    from .progress import progress
    from .report import plural
    from .schedule import run_sweep
    from .store import shown, tracking_uri

    due = sum(is_due(job, retry_failed) for job in jobs)
    note = " Ctrl-C stops; running it again goes on from here." if due else ""
    err.print(f"{sweep.name}: {plural(len(jobs), 'trial')}, {due} to run.{note}", highlight=False, soft_wrap=True)
    with progress(err, len(jobs), len(jobs) - due) as observer:
        deliveries = run_sweep(sweep, [job.trial for job in jobs], observer, address=address, retry_failed=retry_failed)
    if deliveries.waiting:
        waiting, where = plural(len(deliveries.waiting), "record"), shown(tracking_uri())
        line = f"MLflow at {where} did not take {waiting} ({deliveries.reason})"
        line += f"; kept in {sweep_folder(sweep.name)}, the next run or `hybridlab sync` delivers"
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def _flops(job: "Job") -> float:
    from .show import training_flops

    return training_flops(job.trial)


def _selected(records: list[dict[str, Any]], rule: Any) -> list[Any]:
    from .sweep import select

    return list(select(records, rule)) if rule else records


def _print_table(out: "Console", records: list[dict[str, Any]], sweep: "SweepConfig") -> None:
    from .report import summary_table, verdict

    out.print(summary_table(_selected(records, sweep.select), sweep.name))
    out.print(verdict(records), highlight=False, markup=False, soft_wrap=True)


def _draw_frontier(err: "Console", records: list[dict[str, Any]], sweep: "SweepConfig") -> None:
    """The frontier beside the sweep's trials; a sweep without two numbers to draw has none."""
    from ..architectures import InvalidInput
    from .folders import sweep_folder
    from .picture import write_picture

    path = sweep_folder(sweep.name) / "frontier.png"
    with contextlib.suppress(InvalidInput):
        write_picture(_selected(records, sweep.select), path, sweep.name)
        err.print(f"frontier: {path}", highlight=False, markup=False, soft_wrap=True)


def _print_plan(out: "Console", sweep: "SweepConfig", trials: int, flops: float, of: int | None = None) -> None:
    from .report import human, plural

    resources = sweep.resources
    each = f"{resources.cpus:g} CPU" + (f" and {resources.gpus:g} GPU" if resources.gpus else "")
    count = plural(trials, "trial") if of is None else f"{trials} of {plural(of, 'trial')}"
    out.print(f"{count} to run, each on {each}; {human(flops)}FLOP of training in all", highlight=False, soft_wrap=True)


def _print_json(plain: Any) -> None:
    from .atomic import finite

    print(json.dumps(finite(plain), indent=2, ensure_ascii=False))


def _console(stderr: bool = False) -> "Console":
    """A console as wide as the terminal; in a pipe, wide enough that tables are whole."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=200)


def _end(error: BaseException) -> NoReturn:
    """Say an error in one line and leave with its code."""
    import click

    if isinstance(error, (typer.Exit, click.exceptions.Exit, click.ClickException)):
        raise error
    if isinstance(error, KeyboardInterrupt):
        print("interrupted: what has ended is recorded; run it again to go on", file=sys.stderr)
        raise typer.Exit(130)
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    print(f"hybridlab: {_line(error)}", file=sys.stderr)
    raise typer.Exit(2)


def _line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"disk full{f' at {error.filename}' if error.filename else ''}: free some space, then run it again to go on"
        )
    if type(error).__name__ in ("InvalidInput", "StoreDown") or isinstance(error, OSError):
        return said
    return f"{type(error).__name__}: {said} (a mistake of ours: {DEBUG}=1 shows where)"
