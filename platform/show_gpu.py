"""`hybridlab show … --gpu NAME`: the predictions of prediction.py as plain values and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ..architectures import ModelConfig
from .prediction import Prediction, predict
from .report import human, human_bytes


def predictions(configs: Sequence[ModelConfig], gpu: str, batch_size: int, length: int) -> list[Prediction]:
    """One a model. Raises InvalidInput for a GPU that nobody measured."""
    return [predict(config, gpu, batch_size=batch_size, length=length) for config in configs]


def plain(models: Sequence[dict[str, Any]], predicted: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The models as `show` describes them, each with its prediction under ``on_gpu``."""
    return [{**model, "on_gpu": one.plain()} for model, one in zip(models, predicted, strict=True)]


def table(names: Sequence[str], predicted: Sequence[Prediction]) -> Table:
    """One row a model; what does not fit the GPU's memory is red."""
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
    return made


def remarks(predicted: Sequence[Prediction]) -> list[str]:
    """Lines that belong under the table."""
    unmeasured = sorted({name for one in predicted for name in one.unmeasured})
    if not unmeasured:
        return []
    names = ", ".join(name.removeprefix("hybridlab.") for name in unmeasured)
    return [f"not measured on this GPU, and counted by their bytes alone (too fast): {names}"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _bytes(wanted: float, there: int) -> Text:
    return Text(human_bytes(wanted), style="red" if wanted > there else "")
