"""compute-sanitizer's memcheck over one small shape of each operation's kernels, on a machine with CUDA.

Kernels are first compiled in a run of their own. PyTorch does not pool memory here, so that a read or write beyond a
tensor's end is one beyond an allocation's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

TOOL = "compute-sanitizer"
SMALL = ("T500", "N500", "B3", "B64")
"""How the name of a problem begins that is run: 500 tokens, or one step."""


def tool() -> str | None:
    """compute-sanitizer on the path, in CUDA_HOME, beside nvcc, or in the usual folders of CUDA."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    homes += [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    homes += sorted(glob("/usr/local/cuda*"), reverse=True)
    parts = ("bin", "compute-sanitizer", "extras/compute-sanitizer")
    places = [f"{home}/{part}" for home in homes if home for part in parts]
    return shutil.which(TOOL) or shutil.which(TOOL, path=os.pathsep.join(places))


def run_each() -> None:
    """One call, with its backward pass, of each operation, at widths that fill no tile where it has such."""
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    import gpu_problems

    seen: set[str] = set()
    for configuration in sorted(gpu_problems.CONFIGURATIONS, key=lambda c: "100" not in c.widths):
        if configuration.operation in seen:
            continue
        seen.add(configuration.operation)
        problem = next(p for p in configuration.problems() if p.name.startswith(SMALL))
        gpu_problems.run_kernels(configuration, problem)
        torch.cuda.synchronize()
        print(f"{configuration}, {problem.name}", flush=True)


def main() -> int:
    import torch

    if not torch.cuda.is_available():
        print("memcheck needs a CUDA device")
        return 1
    sanitizer = tool()
    if sanitizer is None:
        print(f"{TOOL} is not on the path, nor in CUDA_HOME or /usr/local/cuda*: it comes with the CUDA toolkit")
        return 1
    itself = [sys.executable, __file__, "--calls"]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    subprocess.run(itself, check=True, env=environment, stdout=subprocess.DEVNULL)
    checked = [sanitizer, "--tool", "memcheck", "--error-exitcode", "99", "--print-limit", "20", *itself]
    return subprocess.run(checked, check=False, env=environment).returncode


if __name__ == "__main__":
    if "--calls" in sys.argv:
        run_each()
    else:
        sys.exit(main())
