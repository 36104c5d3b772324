"""Makes ``--model hybridlab`` known to lm-eval's own command line.

lm-eval (0.4.13) takes models from a table in its own source and loads no plug-ins. What its process does load is
PyTorch, and PyTorch calls every function that an installed package declares under the entry point group
``torch.backends``, its documented way of loading extensions. Ours is ``register``: in a process that is lm-eval it
adds one lazy line to lm-eval's registry, in every other it returns at once. Nothing of hybridlab is imported before
that line is used.
"""

import importlib
import sys

TARGET = "hybridlab.platform.lm_eval_model:HybridLabLM"


def register() -> None:
    """Add ``hybridlab`` to lm-eval's models if this process has imported lm-eval. Never raises: it runs inside
    ``import torch``."""
    if "lm_eval" not in sys.modules:
        return
    try:
        importlib.import_module("lm_eval.models")
        registry = importlib.import_module("lm_eval.api.registry").model_registry
        if "hybridlab" not in registry:
            registry.register("hybridlab", target=TARGET)
    except (ImportError, AttributeError, ValueError):
        return  # another lm-eval, or one in the middle of its own import: its own error names the models it has
