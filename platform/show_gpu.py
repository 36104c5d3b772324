"""`hybridlab show … --gpu NAME`: the predictions of prediction.py as plain values and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..architectures import ModelConfig
from .gpu_rates import rates_of
from .prediction import Prediction, predict
from .report import human, human_bytes


def predictions(configs: Sequence[ModelConfig], gpu: str, batch_size: int, length: int) -> list[Prediction]:
    """One a model. Raises InvalidInput for a GPU that nobody measured."""
    return [predict(config, gpu, batch_size=batch_size, length=length) for config in configs]


def plain(models: Sequence[dict[str, Any]], predicted: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The models as `show` describes them, each with its prediction under ``on_gpu``, where ``bytes_over`` is what
    training and serving take beyond the GPU's memory: 0 for what fits."""
    return [
        {**model, "on_gpu": one.plain() | {"bytes_over": bytes_over(one)}}
        for model, one in zip(models, predicted, strict=True)
    ]


def bytes_over(one: Prediction) -> dict[str, int]:
    """What training and serving take beyond the GPU's memory; 0 where they fit."""
    wanted = {"training": one.memory["peak"], "serving": one.serving_bytes}
    return {use: max(0, size - one.gpu_bytes) for use, size in wanted.items()}


def table(names: Sequence[str], predicted: Sequence[Prediction]) -> Group:
    """One row a model; what does not fit the GPU's memory is red, and a line under the table says by how much."""
    first = predicted[0]
    title = f"predicted for {first.gpu}: {first.batch_size} x {first.length:,} tokens, bf16"
    made = Table(title=Text(title), title_justify="left", header_style="")
    made.add_column("model", overflow="fold")
    titles = ("train step", "train tok/s", "train memory", "most time in", "prefill tok/s", "decode tok/s")
    for column in (*titles, "serving memory", "cache at 128k"):
        made.add_column(column, justify="right")
    for name, one in zip(names, predicted, strict=True):
        part, share = one.dominant
        made.add_row(
            Text(name),
            _milliseconds(one.training.seconds) + (" (host)" if one.training.bound_by == "host" else ""),
            human(one.tokens / one.training.seconds),
            _bytes(one.memory["peak"], one.gpu_bytes),
            f"{part} {share:.0%}",
            human(one.tokens / one.prefill.seconds),
            human(one.batch_size / one.decode.seconds),
            _bytes(one.serving_bytes, one.gpu_bytes),
            human_bytes(one.long_cache_bytes),
        )
    return Group(made, *map(Text, _too_large(names, predicted)))


def _too_large(names: Sequence[str], predicted: Sequence[Prediction]) -> list[str]:
    """A line for training and one for serving, with all models that take more memory than the GPU has."""
    lines = []
    for use in ("training", "serving"):
        over = {name: bytes_over(one)[use] for name, one in zip(names, predicted, strict=True)}
        models = ", ".join(f"{name} takes {human_bytes(size)} more" for name, size in over.items() if size)
        if models:
            lines.append(f"{use} does not fit the {human_bytes(predicted[0].gpu_bytes)} of this GPU: {models}")
    return lines


def remarks(predicted: Sequence[Prediction]) -> list[str]:
    """Lines that belong under the table."""
    lines = []
    unmeasured = sorted({name for one in predicted for name in one.unmeasured})
    if unmeasured:
        names = ", ".join(name.removeprefix("hybridlab.") for name in unmeasured)
        lines.append(f"not measured on this GPU, and counted by their bytes alone (too fast): {names}")
    if predicted and not rates_of(predicted[0].gpu).layers:
        lines.append(
            "the host's time is that of operations alone, as its time by layer was not measured on this GPU: small "
            "batches take longer than predicted (docs/costs.md)"
        )
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _bytes(wanted: float, there: int) -> Text:
    return Text(human_bytes(wanted), style="red" if wanted > there else "")
