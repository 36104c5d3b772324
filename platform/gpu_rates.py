"""How long one operation takes on a GPU: interpolated between what was measured there (kernels/benchmarks/rates.py).

No GPU has rates but those of a file that was measured on it.
"""

import json
import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from ..architectures import InvalidInput, Operation
from ..kernels import liger_chunk

PREFIX, SUFFIX = "rates_", ".json"
_FOLDER = files("hybridlab.kernels.benchmarks")


def measured_gpus() -> list[str]:
    """The names that ``load_rates`` knows, sorted."""
    names = [path.name for path in _FOLDER.iterdir() if path.name.endswith(SUFFIX)]
    return sorted(name[len(PREFIX) : -len(SUFFIX)] for name in names if name.startswith(PREFIX))


@cache
def load_rates(gpu: str) -> "Rates":
    """The rates measured on a GPU of that name (any case); InvalidInput for one that nobody measured."""
    name = gpu.lower()
    if name not in measured_gpus():
        raise InvalidInput(
            f"no rates were measured on {gpu!r}, only on {', '.join(measured_gpus()) or 'none'}; "
            f"on one, `hybridlab bench rates --output rates_{name}.json` measures them"
        )
    kernels = _FOLDER / f"{name}{SUFFIX}"
    rows = json.loads(kernels.read_text())["rows"] if kernels.is_file() else []
    return Rates(json.loads((_FOLDER / f"{PREFIX}{name}{SUFFIX}").read_text()), rows)


def rates_of(full_name: str) -> "Rates":
    """The rates measured on a GPU that calls itself so; InvalidInput if there are none."""
    for name in measured_gpus():
        if load_rates(name).gpu == full_name:
            return load_rates(name)
    raise InvalidInput(
        f"no rates were measured on a {full_name!r}, only on {', '.join(measured_gpus()) or 'none'}; "
        f"`hybridlab bench rates --output rates.json` measures them, and --rates reads them"
    )


class Curve:
    """Seconds over an amount, linear between measured points on logarithmic axes; beyond the last, at its rate."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        points = sorted((float(row[0]), float(row[-1])) for row in rows)
        self.amounts = [amount for amount, _ in points]
        self.seconds = [seconds for _, seconds in points]

    def at(self, amount: float) -> float:
        """Never less than at the smallest amount."""
        amounts, seconds = self.amounts, self.seconds
        if amount <= amounts[0]:
            return seconds[0]
        if amount >= amounts[-1]:
            return seconds[-1] * amount / amounts[-1]
        i = bisect_left(amounts, amount)
        share = math.log(amount / amounts[i - 1]) / math.log(amounts[i] / amounts[i - 1])
        return seconds[i - 1] * (seconds[i] / seconds[i - 1]) ** share


class Grid:
    """Seconds over (M, N, K), linear between the corners of a cell on logarithmic axes; beyond the grid, at the rate of
    its edge."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self.known = {tuple(int(x) for x in row[:3]): row[3] for row in rows}
        self.axes = [sorted({sizes[axis] for sizes in self.known}) for axis in range(3)]

    def at(self, M: int, N: int, K: int) -> float:
        cell, beyond = [], 1.0
        for size, axis in zip((M, N, K), self.axes, strict=True):
            inside = min(max(size, axis[0]), axis[-1])
            beyond *= max(1.0, size / inside)
            i = max(1, bisect_left(axis, inside))
            low, high = axis[i - 1], axis[i]
            cell.append((low, high, math.log(inside / low) / math.log(high / low)))
        total = 0.0
        for corner in range(8):
            sizes = tuple(side[1 if corner >> n & 1 else 0] for n, side in enumerate(cell))
            weight = math.prod(side[2] if corner >> n & 1 else 1 - side[2] for n, side in enumerate(cell))
            if weight:
                total += weight * math.log(self._corner(sizes))
        return math.exp(total) * beyond

    def _corner(self, sizes: tuple[int, ...]) -> float:
        """The time at a point of the grid; one that was too large to measure takes the rate of the largest below."""
        if sizes in self.known:
            return self.known[sizes]
        below = [known for known in self.known if all(a <= b for a, b in zip(known, sizes, strict=True))]
        nearest = max(below, key=math.prod)
        return self.known[nearest] * math.prod(sizes) / math.prod(nearest)


