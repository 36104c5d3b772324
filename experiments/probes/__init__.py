"""Probes: small tasks whose examples are drawn, each asking for one ability."""

from .copying import Copying, CopyingConfig
from .induction import Induction, InductionConfig
from .recall import MultiQueryRecall, RecallConfig
from .selective_copying import SelectiveCopying, SelectiveCopyingConfig

__all__ = [
    "Copying",
    "CopyingConfig",
    "Induction",
    "InductionConfig",
    "MultiQueryRecall",
    "RecallConfig",
    "SelectiveCopying",
    "SelectiveCopyingConfig",
]
