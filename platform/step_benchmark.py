"""Predicted training steps against measured ones, on the GPU at hand: does `hybridlab show --gpu` tell the truth?

The models are none that rates were measured with: other widths, and whole models where rates are of single operations.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

from ..architectures import HybridModel, ModelConfig, bill
from .config import TrainingConfig
from .evaluation import autocast
from .gpu_rates import Rates
from .optimization import optimizer_for
from .prediction import training_time
from .report import human, human_bytes

BATCH_SIZE, LENGTH = 4, 2048
WORKSPACES = 2 * (32 << 20)
"""Bytes that PyTorch gives cuBLAS on a Hopper GPU, once a process: 32 MiB for each of the two passes' threads."""
WARM, ROUNDS, TIMED = 3, 3, 7
"""Steps before a measurement, and of each of its rounds, whose median counts."""
MODELS: dict[str, ModelConfig] = {
    name: ModelConfig(pattern=pattern, d_model=d_model, vocab_size=32000, layers=layers)
    for name, pattern, d_model, layers in (
        ("attention", "(attn mlp)*4", 1024, {}),
        ("mamba2", "(mamba2 mlp)*4", 1024, {}),
        ("gla", "(gla mlp)*4", 1024, {}),
        ("retnet", "(retnet mlp)*4", 1024, {}),
        ("rwkv6", "(rwkv6 mlp)*4", 1024, {}),
        ("mamba", "(mamba mlp)*4", 1024, {}),
        ("lightning", "(lightning mlp)*3 attn mlp", 1024, {}),
        ("linear", "(linear mlp)*4", 1024, {}),
        ("hybrid", "(mamba2 mlp)*3 attn mlp", 1024, {}),
        ("hybrid-wide", "(mamba2 mlp)*3 attn mlp", 1536, {}),
        ("hybrid-moe", "(mamba2 mlp attn moe)*2", 1024, {"moe": {"n_experts": 8, "top_k": 2}}),
        ("griffin", "(rglru mlp)*2 swa mlp", 1024, {"swa": {"window": 512}}),
    )
}


def run_steps(
    rates: Rates,
    names: Iterable[str] | None = None,
    report: Callable[[str], None] = print,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """One row a model: predicted and measured seconds and peak bytes, and how far the prediction is off. Measured are a
    step's seconds and, apart, those of its kernels."""
    rows = []
    for name in names or MODELS:
        config = MODELS[name]
        predicted = training_time(config, rates, batch_size=batch_size, length=LENGTH)
        memory = bill(config).training_memory(batch_size, LENGTH)
        seconds, peak = measure_step(config, batch_size)
        rows.append(
            {
                "model": name,
                "pattern": config.pattern,
                "batch_size": batch_size,
                "length": LENGTH,
                "parameters": bill(config).parameters,
                "predicted_seconds": predicted.seconds,
                "measured_seconds": seconds,
                "measured_device_seconds": None,
                "seconds_off": predicted.seconds / seconds - 1,
                "predicted_device_seconds": predicted.device,
                "predicted_host_seconds": predicted.host,
                "predicted_peak_bytes": memory.peak,
                "measured_peak_bytes": peak,
                "peak_off": memory.peak / peak - 1,
            }
        )
        report(f"{name}: {seconds * 1e3:.1f} ms, predicted {predicted.seconds * 1e3:.1f}")
    for row in rows:  # last: a process that has been profiled launches more slowly
        row["measured_device_seconds"] = device_seconds(MODELS[row["model"]], batch_size)
    return rows


def measure_step(config: ModelConfig, batch_size: int = BATCH_SIZE) -> tuple[float, int]:
    """(seconds, peak bytes) of training steps one after another, as platform/training.py does them: bf16 autocast over
    fp32 weights."""
    gc.collect()
    _allocate_workspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = HybridModel(config).cuda().train()
    step = _stepper(model, batch_size)
    for _ in range(WARM):
        step()
    rounds = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(TIMED):
            step()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - begun) / TIMED)
    return statistics.median(rounds), torch.cuda.max_memory_allocated() - before


def _allocate_workspaces() -> None:
    """WORKSPACES, which are no model's."""
    x = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    (x @ x).sum().backward()


def device_seconds(config: ModelConfig, batch_size: int = BATCH_SIZE) -> float:
    """What the kernels of a training step take, added up: without what the device waits for the host."""
    gc.collect()
    torch.cuda.empty_cache()
    step = _stepper(HybridModel(config).cuda().train(), batch_size)
    for _ in range(WARM):
        step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(WARM):
            step()
        torch.cuda.synchronize()
    on_device = [event for event in profile.events() or () if event.device_type == DeviceType.CUDA]
    return sum(event.time_range.elapsed_us() for event in on_device) * 1e-6 / WARM


def _stepper(model: HybridModel, batch_size: int) -> Callable[[], None]:
    training = TrainingConfig(precision="bf16")
    optimizer = optimizer_for(model, training)
    device = next(model.parameters()).device
    tokens_BT = torch.randint(model.config.vocab_size, (batch_size, LENGTH), device=device)

    def step() -> None:
        with autocast("bf16", device):
            loss = model.loss(tokens_BT, tokens_BT)
            balance = model.auxiliary_loss()
        optimizer.zero_grad(set_to_none=True)
        (loss + training.auxiliary_loss * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        optimizer.step()

    return step


def recorded(gpu: str) -> list[dict[str, Any]]:
    """Steps that were measured on a GPU when its rates were: ``model``, ``batch_size``, ``length``,
    ``measured_seconds``, ``measured_peak_bytes``, ``measured_device_seconds``; ``first_of_process`` where the peak also
    holds WORKSPACES."""
    return json.loads((files("hybridlab.kernels.benchmarks") / f"steps_{gpu}.json").read_text())["rows"]


def table(rows: list[dict[str, Any]], gpu: str) -> Table:
    """The rows as a rich table."""
    made = Table(title=f"{gpu}, {rows[0]['batch_size']} x {LENGTH} tokens, bf16", title_justify="left", header_style="")
    made.add_column("model")
    peaks = "predicted peak", "measured peak", "off"
    for title in ("parameters", "GPU ms", "predicted", "host ms", "step ms", "predicted", "off", *peaks):
        made.add_column(title, justify="right")
    for row in rows:
        made.add_row(
            row["model"],
            human(row["parameters"]),
            *(
                f"{row[f'{column}_seconds'] * 1e3:.1f}"
                for column in ("measured_device", "predicted_device", "predicted_host", "measured", "predicted")
            ),
            f"{row['seconds_off']:+.1%}",
            human_bytes(row["predicted_peak_bytes"]),
            human_bytes(row["measured_peak_bytes"]),
            f"{row['peak_off']:+.1%}",
        )
    return made
