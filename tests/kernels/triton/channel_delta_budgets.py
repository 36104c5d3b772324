"""The shipped configurations of the delta rules with a decay per channel, and the resources their kernels may take.

`python channel_delta_budgets.py` writes what they take now.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from hybridlab.kernels.delta_rule import channel_passes, dplr_step_triton
from offline import Launch, Recorder, Resources, compiled

FILE = Path(__file__).with_suffix(".json")
KERNELS = {
    channel_passes: (
        "channel_scores",
        "solve",
        "solve_backward",
        "scan_states",
        "read_states",
        "channel_gradients",
        "exact_gradients",
        "beta_gradients",
    ),
    dplr_step_triton: ("dplr_step_kernel",),
}


@dataclass(frozen=True)
class Configuration:
    """A rule at a dtype and widths; `slow` ones are left to their own make target."""

    rule: str
    dtype: torch.dtype = torch.bfloat16
    K: int = 128
    V: int = 128
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.rule} {str(self.dtype)[6:]} K{self.K} V{self.V}"

    def launches(self) -> dict[str, Launch]:
        """Each launch of a forward and a backward pass, and dplr's step, by the kernel's name and form."""
        launches: list[Launch] = []
        with ExitStack() as stack:
            for module, names in KERNELS.items():
                for name in names:
                    stack.enter_context(patch.object(module, name, Recorder(getattr(module, name), launches)))
            self._call()
        named = {}
        for launch in launches:
            form = " exact" if launch.arguments.get("EXACT") else ""
            form += " backward" if launch.arguments.get("BACKWARD") else ""
            named[launch.kernel.__name__ + form] = launch
        return named

    def _call(self) -> None:
        B, T, H = 8, 4096, 16

        def tensor(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=self.dtype, device="meta")

        q, v, state = tensor(B, T, H, self.K), tensor(B, T, H, self.V), tensor(B, H, self.K, self.V).float()
        if self.rule == "delta":
            x = channel_passes.Inputs(q, None, q, None, v, tensor(B, T, H), q, 0.125, None)
        else:
            x = channel_passes.Inputs(q, q, q, q, v, None, q, 0.125, None)
            rows = [q[:, 0]] * 2
            dplr_step_triton.dplr_step_triton(*rows, v[:, 0], *rows, state, q[:, 0], 0.125)
        solved = channel_passes.run_forward(x, state, True)[2]
        channel_passes.run_backward(x, state, v, state, solved)


CONFIGURATIONS = (
    Configuration("dplr", K=64, V=64),
    Configuration("delta", slow=True),
    Configuration("delta", K=64, V=64, slow=True),
    Configuration("dplr", slow=True),
    *(Configuration("delta", K=K, V=V, slow=True) for K, V in ((16, 16), (128, 64), (64, 128))),
    *(Configuration(rule, torch.float16, 64, 64, slow=True) for rule in ("delta", "dplr")),
    *(Configuration(rule, torch.float32, 64, 64, slow=True) for rule in ("delta", "dplr")),
)


def budget(configuration: Configuration) -> dict[str, Resources]:
    recorded = json.loads(FILE.read_text())[configuration.name]
    return {kernel: Resources(**numbers) for kernel, numbers in recorded.items()}


if __name__ == "__main__":
    taken = {c.name: {k: asdict(compiled(launch)) for k, launch in c.launches().items()} for c in CONFIGURATIONS}
    FILE.write_text(json.dumps(taken, indent=1) + "\n")
