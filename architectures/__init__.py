"""Architectures: the pattern language, the layers, the model, what each costs, and the mixes that others published."""

from . import mixers
from .bill import Bill, bill
from .errors import InvalidInput, nearest
from .layer import Layer, LayerConfig, State, layer_config, layer_names
from .matching import Budget, Match, match
from .mixes import Mix
from .model import HybridModel, ModelState
from .model_config import ModelConfig
from .pattern import Pattern, Sublayer, Use, parse_pattern
from .published import Published, load_published, published_names
from .rehearsal import Operation, Rehearsal, rehearse
from .steps import Step, begin

__all__ = [
    "Bill",
    "Budget",
    "HybridModel",
    "InvalidInput",
    "Layer",
    "LayerConfig",
    "Match",
    "Mix",
    "ModelConfig",
    "ModelState",
    "Operation",
    "Pattern",
    "Published",
    "Rehearsal",
    "State",
    "Step",
    "Sublayer",
    "Use",
    "begin",
    "bill",
    "layer_config",
    "layer_names",
    "load_published",
    "match",
    "mixers",
    "nearest",
    "parse_pattern",
    "published_names",
    "rehearse",
]
