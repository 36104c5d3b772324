"""The delta rule's kernels compile for a Hopper GPU, without one, within the resources recorded for them."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

offline = pytest.importorskip("offline", reason="Triton is not installed")

from hybridlab.kernels.delta_rule import scalar_launch, step_triton  # noqa: E402

FILE = Path(__file__).with_name("delta_rule_budgets.json")
KERNELS = {
    scalar_launch: ("invert_chunks", "forward_scan", "backward_scan", "chunk_gradients"),
    step_triton: ("step_kernel",),
}
ROOM = 1.1  # another patch release of the compiler may move a few registers


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Configuration:
    """A kind of decay at a dtype and widths; few: so few heads that scans take narrow blocks; `slow` ones are left to
    their own make target.
    """

    kind: str
    dtype: torch.dtype = torch.bfloat16
    K: int = 128
    V: int = 128
    few: bool = False
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {str(self.dtype)[6:]} K{self.K} V{self.V}{' few heads' if self.few else ''}"

    def launches(self) -> dict[str, offline.Launch]:
        """Each launch of a forward pass alone, of a forward and a backward pass, and of one step, by its kernel."""
        B, T, H = 2, 4096, 16
        q, v = tensor(B, T, H, self.K, dtype=self.dtype), tensor(B, T, H, self.V, dtype=self.dtype)
        beta = tensor(B, T, H, dtype=self.dtype)
        decay = {"head": tensor(H), "token": tensor(B, T, H)}.get(self.kind)
        x = scalar_launch.DeltaInputs(q, q, v, decay, self.kind, None, 0.125, None, beta)  # pyright: ignore
        made: list[offline.Launch] = []
        with ExitStack() as stack:
            for module, names in KERNELS.items():
                for name in names:
                    stack.enter_context(patch.object(module, name, offline.Recorder(getattr(module, name), made)))
            room = 1000 if self.few else 1
            stack.enter_context(patch.object(scalar_launch, "multiprocessors", lambda device: room))
            scalar_launch.run_forward(x, None, False, keep=False)
            kept = scalar_launch.run_forward(x, None, False, keep=True)[2]
            scalar_launch.run_backward(x, None, v, None, kept)
            now = decay if self.kind != "token" or decay is None else decay[:, 0]
            one = (q[:, 0], q[:, 0], v[:, 0], beta[:, 0], tensor(B, H, self.K, self.V), now, self.kind, 0.125)
            step_triton._run(*one)
        return {named(launch): launch for launch in made}


def named(launch: offline.Launch) -> str:
    keeps = launch.kernel.__name__ == "forward_scan" and launch.arguments["states"] is not None
    return launch.kernel.__name__ + (" keeping" if keeps else "")


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CONFIGURATIONS = (
    *(Configuration(kind) for kind in ("none", "token")),
    Configuration("token", FP16, slow=True),
    Configuration("head", slow=True),
    *(Configuration(kind, K=64, V=64, slow=True) for kind in ("none", "token")),
    *(Configuration(kind, few=True, slow=True) for kind in ("none", "token")),
    *(Configuration("token", K=width, V=width, slow=True) for width in (16, 32, 256)),
    Configuration("token", K=96, V=80, slow=True),
    *(Configuration("token", FP32, width, width, slow=True) for width in (32, 64, 128, 256)),
)


def marked(configuration: Configuration):
    return pytest.param(configuration, marks=[pytest.mark.slow] if configuration.slow else [], id=str(configuration))


@pytest.mark.parametrize("configuration", map(marked, CONFIGURATIONS))
def test_kernels_compile_within_their_budgets(configuration: Configuration) -> None:
    budgets = json.loads(FILE.read_text())[str(configuration)]
    launches = configuration.launches()
    assert launches.keys() == budgets.keys()
    for name, launch in launches.items():
        taken = asdict(offline.compiled(launch))
        beyond = {what: n for what, n in taken.items() if n > ROOM * budgets[name][what]}
        assert not beyond, f"{name} takes {beyond}, budget {budgets[name]}"


def test_no_fast_configuration_spills_more_than_a_few_registers() -> None:
    """What is spilled at all is in the budgets; at the widths models use it must stay out of the time."""
    budgets = json.loads(FILE.read_text())
    for kind in ("none", "token"):
        for width in (64, 128):
            spilled = {name: taken["spilled"] for name, taken in budgets[f"{kind} bfloat16 K{width} V{width}"].items()}
            assert max(spilled.values()) <= 80, spilled  # bytes a thread


if __name__ == "__main__":
    found = {str(c): {name: asdict(offline.compiled(x)) for name, x in c.launches().items()} for c in CONFIGURATIONS}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
