"""What the kernels reach on this GPU, beside the peers that are installed: `hybridlab bench kernels`."""

from .kept import NotResumable
from .rows import op_names
from .run import run_benchmarks

__all__ = ["NotResumable", "op_names", "run_benchmarks"]
