"""The pictures of reports and tables: SVG by matplotlib that takes its colours from the page, and PNG as data URIs.

    C channels, H W pixels

Every colour is drawn as a stand-in and leaves as `var(--name)`, so one drawing follows the page's light and dark
scheme, and a node has the same colour everywhere. Figures are made without pyplot: nothing global is touched.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

NODE_COLOURS = 10
"""Node colours `--n0` … `--n9` of the page; the eleventh node starts again."""
_NAMES = (
    *("ink", "muted", "rule", "page", "floor", "loss-d", "loss-g", "loss-n"),
    *("alone", "uniform", "gain", "matched", "untrained", "forgiving", "gossip", "territories"),
    *(f"n{index}" for index in range(NODE_COLOURS)),
)
_STAND_INS = {name: f"#0a00{index:02x}" for index, name in enumerate(_NAMES)}
_FONT_SIZE, _LABEL_SIZE = 8.0, 9.5  # points; pictures stand in the page at about their own size
_CIRCLE_LIMIT = 12  # nodes up to which a circle is the clearest layout and every edge can be labelled
_NAMED_LIMIT = 60  # nodes up to which a name fits into each
_SLOW_LAYOUT_LIMIT = 80  # Kamada-Kawai grows with the cube of the nodes
_STYLE = Path(__file__).parent / "templates" / "report.css"  # opens with the colours
_POINTS = 200  # of one curve; more cannot be seen in a panel


@dataclass(frozen=True)
class Curve:
    """One curve of a panel.

    Attributes:
        x: (N,) cycles.
        y: (N,) values; NaN where there was none.
        colour: Name of a colour of the page, such as `n3`.
        dashed: Drawn dashed.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class DotRow:
    """One row of a dot plot: the nodes' values and their mean.

    Attributes:
        label: Text at the left.
        values: One for each node.
        colour: Name of a colour of the page.
        hollow: Drawn as rings: numbers that are not ours.
        mean: Where the bar stands; None for the mean of `values`.
        interval: Low and high end of a line through the mean, where there is one.
    """

    label: str
    values: Sequence[float]
    colour: str
    hollow: bool = False
    mean: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A level to hold every row of a dot plot against.

    Attributes:
        label: Text at its upper end.
        value: Where it stands.
    """

    label: str
    value: float


@dataclass(frozen=True)
class ClassPanel:
    """What one generator draws of each class.

    Attributes:
        title: Above the panel.
        rows: What is said of each class.
        shares: Part of all images that are of the class.
        images_cSHWC: Some images of each class, as bytes.
    """

    title: str
    rows: Sequence[str]
    shares: Sequence[float]
    images_cSHWC: NDArray[np.uint8]


def node_colour(position: int) -> str:
    """Colour name of the node at a position in the sorted node ids."""
    return f"n{position % NODE_COLOURS}"


def curve_panel(curves: Sequence[Curve], y_range: tuple[float, float], *, wide: bool = False) -> str:
    """One small panel of curves over cycles, as SVG; panels with one `y_range` can be compared by eye."""
    width, height = (5.2 if wide else 2.2), 1.5
    figure = Figure(figsize=(width, height))
    # Fixed margins in inches, so that the axes of panels side by side are in line.
    axes = figure.add_axes((0.36 / width, 0.2 / height, 1 - 0.42 / width, 1 - 0.28 / height))
    _tidy(axes)
    axes.grid(axis="y", color=_STAND_INS["rule"], linewidth=0.6)
    for curve in curves:
        x, y = _thin(curve)
        axes.plot(
            x,
            y,
            color=_STAND_INS[curve.colour],
            linewidth=1.2,
            linestyle=(0, (3, 1.5)) if curve.dashed else "-",
        )
    axes.set_ylim(*y_range)
    axes.set_xlim(0, max((float(curve.x.max()) for curve in curves if len(curve.x)), default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return _svg(figure)


def shared_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """A y range that leaves out the lowest and the highest value in 200, so that one spike does not flatten every panel."""
    values = np.sort(np.concatenate([_thin(curve)[1] for curve in curves])) if curves else np.empty(0)
    if not len(values):
        return 0.0, 1.0
    spikes = len(values) // 200
    low, high = float(values[spikes]), float(values[-1 - spikes])
    low = min(low, 0.0) if low > 0 and low < 0.5 * high else low
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if low == 0 else low - margin), high + margin


def dot_plot(rows: Sequence[DotRow], unit: str, lines: Sequence[Line] = ()) -> str:
    """A row for each column of the table: a dot for each node, a bar at the mean, its interval; as SVG."""
    figure = Figure(figsize=(6.4, 0.5 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    _tidy(axes)
    axes.grid(axis="x", color=_STAND_INS["rule"], linewidth=0.6)
    axes.spines["left"].set_visible(False)
    for line in lines:
        axes.axvline(line.value, color=_STAND_INS["floor"], linewidth=1.2, linestyle=(0, (3, 1.5)))
    for place, row in enumerate(rows):
        _dot_row(axes, place, row)
    axes.set_yticks(
        range(len(rows)),
        [row.label for row in rows],
        color=_STAND_INS["ink"],
        parse_math=False,
        fontsize=_LABEL_SIZE,
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(unit, color=_STAND_INS["muted"], fontsize=_FONT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if lines:
        above = axes.secondary_xaxis("top")
        above.set_xticks(
            [line.value for line in lines], [line.label for line in lines], rotation=20, ha="left"
        )
        above.tick_params(length=0, labelcolor=_STAND_INS["muted"], labelsize=_FONT_SIZE)
        above.spines["top"].set_visible(False)
    return _svg(figure)


def class_panels(panels: Sequence[ClassPanel]) -> str:
    """Panels side by side: a row of images for each class, and its share behind it."""
    classes, count = panels[0].images_cSHWC.shape[:2]
    with mpl.rc_context({"text.color": _STAND_INS["ink"], "font.size": _FONT_SIZE}):
        figure = Figure(figsize=(3.6 * len(panels) + 1, 0.32 * classes + 0.5), layout="constrained")
        for place, (axes, panel) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
        ):
            rows = [np.concatenate(list(images), axis=1) for images in panel.images_cSHWC]
            axes.imshow(
                np.concatenate(rows).squeeze(), cmap="gray", vmin=0, vmax=255, extent=(0, count, classes, 0)
            )
            told = place == 0 or list(panel.rows) != list(panels[place - 1].rows)
            names = panel.rows if told else [""] * classes
            axes.set_yticks(np.arange(classes) + 0.5, names, parse_math=False)
            behind = axes.secondary_yaxis("right")
            behind.set_yticks(np.arange(classes) + 0.5, [f"{100 * share:.1f}%" for share in panel.shares])
            axes.set_xticks([])
            axes.set_title(panel.title, fontsize=_LABEL_SIZE, parse_math=False)
            for each in (axes, behind):
                each.tick_params(length=0, labelcolor=_STAND_INS["muted"])
                for spine in each.spines.values():
                    spine.set_visible(False)
    return _svg(figure)


def standalone(svg: str) -> str:
    """A picture of this module as a file of its own, with the report's colours, light and dark."""
    style = _STYLE.read_text(encoding="utf-8").partition("\n* {")[0]
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    begin, _, rest = svg.removeprefix("<svg").partition(">")
    own = "svg { background: var(--page); font-family: var(--sans); }"
    return f"{head}{begin}><style>\n{style}\n{own}\n</style>{rest}\n"