class Rates:
    """One GPU's measurements."""

    def __init__(self, measured: dict[str, Any], kernels: Sequence[dict[str, Any]] = ()) -> None:
        """``measured`` by `bench rates`; ``kernels``, rows of `bench kernels`, for operators that it leaves out."""
        self.measured = measured
        self.kernels = [row for row in kernels if row.get("forward_backward_ms")]

    @cached_property
    def operators(self) -> list[dict[str, Any]]:
        """Measured rows of this project's operators."""
        rows = list(self.measured["operators"])
        known = {(row["operator"], row.get("products")) for row in rows}
        hosts = [row for row in rows if row["operator"] == "gated_linear_attention"]
        host = {side: statistics.median(row[side] for row in hosts) for side in ("host_forward", "host_backward")}
        made = [_row_of_kernel(row) for row in self.kernels]
        made = [row for row in made if row is not None and (row["operator"], row["products"]) not in known]
        return rows + [row | host for row in made]

    @property
    def layers(self) -> dict[str, dict[str, float]]:
        """The host's seconds for each layer (layer_rates.py)."""
        return self.measured.get("layers", {})

    @property
    def gpu(self) -> str:
        """Its full name."""
        return self.measured["gpu"]

    @cached_property
    def memory(self) -> dict[str, Curve]:
        """By family of operations that are bound by memory."""
        return {family: Curve(rows) for family, rows in self.measured["memory"].items()}

    @cached_property
    def matmul(self) -> Grid:
        """Products as linear layers have them."""
        return Grid(self.measured["matmul"])

    @cached_property
    def gradient_matmul(self) -> Grid:
        """Products that sum over tokens."""
        return Grid(self.measured["gradient_matmul"])

    @property
    def launch(self) -> float:
        """The device's least time for an operation, in a graph."""
        return self.measured["host"]["in_graph"]

    @property
    def gap(self) -> float:
        """What the device loses between two operations that are launched one by one."""
        return self.measured["host"]["gap"]

    @property
    def graph_launch(self) -> float:
        """What it takes to start a graph."""
        return self.measured["host"]["graph_launch"]

    def seconds(self, operation: Operation, tokens: int) -> float:
        """The device's time for one operation, in a step over ``tokens`` tokens."""
        namespace, name = operation.name.split(".")
        if namespace == "hybridlab":
            if name == "linear_cross_entropy":
                return self._loss(operation)
            found = self.operator(operation)
            if found is not None:
                return found[0]
        elif name in _PRODUCTS:
            return max(self._product(operation, name, tokens), self.launch)
        elif "attention" in name:
            return self._attention(operation, name)
        return self._memory(operation, name)

    def _memory(self, operation: Operation, name: str) -> float:
        moved = operation.read + operation.written
        family = _FAMILIES.get(name, "pointwise" if operation.dense else "views")
        if name in _GATHERS:  # they read what they write, not all of their source
            moved = 2 * operation.written
        elif name == "sum" and _over_last(operation):
            family = "sum_last"
        elif name == "nll_loss_forward":
            moved = 0
        elif name == "nll_loss_backward":
            moved = operation.written
        elif name == "embedding_dense_backward":
            moved = operation.read
        return self.memory[family].at(moved)

    def _product(self, operation: Operation, name: str, tokens: int) -> float:
        shapes = [shape for shape in operation.shapes if len(shape) > 1]
        if len(shapes) < 2:
            return self._memory(operation, name)
        a, b = shapes[-2:] if name in ("addmm", "baddbmm") else shapes[:2]
        M, K, N = a[-2], a[-1], b[-1]
        moved = self.memory["pointwise"].at(operation.read + operation.written)
        if name == "_grouped_mm":
            return self._grouped(operation, a, b)
        if operation.backward and tokens == K:
            return self.gradient_matmul.at(M, N, K)
        if len(a) == 3:
            return max(self.matmul.at(a[0] * M, N, K), moved)
        return self.matmul.at(M, N, K)

    def _grouped(self, operation: Operation, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        """Rows through their experts; experts that no row can have gone to are not read."""
        M, K, N = a[-2], a[-1], b[-1]
        moved = operation.read + operation.written
        if len(b) == 3:
            moved -= max(0, b[0] - M) * K * N * operation.dtype.itemsize
        grid = self.gradient_matmul if len(a) == len(b) == 2 else self.matmul
        return max(grid.at(M, N, K), self.memory["pointwise"].at(moved))

    def _loss(self, operation: Operation) -> float:
        """From its parts, by as much more or less as these are off where the loss itself was measured."""
        (N, D), V = operation.shapes[0], operation.shapes[1][0]
        whole = next((row for row in self.kernels if row["op"] == "loss"), None)
        if whole is None:
            return self._parts_of_loss(N, D, V)
        measured, sizes = whole["forward_backward_ms"] * 1e-3, _sizes(whole["shape"])
        return measured * self._parts_of_loss(N, D, V) / self._parts_of_loss(sizes["N"], sizes["D"], sizes["V"])

    def _parts_of_loss(self, N: int, D: int, V: int) -> float:
        """Products with a chunk of logits, which are read twice and overwritten once, and the sum of the head's
        gradient in fp32."""
        _, chunk = liger_chunk(N, D, V)
        products = self.matmul.at(chunk, V, D) + self.matmul.at(chunk, D, V) + self.gradient_matmul.at(V, D, chunk)
        passes = self.memory["softmax"].at(6 * chunk * V) + self.memory["pointwise_fp32"].at(8 * V * D)
        return -(-N // chunk) * (products + passes)

    def is_measured(self, operation: Operation) -> bool:
        """Whether an operator of this project is timed by a measurement of its own. One step of a recurrence reads and
        writes its state and is timed by these bytes; so is, too fast, what nobody has measured."""
        name = operation.name.removeprefix("hybridlab.")
        ours = name != operation.name and name != "linear_cross_entropy" and not name.endswith("_step")
        return not ours or self.operator(operation) is not None

    def _attention(self, operation: Operation, name: str) -> float:
        backward = "backward" in name
        q, k = operation.shapes[1 if backward else 0], operation.shapes[2 if backward else 1]
        rows, T, S, K = math.prod(q[:-2]), q[-2], k[-2], q[-1]
        if T == 1 or S != T:
            return self._masked_attention(rows, T, S, K, backward)
        measured = self.measured["attention"]
        width = min({row[0] for row in measured}, key=lambda known: abs(math.log(known / K)))

        def per_product(row: Sequence[float]) -> float:
            seconds = row[4] - row[3] if backward else row[3]
            return seconds / (row[2] * row[1] ** 2)

        lengths: dict[float, float] = {}
        for row in measured:
            if row[0] == width:
                lengths[row[1]] = min(lengths.get(row[1], math.inf), per_product(row))
        points = sorted(lengths.items())
        length = min(max(T, points[0][0]), points[-1][0])
        i = max(1, bisect_left([point[0] for point in points], length))
        (low, at_low), (high, at_high) = points[i - 1], points[i]
        share = math.log(length / low) / math.log(high / low)
        each = at_low * (at_high / at_low) ** share
        causal = 1.0 if any(option is True for option in operation.options) else 2.0
        return max(each * rows * T * T * K / width * causal, self.launch)

    def _masked_attention(self, rows: int, T: int, S: int, K: int, backward: bool) -> float:
        def distance(row: Sequence[float]) -> float:
            pairs = ((row[0], K), (row[1], T), (row[2], S), (row[3], rows))
            return sum(abs(math.log(known / asked)) for known, asked in pairs)

        row = min((r for r in self.measured["masked_attention"] if r[1] > 1 or not backward), key=distance)
        work = rows * S * K * max(T / row[1], 1.0) / (row[3] * row[2] * row[0])
        return (row[5] - row[4] if backward else row[4]) * max(work, 0.1)

    def operator(self, operation: Operation) -> tuple[float, float] | None:
        """(device seconds, host seconds) of one of this project's operators, by the measured row that is most like it;
        None where none is."""
        backward = operation.name.endswith("_backward")
        asked = _asked(operation)
        if asked is None:
            return None
        fixed, sizes, work = asked
        rows = [r for r in self.operators if all(r.get(name) == value for name, value in fixed.items())]
        if not rows:
            return None
        row = min(rows, key=lambda r: sum(abs(math.log(r[name] / size)) for name, size in sizes.items()))
        device = row["both"] - row["forward"] if backward else row["forward"]
        host = row["host_backward"] if backward else row["host_forward"]
        return max(device * work / row["work"], self.launch), host

    def host_seconds(self, operation: Operation) -> float:
        """The host's time to launch one operation of a training step."""
        if operation.name.startswith("hybridlab."):
            found = self.operator(operation)
            if found is not None:
                return found[1]
        return self.measured["host"]["backward" if operation.backward else "forward"]

    def optimizer_seconds(self, parameters: int, tensors: int) -> tuple[float, float]:
        """(device seconds, host seconds) of clipping the gradient and one step of fused AdamW."""
        rows = self.measured["optimizer"]
        largest = max(rows, key=lambda row: row[0])
        few, many = sorted(rows, key=lambda row: (row[0] / row[1], row[1]))[:2]
        slope = max(0.0, (many[2] - few[2]) / (many[1] - few[1]))
        return largest[3] * parameters / largest[0], few[2] + slope * (tensors - few[1])


def _asked(operation: Operation) -> tuple[dict[str, Any], dict[str, float], float] | None:
    """(what a row must be, the sizes it should be near, the work) of one of this project's operators."""
    name = operation.name.removeprefix("hybridlab.").removesuffix("_backward")
    shapes = operation.shapes[1:] if operation.name.endswith("_backward") else operation.shapes
    if name == "gated_linear_attention":
        q, v = shapes[0], shapes[2]
        (B, T, H, V), K = v, q[-1]
        kind = next(option for option in operation.options if isinstance(option, str))
        fixed = {"operator": name, "kind": kind}
        return fixed, {"K": K, "V": V, "H": H, "groups": q[2]}, 4.0 * B * T * H * K * V
    if name == "selective_scan":
        (B, T, D), N = shapes[0], shapes[2][-1]
        return {"operator": name}, {"N": N, "D": D}, 4.0 * B * T * D * N
    if name == "short_convolution":
        return {"operator": name}, {"D": shapes[0][-1]}, 2.0 * 2 * math.prod(shapes[0])
    if name == "norm":
        gate = next(option for option in operation.options if isinstance(option, str))
        rows, itemsize = math.prod(shapes[0]), operation.dtype.itemsize
        arrays = 3 if gate != "none" else 2
        size = shapes[-1][-1] if len(shapes[-1]) == 1 else shapes[0][-1]
        fixed: dict[str, Any] = {"operator": name, "gate": "none" if gate == "none" else gate}
        if gate == "none":
            fixed["bytes"] = itemsize
        return fixed, {"size": size}, float(arrays * rows * itemsize)
    if name in ("delta_rule", "delta_rule_channel"):
        (_, _, H, V), K = shapes[0], shapes[1][-1]
        backward = operation.name.endswith("_backward")
        work = operation.flops / (2 if backward else 1)
        return (
            {"operator": name},
            {"K": K, "V": V, "H": H, "products": work / (H * K * V * math.prod(shapes[0][:2]))},
            work,
        )
    return None


_OPERATOR_OF_KERNEL = {
    "delta_rule": ("delta_rule", 6),
    "gated_delta_rule": ("delta_rule", 6),
    "kda": ("delta_rule_channel", 6),
    "rwkv7": ("delta_rule_channel", 8),
}
"""By a row's name in the kernel benchmark: the operator, and its FLOPs per token, head and entry of the state."""


def _row_of_kernel(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row of `bench kernels` as one of `bench rates`, but for the host's time."""
    if row["op"] not in _OPERATOR_OF_KERNEL:
        return None
    operator, products = _OPERATOR_OF_KERNEL[row["op"]]
    sizes = _sizes(row["shape"])
    B, T, H, D = (sizes[name] for name in "BTHD")
    seconds = {"forward": row["forward_ms"] * 1e-3, "both": row["forward_backward_ms"] * 1e-3}
    work = products * B * T * H * D * D
    return {"operator": operator, "H": H, "K": D, "V": D, "products": products, "work": work, **seconds}


def _sizes(shape: str) -> dict[str, int]:
    """``B8 T4096`` as {"B": 8, "T": 4096}."""
    return {part[0]: int(part[1:]) for part in shape.split()}


def _over_last(operation: Operation) -> bool:
    """Whether a sum runs along its argument's last axis, by the size of what it gives."""
    shape = operation.shapes[0]
    return bool(shape) and operation.written == math.prod(shape[:-1]) * operation.dtype.itemsize


_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm", "_grouped_mm"))
_GATHERS = frozenset(("embedding", "index", "gather", "index_select"))
_FAMILIES = {
    "_to_copy": "cast",
    "cat": "cat",
    "stack": "cat",
    "clone": "strided",
    "copy_": "strided",
    "sum": "sum_rows",
    "mean": "sum_rows",
    "native_layer_norm": "normalize",
    "native_layer_norm_backward": "normalize",
    "native_group_norm": "normalize",
    "native_group_norm_backward": "normalize",
    "_log_softmax": "softmax",
    "_softmax": "softmax",
    "_log_softmax_backward_data": "softmax_backward",
    "_softmax_backward_data": "softmax_backward",
    "embedding": "embedding",
    "embedding_dense_backward": "embedding_backward",
    "index": "gather",
    "gather": "gather",
    "index_add": "index_add",
    "index_put": "index_add",
    "sort": "sort",
    "topk": "topk",
}
