"""What the host takes to run each kind of layer, forward, backward and reading a prompt.

It does not depend on how large a layer is, so models are measured that are too small to keep a GPU busy: one with some
of the layer and one with none. Added up over a model's layers, the differences are its host's time (`prediction`).
"""

import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable

import torch

from ..architectures import HybridModel, ModelConfig, layer_names
from ..architectures.rehearsal import AROUND
from .evaluation import autocast

USES = 4
"""Of a layer in the model that it is measured in."""
REST = "attn mlp"
"""Layers that stand in all models: some layers need the one or the other."""
BATCH_SIZE, LENGTH, WARM, TIMED = 1, 64, 3, 15

Times = dict[str, float]
"""Seconds of the host: ``forward`` and ``backward`` of a training step, and ``prefill``."""


def layer_rows(
    names: Iterable[str] | None = None, report: Callable[[str], None] = print, device: str = "cuda"
) -> dict[str, Times]:
    """Each layer's times, by its name, and those of AROUND. A layer that cannot be measured so is reported and left
    out. On a GPU kernels are first compiled in parallel processes."""
    names = tuple(names or layer_names())
    if device != "cpu":
        workers = max(1, min(len(names), (os.cpu_count() or 2) - 2))
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pool.map(_compile, names, chunksize=1)
    gc.collect()
    gc.disable()  # its pauses would be some layer's
    try:
        base, attn, mlp = (host_times(pattern, device) for pattern in (REST, f"attn {REST}", f"mlp {REST}"))
        rest = {side: attn[side] + mlp[side] - 2 * base[side] for side in base}
        rows = {AROUND: {side: max(0.0, base[side] - rest[side]) for side in base}}
        for name in names:
            try:
                with_layer = host_times(_with(name), device)
            except Exception as error:
                report(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            rows[name] = {side: max(0.0, with_layer[side] - base[side]) / USES for side in base}
            gc.collect()
    finally:
        gc.enable()
    return rows


def _with(name: str) -> str:
    return " ".join((*(name,) * USES, REST))


def _compile(name: str) -> None:
    try:
        host_times(_with(name), repeats=1)
    except Exception:  # the measurement itself will say what failed
        return


def host_times(pattern: str, device: str = "cuda", repeats: int = WARM + TIMED) -> Times:
    """The median times of a small model; the first WARM of `repeats` do not count, if there are more."""
    model = HybridModel(ModelConfig(pattern=pattern, d_model=256, vocab_size=1024)).to(device).train()
    where = torch.device(device)
    tokens_BT = torch.zeros(BATCH_SIZE, LENGTH, dtype=torch.int64, device=where)
    last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    taken: dict[str, list[float]] = {"forward": [], "backward": [], "prefill": []}

    def timed(side: str, begun: float) -> None:
        taken[side].append(time.perf_counter() - begun)
        if where.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(repeats):
        model.zero_grad(set_to_none=True)
        begun = time.perf_counter()
        with autocast("bf16", where):
            loss = model.loss(tokens_BT, tokens_BT) + model.auxiliary_loss()
        timed("forward", begun)
        begun = time.perf_counter()
        loss.backward()
        timed("backward", begun)
    model.to(torch.bfloat16).eval()
    with torch.no_grad():
        for _ in range(repeats):
            begun = time.perf_counter()
            model(tokens_BT, model.init_state(BATCH_SIZE), at_BT=last_BT)
            timed("prefill", begun)
    return {side: statistics.median(seconds[WARM:] or seconds) for side, seconds in taken.items()}
