"""Where the names of points stand in a picture, so that they cover neither each other nor a point."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top in pixels."""

LETTER, LINE, GAP, MARK, STROKE = 7.0, 17.0, 10.0, 16.0, 1.5
"""A letter's mean width, a line's height, the space between mark and name, a mark's width, half a line's, in pixels."""

SIDES = {  # Plotly's textposition: which way the name's centre lies from its mark
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
}


def place_names(
    points: list[Point], names: list[str], must: list[bool], lines: list[tuple[Point, Point]]
) -> list[str | None]:
    """For each point (in pixels, upwards) a Plotly textposition; None where a name that need not be shown has no room.

    Points that ``must`` be named come first and take the side that covers least of marks, of other names and of the
    ``lines``, which are level or upright.
    """
    taken = [_around(x, y, MARK, MARK) for x, y in points] + [_along(*line) for line in lines]
    sides: list[str | None] = [None] * len(points)
    for place in sorted(range(len(points)), key=lambda place: not must[place]):
        boxes = {side: _name_box(points[place], names[place], way) for side, way in SIDES.items()}
        covered = {side: sum(_overlap(box, other) for other in taken) for side, box in boxes.items()}
        best = min(covered, key=covered.__getitem__)
        if must[place] or covered[best] == 0:
            sides[place] = best
            taken.append(boxes[best])
    return sides


def _name_box(point: Point, name: str, way: tuple[int, int]) -> Box:
    """The rectangle of a name that stands on one side of its mark."""
    width = LETTER * len(name)
    return _around(point[0] + way[0] * (width / 2 + GAP), point[1] + way[1] * (LINE / 2 + GAP), width, LINE)


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _along(start: Point, end: Point) -> Box:
    """A level or upright line as a thin rectangle."""
    (left, right), (low, high) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    return left - STROKE, low - STROKE, right + STROKE, high + STROKE


def _overlap(a: Box, b: Box) -> float:
    """The area that both cover."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
