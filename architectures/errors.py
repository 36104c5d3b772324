"""What a user got wrong, said in one line: the thing, its value, and what would be right."""

import difflib
from collections.abc import Iterable


class InvalidInput(ValueError):
    """A mistake the user can mend: the command line prints its one line and exits with code 2."""


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of an error line for an unknown ``name``: the closest of ``options``, or all of them if none is close."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(options)}"
