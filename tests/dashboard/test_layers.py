import itertools
from typing import Any

import numpy as np
import pytest
from hybridlab.architectures import InvalidInput, layer_names
from hybridlab.dashboard.layers import cells, readable, strips_figure
from hybridlab.dashboard.palette import MARKS, PLAIN, marks

MACHADO = {  # severity 1.0, on linear RGB: Machado, Oliveira and Fernandes 2009, table 1
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB (D65) of a hexadecimal sRGB colour as one kind of vision sees it."""
    channel = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(MACHADO[vision]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    xyz = xyz / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", MACHADO)
def test_plain_colours_stay_apart(vision):
    for one, other in itertools.combinations(PLAIN, 2):
        distance = np.linalg.norm(lab(PLAIN[one], vision) - lab(PLAIN[other], vision))
        assert distance >= 14, f"{one} and {other} look alike"


def test_every_kind_has_a_mark_of_its_own():
    assert len(set(MARKS.values())) == len(MARKS)
    chosen = marks([*layer_names(), "new_mixer", "another", "third"])
    assert len(set(chosen.values())) == len(chosen)


def test_a_new_kind_keeps_its_mark_whatever_stands_beside_it():
    assert marks(["new_mixer"])["new_mixer"] == marks(["attn", "new_mixer", "mamba2"])["new_mixer"]


def test_a_strip_has_one_cell_a_layer_in_order():
    strip = cells("model", "(mamba2 mlp)*2 attn@a")
    assert [cell.kind for cell in strip] == ["mamba2", "mlp", "mamba2", "mlp", "attn"]
    assert [cell.sublayer for cell in strip] == [0, 1, 2, 3, 4]
    assert [cell.label for cell in strip] == ["", "", "", "", "a"]


def test_parallel_layers_share_a_sublayer():
    strip = cells("model", "attn|mamba2 mlp")
    assert [(cell.sublayer, cell.branch, cell.branches) for cell in strip] == [(0, 0, 2), (0, 1, 2), (1, 0, 1)]


def test_a_layer_this_version_does_not_know_is_drawn():
    assert [cell.kind for cell in cells("model", "from_the_future*2")] == ["from_the_future"] * 2


def test_a_pattern_that_cannot_be_read_is_told_and_stops_nothing():
    strips, unreadable = readable([("good", "attn mlp"), ("bad", "attn )("), ("none", "")])
    assert [strip[0].model for strip in strips] == ["good"]
    assert unreadable == ["bad", "none"]
    with pytest.raises(InvalidInput):
        cells("bad", "attn )(")


def test_the_figure_draws_every_cell_once_and_inside_its_row():
    strips = [cells("one", "(attn|mamba2 mlp)*2"), cells("two", "mamba2*3")]
    figure: Any = strips_figure(strips)
    bars = [(y, width) for trace in figure.data for y, width in zip(trace.y, trace.width, strict=True)]
    assert len(bars) == sum(map(len, strips))
    assert all(abs(y - round(y)) + width / 2 < 0.5 for y, width in bars)
    assert [trace.name for trace in figure.data] == ["attn", "mamba2", "mlp"]


def test_two_models_of_one_name_have_two_rows():
    figure: Any = strips_figure([cells("same", "attn"), cells("same", "mamba2")])
    assert len(figure.layout.yaxis.tickvals) == 2


def test_names_are_escaped_in_the_figure():
    text = str(strips_figure([cells("<b>x</b>", "attn")]).to_json())
    assert "<b>x" not in text.replace("\\u003c", "<")
    assert "&lt;b&gt;x" in text
