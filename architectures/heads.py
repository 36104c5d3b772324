"""How a width is cut into heads, with an error line that names the nearest cut that works."""

import functools
import math
from collections.abc import Sequence

from .errors import InvalidInput

USUAL_HEAD_DIM = 64


@functools.cache
def divisors(width: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [n for n in range(1, math.isqrt(width) + 1) if width % n == 0]
    return tuple(small + [width // n for n in reversed(small) if n * n != width])


def closest(options: Sequence[int], wanted: int) -> int:
    """The one of ``options`` nearest to ``wanted``; the smaller one of two."""
    return min(options, key=lambda option: (abs(option - wanted), option))


def split_heads(
    layer: str,
    width: int,
    n_heads: int | None,
    head_dim: int | None,
    *,
    even: bool = False,
    usual: int = USUAL_HEAD_DIM,
) -> tuple[int, int]:
    """(heads, width of a head) such that their product is ``width``.

    Given neither, the width of a head is the divisor of ``width`` nearest to ``usual``. ``even`` asks for heads of even
    width, as rotations do. Raises InvalidInput naming the nearest value if what is given does not divide.
    """
    for field, value in (("n_heads", n_heads), ("head_dim", head_dim)):
        if value is not None and value < 1:
            raise InvalidInput(f"{layer}: {field}={value} must be at least 1")
    dims = [d for d in divisors(width) if not even or d % 2 == 0]
    if not dims:
        raise InvalidInput(f"{layer}: a width of {width} has no heads of even width, which rope needs")
    if n_heads is None:
        chosen = closest(dims, usual) if head_dim is None else head_dim
        if chosen not in dims:
            fault = "is odd, which rope does not allow" if width % chosen == 0 else f"does not divide the width {width}"
            raise InvalidInput(f"{layer}: head_dim={chosen} {fault}; the nearest that does is {closest(dims, chosen)}")
        return width // chosen, chosen
    if head_dim is not None and n_heads * head_dim != width:
        raise InvalidInput(f"{layer}: n_heads={n_heads} times head_dim={head_dim} is not the width {width}")
    if width % n_heads or width // n_heads not in dims:
        heads = closest([width // d for d in dims], n_heads)
        raise InvalidInput(
            f"{layer}: n_heads={n_heads} does not cut the width {width} into "
            f"{'even ' if even else ''}heads; the nearest that does is {heads}"
        )
    return n_heads, width // n_heads


def require_divides(layer: str, field: str, part: int, whole_name: str, whole: int) -> None:
    """Raises InvalidInput, with the nearest divisor, unless ``part`` (>= 1) divides ``whole``."""
    if part < 1 or whole % part:
        raise InvalidInput(
            f"{layer}: {field}={part} does not divide {whole_name}={whole}; "
            f"the nearest that does is {closest(divisors(whole), part)}"
        )
