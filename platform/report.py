"""The table after a sweep: one row per model, what it attained on each task and what it costs."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from .frontier import smaller_is_better
from .summary import ModelSummary, Record, Spread, counts, longest, main_quality, summarize, tasks_of

COSTS = {
    "efficiency/train_tokens_per_second": "train tok/s",
    "efficiency/decode_tokens_per_second": "decode tok/s",
    "efficiency/state_bytes": "cache",
}


def summary_table(records: Sequence[Record], title: str) -> Table:
    """A rich table: parameters, each task's main metric (mean over seeds, ± half its range), speeds and cache bytes.

    The best of each column is bold; a trial that did not finish stands as its status.
    """
    models, tasks = summarize(records), tasks_of(records)
    quality = {task: main_quality(records, task) for task in tasks}
    costs = {key: longest(records, key) or key for key in COSTS}
    table = Table(title=Text(title), title_justify="left", header_style="")
    table.add_column("model")
    table.add_column("parameters", justify="right")
    for task in tasks:
        table.add_column(Text(f"{task}\n{(quality[task] or '').removeprefix('test/')}"), justify="right")
    for key, metric in costs.items():
        length = metric.removeprefix(key).strip("/")
        table.add_column(COSTS[key] + (f"\nat {int(length):,}" if length else ""), justify="right")
    rows = [
        [_quality(model, task, quality[task], models) for task in tasks]
        + [_cost(model, metric, models) for metric in costs.values()]
        for model in models
    ]
    for model, cells in zip(models, rows, strict=True):
        size = model.spread("parameters")
        table.add_row(Text(model.title), human(size.greatest) if size else "–", *cells)
    return table


def verdict(records: Sequence[Record]) -> str:
    """``27 trials: 26 finished, 1 diverged``, and each that did not finish with its reason on a line of its own."""
    ended = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts(records).items()))
    lines = [f"{plural(len(records), 'trial')}: {ended or 'none has ended'}"]
    for record in records:
        if record["status"] != "finished":
            what = f"{record['name']} on {record['task']}, seed {record['seed']} ({record['id']})"
            lines.append(f"  {what}: {record['status'].replace('_', ' ')}: {record['reason']}")
    return "\n".join(lines)


def human(value: float) -> str:
    """Four digits and a prefix: 30.02M, 0.9962, 12.4k."""
    for step, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{value / step:.4g}{prefix}"
    return f"{value:.4g}"


def human_bytes(value: float) -> str:
    return f"{human(value)}B"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _quality(model: ModelSummary, task: str, metric: str | None, models: list[ModelSummary]) -> Text:
    spread = model.spread(metric, task) if metric else None
    unfinished = model.unfinished(task)
    if spread is None:
        return Text(unfinished[0].replace("_", " ") if unfinished else "–", style="red" if unfinished else "dim")
    half = (spread.greatest - spread.least) / 2
    missing = f" ({len(unfinished)} lost)" if unfinished else ""
    text = f"{spread.mean:.3f}{f' ±{half:.3f}' if half else ''}{missing}"
    return Text(
        text, style="bold" if metric and _is_best(spread, metric, [m.spread(metric, task) for m in models]) else ""
    )


def _cost(model: ModelSummary, metric: str, models: list[ModelSummary]) -> Text:
    spread = model.spread(metric)
    if spread is None:
        return Text("–", style="dim")
    text = human_bytes(spread.mean) if "bytes" in metric else human(spread.mean)
    return Text(text, style="bold" if _is_best(spread, metric, [m.spread(metric) for m in models]) else "")


def _is_best(spread: Spread, metric: str, among: list[Spread | None]) -> bool:
    sign = 1 if smaller_is_better(metric) else -1
    return all(other is None or sign * spread.mean <= sign * other.mean for other in among)
