"""What `probe` and `quality` find, and the files they leave: RUN/eval/probe.json and RUN/eval/quality.json.

The files hold exactly the dataclasses below, field by field; tuples are JSON arrays. Errors and shares of errors are
in percent, shares of images are fractions of 1. A figure stands beside the checkpoint, cycle, seed and counts that it
came from. Nothing here needs torch or scikit-learn, so that a report can be written without either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from node.files import write_json
from topology.errors import InputError

PROBE_FILE, QUALITY_FILE = "probe.json", "quality.json"

Source = Literal["discriminator", "untrained", "pixels", "neighborhood"]
Layers = Literal["all", "pooled"]
Kernel = Literal["linear", "rbf"]

SOURCES: Mapping[str, str] = {
    "discriminator": "trained D",
    "untrained": "untrained D",
    "pixels": "raw pixels",
    "neighborhood": "D and neighbours' D",
}
"""What people read for a source."""
_LAYERS: Mapping[str, str] = {"all": "all layers", "pooled": "layers 1 and 2 pooled"}

_Result = TypeVar("_Result")


def features_name(source: str, layers: str | None) -> str:
    """What describes an image in a row of the probe, in words."""
    return f"{SOURCES[source]}, {_LAYERS[layers]}" if layers else SOURCES[source]


@dataclasses.dataclass(frozen=True)
class ProbeNode:
    """One node's error in one row of the probe.

    Attributes:
        node: Id.
        error: Wrong test images in percent.
        standard_error: Binomial standard error of `error`, in percentage points.
        test_images: Count behind `error`.
        training_images: The node's own images, which the SVM learned from.
        held_out_images: Those of them set aside while the hyperparameters were chosen.
        held_out_error: Wrong images in percent among the held-out ones, at the chosen hyperparameters.
        features: Numbers that describe an image.
        kernel: The SVM's kernel.
        c: The SVM's cost of an error.
        gamma: Width of the RBF kernel on features of mean norm 1; None for a linear kernel.
        checkpoint: File below the run directory; None for the floors, which have none.
        cycle: Turn of Algorithm 1 that the checkpoint was saved after; None for the floors.
        neighbor_checkpoints: Files of the neighbours' discriminators that joined in; empty but for `neighborhood`.
    """

    node: int
    error: float
    standard_error: float
    test_images: int
    training_images: int
    held_out_images: int
    held_out_error: float
    features: int
    kernel: Kernel
    c: float
    gamma: float | None
    checkpoint: str | None
    cycle: int | None
    neighbor_checkpoints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ProbeRow:
    """One way to describe and classify an image, over every node.

    Attributes:
        source: `discriminator`: the node's own trained D; the two floors are `untrained`, a D drawn by the
            node's rule of initialisation and given the batch normalisation statistics of the node's images, and
            `pixels`. `neighborhood`, a variant that the paper lacks: the node's own trained D together with the
            newest of its direct neighbours.
        layers: `all`: the outputs of every layer of every D, concatenated as in the paper; `pooled`: those of
            layers 1 and 2, max-pooled to 4x4, each scaled to mean norm 1; None for pixels.
        kernel: `linear`, `rbf`, or `chosen`: for each node the one with fewer errors on its held-out images.
        headline: The row to set beside Table 1: trained, all layers, kernel chosen.
        mean: Mean error over the nodes, in percent.
        lowest: Lowest error of a node, in percent.
        highest: Highest error of a node, in percent.
        nodes: Every node, by id.
    """

    source: Source
    layers: Layers | None
    kernel: Literal["linear", "rbf", "chosen"]
    headline: bool
    mean: float
    lowest: float
    highest: float
    nodes: tuple[ProbeNode, ...]


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """probe.json: errors of an SVM on each node's features (section 4, Table 1).

    Attributes:
        run_id: Name of the run.
        policy: One that `node.config` knows.
        data_set: Name of the data set.
        seed: Seed of the held-out choice and of the untrained discriminators.
        rows: Exactly one of them is the headline.
    """

    run_id: str
    policy: str
    data_set: str
    seed: int
    rows: tuple[ProbeRow, ...]

    @property
    def headline(self) -> ProbeRow:
        """The row to set beside Table 1."""
        return next(row for row in self.rows if row.headline)


@dataclasses.dataclass(frozen=True)
class QualityScores:
    """How near a set of images comes to the test images, in the classifier's features.

    Attributes:
        images: Images judged; FID falls with their number, so compare equal counts only.
        kid: Kernel inception distance, unbiased, mean over subsets; 0 is perfect and it may be slightly negative.
        kid_sd: Standard deviation over the subsets.
        kid_subsets: Number of subsets.
        kid_subset_size: Images in a subset.
        fid: Fréchet distance of the two Gaussians; 0 is perfect.
        precision: Share of the images that lie among the test images.
        recall: Share of the test images that lie among the images.
        density: How densely test images surround the images; 1 is perfect, more is possible.
        coverage: Share of the test images that have an image near them.
        neighbors: k of the four above.
        confident: Share of the images that the classifier is sure of.
        class_shares: For each class, the share of the images confidently judged to be of it.
        classes_covered: Classes with at least `class_share_needed` of the images.
        confidence_needed: Least probability of a confident judgement.
        class_share_needed: Least share that covers a class.
    """

    images: int
    kid: float
    kid_sd: float
    kid_subsets: int
    kid_subset_size: int
    fid: float
    precision: float
    recall: float
    density: float
    coverage: float
    neighbors: int
    confident: float
    class_shares: tuple[float, ...]
    classes_covered: int
    confidence_needed: float
    class_share_needed: float


@dataclasses.dataclass(frozen=True)
class ClassOrigins:
    """Who holds the classes that a node's images cover, by the rule of `QualityScores.classes_covered`.

    A class is named by its place in `QualityResult.classes`.

    Attributes:
        own: Classes that the node's own shard holds: with a tenth of an even share of its images, or more.
        neighbors: Classes that a direct neighbour's shard holds, be they its own or not.
        own_covered: How many of its own classes its images cover.
        neighbors_covered: How many of its neighbours' that are not its own.
        unseen_covered: How many of those that neither it nor a direct neighbour holds.
    """

    own: tuple[int, ...]
    neighbors: tuple[int, ...]
    own_covered: int
    neighbors_covered: int
    unseen_covered: int

    def shares(self, classes: int) -> tuple[tuple[int, int], ...]:
        """Covered, and there to be covered, of `classes` in all: its own, its neighbours' alone, and those of neither."""
        own, theirs = len(self.own), len(set(self.neighbors) - set(self.own))
        unseen = classes - own - theirs
        return (self.own_covered, own), (self.neighbors_covered, theirs), (self.unseen_covered, unseen)


