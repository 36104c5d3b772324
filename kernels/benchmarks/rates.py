"""What one GPU does how fast: the measurements that predictions of a model's step are made from.

Each is of one operation alone, at sizes on a grid that no model is asked about; nothing is fitted to a model.
Operations are captured in CUDA graphs, several in a row, so that a time is the device's, without the launch from
Python, which is measured apart. Every family reports lists of rows; `platform/prediction.py` interpolates between them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from .host_rates import host_rows, optimizer_rows
from .measure import machine
from .operator_rates import operator_rows
from .pytorch_rates import attention_rows, gradient_matmul_rows, masked_attention_rows, matmul_rows, memory_rows

Report = Callable[[str], None]


def measure_rates(report: Report = print) -> dict[str, Any]:
    """All rows, and the machine that they are of. Takes about a minute and a half; needs a CUDA device."""
    if not torch.cuda.is_available():
        raise RuntimeError("rates are measured on a CUDA device")
    torch.cuda.synchronize()
    rates: dict[str, Any] = {**machine(), "memory_bytes": torch.cuda.get_device_properties(0).total_memory}
    families: dict[str, Callable[[], Any]] = {
        "host": host_rows,
        "memory": memory_rows,
        "optimizer": optimizer_rows,
        "attention": attention_rows,
        "masked_attention": masked_attention_rows,
        "matmul": matmul_rows,
        "gradient_matmul": gradient_matmul_rows,
        "operators": lambda: operator_rows(report),
    }
    for name, family in families.items():
        begun = time.perf_counter()
        try:
            rates[name] = family()
        except Exception as error:
            report(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        gc.collect()
        torch.cuda.empty_cache()
        report(f"{name}: {time.perf_counter() - begun:.1f} s")
    return rates