def _dot_row(axes: Axes, place: int, row: DotRow) -> None:
    colour = _STAND_INS[row.colour]
    face = _STAND_INS["page"] if row.hollow else colour
    axes.scatter(
        row.values,
        [place] * len(row.values),
        s=17,
        facecolors=face,
        edgecolors=colour,
        linewidths=1,
        alpha=0.85,
    )
    if row.interval:
        axes.plot(row.interval, [place, place], color=colour, linewidth=1.2)
    if row.values:
        mean = float(np.mean(row.values)) if row.mean is None else row.mean
        axes.plot([mean, mean], [place - 0.33, place + 0.33], color=colour, linewidth=1.8)


def graph_picture(
    ids: Sequence[int], edges: Sequence[tuple[int, int]], chosen: Mapping[int, Mapping[int, int]]
) -> str:
    """The network (Fig. 1) as SVG; the half of an edge next to a node tells how often that node chose the other.

    Args:
        ids: Node ids, sorted.
        edges: Undirected edges.
        chosen: Times that a node chose a neighbour, chosen[node][neighbour]; may be empty.
    """
    places = _layout(ids, edges)
    figure = Figure(figsize=(4.2, 4.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_aspect("equal")
    most = max((count for counts in chosen.values() for count in counts.values()), default=0)
    for a, b in edges:
        for me, other in ((a, b), (b, a)):
            count = chosen.get(me, {}).get(other)
            colour = "muted" if count is None else node_colour(ids.index(me))
            share = count / most if count else 0.0
            _half_edge(axes, places[me], places[other], colour, share)
            if count is not None and len(ids) <= _CIRCLE_LIMIT:
                _edge_label(axes, places[me], places[other], str(count))
    _nodes(axes, [places[node] for node in ids], [str(node) for node in ids])
    axes.margins(0.1)
    return _svg(figure)


def png_uri(picture_HWC: NDArray[np.uint8]) -> str:
    """A picture as the data URI of a PNG, enlarged to about 300 pixels so that its own pixels can be seen."""
    picture = Image.fromarray(picture_HWC.squeeze(2) if picture_HWC.shape[2] == 1 else picture_HWC)
    factor = max(1, round(300 / picture.width))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _layout(ids: Sequence[int], edges: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.float64]]:
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(ids)
    graph.add_edges_from(edges)
    if len(ids) <= _CIRCLE_LIMIT:
        circle = nx.circular_layout(graph)
        # The first node on top, the others clockwise.
        return {node: np.array([y, x], dtype=np.float64) for node, (x, y) in circle.items()}
    free = (
        nx.kamada_kawai_layout(graph) if len(ids) <= _SLOW_LAYOUT_LIMIT else nx.spring_layout(graph, seed=0)
    )
    return {node: np.asarray(place, dtype=np.float64) for node, place in free.items()}


def _half_edge(
    axes: Axes, me: NDArray[np.float64], other: NDArray[np.float64], colour: str, share: float
) -> None:
    """Draws the half of an edge that belongs to `me`, thicker the larger `share` (0 to 1) is."""
    x, y = zip(me, (me + other) / 2, strict=True)
    stroke, width = _STAND_INS[colour], 1.0 + 5.0 * share
    axes.plot(x, y, color=stroke, linewidth=width, alpha=0.75, solid_capstyle="butt", zorder=1)


def _nodes(axes: Axes, places: Sequence[NDArray[np.float64]], names: Sequence[str]) -> None:
    """Draws the nodes, smaller and at last without their names the more they are."""
    area, font_size = (
        (420, 11) if len(names) <= _CIRCLE_LIMIT else (130, 7) if len(names) <= _NAMED_LIMIT else (50, 0)
    )
    for position, ((x, y), name) in enumerate(zip(places, names, strict=True)):
        axes.scatter([x], [y], s=area, color=_STAND_INS[node_colour(position)], zorder=2)
        if font_size:
            ink = _STAND_INS["page"]
            axes.text(
                x, y, name, color=ink, ha="center", va="center", fontsize=font_size, weight="bold", zorder=3
            )


def _edge_label(axes: Axes, me: NDArray[np.float64], other: NDArray[np.float64], text: str) -> None:
    """Writes `text` beside the half of an edge that belongs to `me`."""
    x, y = me + 0.33 * (other - me)
    box = {"boxstyle": "round,pad=0.15", "facecolor": _STAND_INS["page"], "edgecolor": "none"}
    axes.text(
        x,
        y,
        text,
        color=_STAND_INS["ink"],
        ha="center",
        va="center",
        fontsize=_LABEL_SIZE,
        bbox=box,
        zorder=2,
    )


def _tidy(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_STAND_INS["rule"])
    axes.tick_params(
        colors=_STAND_INS["muted"], length=0, labelcolor=_STAND_INS["muted"], labelsize=_FONT_SIZE
    )
    axes.set_axisbelow(True)


def _thin(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most _POINTS points, each the mean of its neighbourhood; missing values are left out."""
    known = np.isfinite(curve.y)
    x, y = curve.x[known], curve.y[known]
    if len(x) <= _POINTS:
        return x, y
    starts = np.linspace(0, len(x), _POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"  # noqa: PLR2004 - thousands


def _svg(figure: Figure) -> str:
    """The figure as an `svg` element fit to stand in the page: its colours and its font, no ids that clash."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dgan"}), warnings.catch_warnings():
        # A letter that matplotlib's own font lacks is drawn by the reader's browser all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", text, flags=re.DOTALL)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    for name, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", text).strip()
