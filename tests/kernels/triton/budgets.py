"""The shipped configurations, and the resources each kernel may take: `python budgets.py` writes what they take now."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from offline import Launch, Resources, compiled, launches_of

FILE = Path(__file__).with_name("budgets.json")


@dataclass(frozen=True)
class Configuration:
    """A kind of decay at a dtype and widths; `slow` ones are left to their own make target."""

    kind: str
    dtype: torch.dtype = torch.bfloat16
    K: int = 128
    V: int = 128
    bonus: bool = False
    group: int = 1
    normalize: bool = False
    value_scale: bool = False
    tokens: int | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        group = f" G{self.group}" if self.group > 1 else ""
        extra = ("+bonus" if self.bonus else "") + ("+normaliser" if self.normalize else "")
        extra += "+value_scale" if self.value_scale else ""
        extra += f" T{self.tokens}" if self.tokens else ""
        return f"{self.kind}{extra} {str(self.dtype)[6:]} K{self.K} V{self.V}{group}"

    def launches(self) -> dict[str, Launch]:
        """Each launch by the kernel's name and what tells two launches of it apart."""
        named = {}
        options = {
            "bonus": self.bonus,
            "group": self.group,
            "normalize": self.normalize,
            "value_scale": self.value_scale,
            "tokens": self.tokens,
        }
        for launch in launches_of(self.kind, self.dtype, self.K, self.V, **options):
            roles = {0: " keys", 1: " values"}.get(launch.arguments.get("ROLES", 2), "")
            exact = " exact" if launch.arguments.get("EXACT") else ""
            named[launch.kernel.__name__ + roles + exact] = launch
        return named


CONFIGURATIONS = (
    *(Configuration(kind) for kind in ("none", "head", "token", "channel")),
    Configuration("token", V=64, group=16),
    Configuration("token", V=64, group=16, value_scale=True),
    *(Configuration("token", K=width, V=width, tokens=T) for width in (64, 128) for T in (512, 4096)),
    Configuration("token", V=64, group=16, value_scale=True, tokens=512),
    Configuration("none", normalize=True),
    *(Configuration("none", K=width, V=width, normalize=True, slow=True) for width in (64, 256)),
    *(Configuration("token", torch.float32, K, K, normalize=True, slow=True) for K in (64, 128)),
    Configuration("token", V=64, slow=True),
    Configuration("channel", bonus=True, slow=True),
    *(Configuration(kind, tokens=T, slow=True) for kind in ("none", "head", "channel") for T in (512, 4096)),
    *(Configuration("token", K=256, V=256, tokens=T, slow=True) for T in (512, 4096)),
    *(Configuration(kind, torch.float32, 64, 64, tokens=4096, slow=True) for kind in ("token", "channel")),
    Configuration("none", normalize=True, tokens=4096, slow=True),
    *(Configuration(kind, K=64, V=64, slow=True) for kind in ("none", "head", "token", "channel")),
    *(Configuration(kind, K=256, V=256, slow=True) for kind in ("token", "channel")),
    *(Configuration(kind, torch.float32, 64, 64, slow=True) for kind in ("token", "channel")),
)


def budget(configuration: Configuration) -> dict[str, Resources]:
    recorded = json.loads(FILE.read_text())[configuration.name]
    return {kernel: Resources(**numbers) for kernel, numbers in recorded.items()}


if __name__ == "__main__":
    taken = {c.name: {k: asdict(compiled(launch)) for k, launch in c.launches().items()} for c in CONFIGURATIONS}
    FILE.write_text(json.dumps(taken, indent=1) + "\n")
