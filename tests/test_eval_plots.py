"""Pictures: SVG that takes its colours from the page, and PNG that keeps its pixels."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from eval.plots import (
    Curve,
    DotRow,
    curve_panel,
    dot_plot,
    graph_picture,
    node_colour,
    png_uri,
    shared_range,
)
from topology.graph import ring

pytestmark = pytest.mark.system

NOTHING = np.array([np.nan, np.nan])


def curve(*values: float, colour: str = "n0") -> Curve:
    """A curve over cycles 0, 1, and so on."""
    return Curve(np.arange(len(values), dtype=np.float64), np.array(values), colour)


def parse(svg: str) -> ET.Element:
    """The SVG as a tree, with the one prefix it leans on declared as an HTML parser would."""
    return ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))  # noqa: S314 - our own drawing


def test_colours_are_the_pages_and_none_is_fixed() -> None:
    """So one drawing follows the light and the dark scheme."""
    svg = curve_panel([curve(1.0, 2.0, colour="loss-d")], (0.0, 3.0))
    assert "var(--loss-d)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg.lower().replace("url(#", ""))
    assert "font-family" not in svg


def test_a_curve_of_thousands_of_points_is_thinned_to_means() -> None:
    """A run of 80 epochs must not make a report of megabytes."""
    long = Curve(np.arange(20_000.0), np.tile([0.0, 2.0], 10_000), "n1")
    svg = curve_panel([long], (0.0, 2.0))
    assert len(svg) < 15_000
    assert shared_range([long])[1] < 1.2


def test_gaps_and_empty_curves_are_drawn() -> None:
    """A node that never listened has a curve without a point."""
    parse(curve_panel([Curve(np.array([1.0, 2.0]), NOTHING, "n0"), curve(1.0, np.nan, 2.0)], (0.0, 3.0)))
    assert shared_range([Curve(np.array([1.0, 2.0]), NOTHING, "n0")]) == (0.0, 1.0)
    assert shared_range([]) == (0.0, 1.0)


def test_one_spike_does_not_flatten_the_panels() -> None:
    """The shared range leaves out the highest half per cent."""
    low, high = shared_range([curve(*([1.0] * 150), 1e6, *([1.5] * 149))])
    assert low <= 1.0
    assert 1.5 <= high < 10


def test_a_constant_curve_has_a_range() -> None:
    """An axis needs two ends."""
    low, high = shared_range([curve(2.0, 2.0)])
    assert low < 2.0 < high


@pytest.mark.parametrize("nodes", [3, 12, 13, 61, 81])
def test_graphs_of_any_size_are_drawn(nodes: int) -> None:
    """Every edge in two halves; names as long as they fit."""
    graph = ring(nodes)
    svg = graph_picture(graph.ids, graph.edges, {1: {2: 70, nodes: 30}})
    tree = parse(svg)
    names = [text.text for text in tree.iter("text")]
    assert svg.count("stroke-opacity: 0.75") == 2 * nodes
    assert (str(nodes) in names) == (nodes <= 60)
    assert ("70" in names) == (nodes <= 12)


def test_a_node_alone_is_drawn() -> None:
    """No edge, no choice."""
    parse(graph_picture([7], [], {}))


def test_choices_of_none_are_drawn_thin() -> None:
    """Counts of zero divide by nothing."""
    assert "stroke-width: 6" not in graph_picture([1, 2], [(1, 2)], {1: {2: 0}})


def test_labels_are_text_and_never_formulas_or_markup() -> None:
    """A run's name may hold anything, also letters that the plotting font lacks."""
    label = "<b>$\\frac{1}$ & 漢字"
    tree = parse(
        dot_plot([DotRow(label, [1.0, 2.0], "alone"), DotRow("x", [], "gain", hollow=True)], "error in %")
    )
    assert label in [text.text for text in tree.iter("text")]


def test_the_same_drawing_is_the_same_text() -> None:
    """No time and no random ids."""
    assert curve_panel([curve(1.0, 2.0)], (0, 3)) == curve_panel([curve(1.0, 2.0)], (0, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_enlarged_by_whole_pixels(channels: int) -> None:
    """Nearest neighbour: no grey appears between black and white."""
    picture = np.zeros((10, 100, channels), np.uint8)
    picture[::2] = 255
    data = base64.b64decode(png_uri(picture).removeprefix("data:image/png;base64,"))
    image = Image.open(io.BytesIO(data))
    assert image.size == (300, 30)
    assert set(np.unique(np.asarray(image))) == {0, 255}


def test_node_colours_start_again_after_ten() -> None:
    """The eleventh node has the first one's colour."""
    assert node_colour(10) == node_colour(0) == "n0"