@dataclasses.dataclass(frozen=True)
class QualityNode:
    """One node's generated images.

    Attributes:
        node: Id.
        checkpoint: File below the run directory.
        cycle: Turn of Algorithm 1 that it was saved after.
        scores: Against the test images.
        origins: Who holds the classes that they cover; None where a shard, its own or a neighbour's, is not here with
            labels, and in older files.
    """

    node: int
    checkpoint: str
    cycle: int
    scores: QualityScores
    origins: ClassOrigins | None = None


@dataclasses.dataclass(frozen=True)
class ClassifierCard:
    """The classifier whose features and judgements the figures rest on.

    Attributes:
        test_error: Wrong test images in percent.
        training_images: How many it learned from.
        features: Length of its penultimate layer.
        digest: xxh3-128 of the images, the labels and the recipe.
    """

    test_error: float
    training_images: int
    features: int
    digest: str


@dataclasses.dataclass(frozen=True)
class QualityResult:
    """quality.json: the generated images of every node against the test images.

    Attributes:
        run_id: Name of the run.
        policy: One that `node.config` knows.
        data_set: Name of the data set.
        seed: Seed of the noise, the subsets and the classifier.
        classes: Names of the classes, in the order of `class_shares`.
        reference_images: Test images compared with.
        classifier: Where features and judgements come from.
        real: Real training images in place of generated ones: what a perfect generator would score.
        nodes: Every node, by id.
    """

    run_id: str
    policy: str
    data_set: str
    seed: int
    classes: tuple[str, ...]
    reference_images: int
    classifier: ClassifierCard
    real: QualityScores
    nodes: tuple[QualityNode, ...]

    @property
    def is_skewed(self) -> bool:
        """Whether some node lacks a class: only then it matters whose classes its images cover."""
        return any(node.origins and len(node.origins.own) < len(self.classes) for node in self.nodes)


def write_result(path: Path, result: ProbeResult | QualityResult) -> None:
    """Writes a result so that the file is either whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(result))


def read_probe(evaluation: Path) -> ProbeResult | None:
    """RUN/eval/probe.json, or None where there is none.

    Raises:
        InputError: The file is no result of `dgan-eval probe`.
    """
    return read_json(evaluation / PROBE_FILE, ProbeResult, "dgan-eval probe")


def read_quality(evaluation: Path) -> QualityResult | None:
    """RUN/eval/quality.json, or None where there is none.

    Raises:
        InputError: The file is no result of `dgan-eval quality`.
    """
    return read_json(evaluation / QUALITY_FILE, QualityResult, "dgan-eval quality")


def read_json(path: Path, kind: type[_Result], command: str) -> _Result | None:
    """A JSON file as a dataclass, or None where there is no such file; unknown fields are left alone.

    Args:
        path: The file.
        kind: The dataclass.
        command: What makes the file.

    Raises:
        InputError: The file holds something else; names the first field that is wrong.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        mend = f"make it anew with `{command}`"
        raise InputError(path, f"{field}: {first['msg']}", mend) from None
