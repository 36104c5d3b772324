"""Is this machine fit to run sweeps? Each check says what it found; one that fails says what would mend it.

Kernels are judged against their fp64 references on the device that trials would use, Ray by starting (or reaching) it
and running a task, MLflow by asking it, the runs folder by writing to it.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .folders import runs_folder
from .store import connect, one_line, shown, tracking_uri

PACKAGES = ("hybridlab", "torch", "triton", "ray", "mlflow", "lm-eval", "datasets", "transformers", "streamlit")
ROOM = 2 * 2**30
"""Bytes that should be free for checkpoints."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    ok: bool
    detail: str


def examine(address: str | None = None) -> Iterator[Finding]:
    """Run every check, each when it is asked for: some take seconds."""
    yield Finding("versions", *_versions())
    yield _checked("device", _device)
    yield from _kernels()
    yield _checked("ray", lambda: _ray(address))
    yield _checked("mlflow", _mlflow)
    yield _checked("disk", _disk)


def to_json(findings: list[Finding]) -> dict[str, Any]:
    return {"ok": all(finding.ok for finding in findings), "checks": [asdict(finding) for finding in findings]}


def _checked(name: str, check: Callable[[], str]) -> Finding:
    """A check that returns what it found, or raises what is wrong."""
    try:
        return Finding(name, True, check())
    except Exception as error:  # whatever it is, it is this check's finding
        return Finding(name, False, one_line(error))


def _versions() -> tuple[bool, str]:
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    return not missing, ", ".join(found) + (f"; missing: {', '.join(missing)}" if missing else "")


def _device() -> str:
    import torch

    from ..kernels.hardware import triton_trusted

    if not torch.cuda.is_available():
        return "no GPU: trials run the PyTorch form of each recurrence on the CPU"
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    form = "Triton kernels" if triton_trusted(torch.device("cuda", 0)) else "PyTorch forms: Triton is not trusted here"
    return f"{torch.cuda.device_count()} × {name}, capability {major}.{minor}, {form}"


def _kernels() -> Iterator[Finding]:
    """Every operation's fast form against its reference, in values and gradients; on a GPU in bf16 as well."""
    import torch

    from ..kernels import OPERATIONS, TOLERANCE

    on_gpu = torch.cuda.is_available()
    for operation in OPERATIONS:
        for dtype in TOLERANCE if on_gpu and operation.narrow else (torch.float32,):
            tolerance = TOLERANCE[dtype] if on_gpu else 1e-5
            name = f"kernel: {operation.name}" + ("" if dtype == torch.float32 else f", {str(dtype)[6:]}")
            try:
                error = operation.check("cuda" if on_gpu else "cpu", dtype)
            except Exception as failure:
                yield Finding(name, False, one_line(failure))
            else:
                detail = f"relative error {error:.1e}" + ("" if error <= tolerance else f", above {tolerance:.0e}")
                yield Finding(name, error <= tolerance, detail)


def _ray(address: str | None) -> str:
    from .cluster import cluster

    begun = time.monotonic()
    with cluster(address, cpus=None if address else 1):
        import ray

        ray.get(ray.remote(_nothing).remote(), timeout=60)
        have = ray.cluster_resources()
    where = f"at {address}" if address else "starts here and stops"
    took = time.monotonic() - begun
    return f"{where}, runs a task ({have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU; {took:.1f} s)"


def _nothing() -> None:
    """The least that shows a worker starting."""


def _mlflow() -> str:
    sweeps = connect().search_experiments()
    return f"answers at {shown(tracking_uri())}, {len(sweeps)} experiments"


def _disk() -> str:
    folder = runs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".doctor"
    probe.write_text("writable")
    probe.unlink()
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise OSError(f"{free / 2**30:.1f} GiB free at {folder}; checkpoints need more")
    return f"{free / 2**30:.0f} GiB free at {Path(folder)}"
