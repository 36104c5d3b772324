"""Exchange with transformers: its models of hybrid families become ours, and ours theirs, with equal logits.

One file a family in families/ says, once for both directions, how configuration and tensors correspond.
"""

from .convert import from_huggingface, to_huggingface
from .family import Family, all_families

__all__ = ["Family", "all_families", "from_huggingface", "to_huggingface"]
