"""What `dgan-eval table` finds in a study: Table 1 with its controls, floors and intervals, and the file it leaves.

The file holds exactly the dataclasses below, field by field; tuples are JSON arrays. Errors are in percent. Text, Markdown
and pictures are made from it alone. `eval.tabulate` fills it in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.statistics import Estimate

TABLE_FILE = "table.json"
LEAST_CLASSES = 2
"""A generator that covers fewer classes has collapsed."""
FLOOR_MARGIN = 0.5
"""Percentage points that a trained D may lie above the same D untrained."""
HEADLINE = ("discriminator", "all", "chosen")
"""Source, layers and kernel of the row to set beside Table 1."""
COLLAPSED = (
    f'a node has collapsed if its training did not end as "finished", if its images cover fewer than {LEAST_CLASSES} '
    f"classes (none, of a node that holds one), or if the RBF error of its trained D, all layers, lies more than {FLOOR_MARGIN} points above that of a "
    "D drawn by the same rule and never trained, where that was measured; it stays in every mean for which it has a figure"
)


@dataclass(frozen=True)
class NodeMean:
    """One node's mean over seeds.

    Attributes:
        node: Id.
        value: The mean.
        seeds: Those behind it.
    """

    node: int
    value: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ErrorRow:
    """Errors in % of one arm in one row of the probe.

    Attributes:
        arm: Name; None for the floors, which all arms share.
        source: What was described by, as in the probe: `discriminator`, `untrained`, `pixels`.
        layers: `all` or `pooled`; None for pixels.
        kernel: `linear`, `rbf` or `chosen`.
        nodes: Each node's mean over seeds.
        overall: Over seeds and nodes.
    """

    arm: str | None
    source: str
    layers: str | None
    kernel: str
    nodes: tuple[NodeMean, ...]
    overall: Estimate

    @property
    def kind(self) -> tuple[str, str | None, str]:
        """What was measured: source, layers, kernel."""
        return self.source, self.layers, self.kernel


@dataclass(frozen=True)
class Spread:
    """How unlike the nodes of one training are: the paper's section 4 has them more alike under information gain.

    Attributes:
        arm: Name.
        overall: Standard deviation over the nodes of a seed of their errors, the headline's, in points; the mean over seeds. It is no
            node's, and stands as that of a node 0.
    """

    arm: str
    overall: Estimate


@dataclass(frozen=True)
class ScoreRow:
    """One score of the generated images of one arm.

    Attributes:
        arm: Name; None for real images in place of generated ones.
        score: A field of `eval.results.QualityScores`, such as `kid`, or a count of `ClassOrigins`.
        nodes: Each node's mean over seeds; empty for real images, which are no node's.
        overall: Over seeds and nodes.
    """

    arm: str | None
    score: str
    nodes: tuple[NodeMean, ...]
    overall: Estimate


@dataclass(frozen=True)
class ArmSummary:
    """How far an arm has come, and what its nodes did, means over nodes.

    Attributes:
        name: Of the arm.
        policy: From its settings; None as long as no cell has ended.
        seeds: Those that have ended.
        trained: Nodes of all these seeds together.
        collapsed: Those of them that collapsed.
        d_steps: Updates of a node's discriminator; None where no cell tells.
        g_steps: The same of its generator.
        most_chosen: Share of the neighbour that a node chose most often; None where none chose.
        clamped: Share of the neighbours' values that the criterion had below 0, as Eq. (6) may; None where none weighed.
        own_loss: Loss of a node's G by its own D; None where no cell tells.
        chosen_loss: The same by the neighbour's D that it chose; None where none chose.
    """

    name: str
    policy: str | None
    seeds: tuple[int, ...]
    trained: int
    collapsed: int
    d_steps: float | None
    g_steps: float | None
    most_chosen: float | None
    clamped: float | None
    own_loss: float | None
    chosen_loss: float | None


@dataclass(frozen=True)
class Collapse:
    """A node that collapsed.

    Attributes:
        arm: Where.
        seed: Where.
        node: Id.
        reasons: In words, each part of the definition that holds.
        probed: Whether it has errors, which are then in the means.
        judged: Whether it has scores, which are then in the means.
    """

    arm: str
    seed: int
    node: int
    reasons: tuple[str, ...]
    probed: bool
    judged: bool


@dataclass(frozen=True)
class Comparison:
    """One arm against another, over the (seed, node) pairs that both have.

    Attributes:
        ours: The arm that is hoped to be better.
        theirs: The other.
        figure: `chosen`, `linear` or `rbf`, errors of the trained D, all layers, by kernel; `pooled`, of its pooled layers by the RBF kernel;
            `joined` and `joined_pooled`, the same of D and the neighbours' D together; `spread`, over a seed's nodes; `kid`, `fid`,
            `coverage` and `recall`; where some node lacks a class also `own_covered` and `neighbors_covered`, classes that a node's
            images cover.
        ours_mean: Mean over the pairs.
        theirs_mean: Mean over the pairs.
        change: Ours less theirs, in percentage points of error, in units of the score or in classes; for KID in percent of theirs, None where theirs is 0 or below in some seed.
        effect: Cohen's d_z over seeds, of the change; None where it has no value.
    """

    ours: str
    theirs: str
    figure: str
    ours_mean: float
    theirs_mean: float
    change: Estimate | None
    effect: float | None


@dataclass(frozen=True)
class Target:
    """An arm's trained D, all layers, against what it should be below.

    Attributes:
        arm: Name.
        kernel: `chosen`, `linear` or `rbf`.
        against: `paper` for the mean of the paper's row of the same policy, or `pixels` for raw pixels in this study, by the same
            kernel.
        limit: That mean, in %, over the (seed, node) pairs that have both.
        error: The arm's mean over them.
        gap: Error less limit, in points; paired, since raw pixels and D are probed on the same shards.
    """

    arm: str
    kernel: str
    against: str
    limit: float
    error: float
    gap: Estimate


@dataclass(frozen=True)
class VariantTable:
    """Everything about one variant.

    Attributes:
        variant: Name.
        data_sets: Names of the data sets.
        comparable: Whether the paper's figures are: MNIST, drawn alike, 10,000 images for each of five nodes.
        arms: In the order of the columns.
        errors: Every row of the probe by arm, the headline's first.
        spreads: Of the headline's row, by arm.
        floors: Untrained D and raw pixels.
        scores: Of the generated images, by arm; real images last.
        comparisons: The study's pairs.
        targets: Of each arm.
        collapsed: Every such node.
        unlike: Seeds whose arms cannot be compared: trained by different code or on different machines, or judged by different
            classifiers.
    """

    variant: str
    data_sets: tuple[str, ...]
    comparable: bool
    arms: tuple[ArmSummary, ...]
    errors: tuple[ErrorRow, ...]
    spreads: tuple[Spread, ...]
    floors: tuple[ErrorRow, ...]
    scores: tuple[ScoreRow, ...]
    comparisons: tuple[Comparison, ...]
    targets: tuple[Target, ...]
    collapsed: tuple[Collapse, ...]
    unlike: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """Cells that one code made on one machine.

    Attributes:
        versions: As in a cell's file.
        machine: Processor and the like.
        cells: Names.
        hours: What training and judging them took together, as far as that is known.
    """

    versions: Mapping[str, Any]
    machine: Mapping[str, Any]
    cells: tuple[str, ...]
    hours: float


@dataclass(frozen=True)
class StudyTable:
    """table.json.

    Attributes:
        study: Name of the study.
        command: What trained it.
        variants: A table for each.
        missing: Cells that have not ended.
        origins: Where the others come from.
        paper: The paper's Table 1, errors in % by policy and node.
        resamples: Of each bootstrap interval.
        collapse_definition: When a node counts as collapsed.
    """

    study: str
    command: str
    variants: tuple[VariantTable, ...]
    missing: tuple[str, ...]
    origins: tuple[Origin, ...]
    paper: Mapping[str, Mapping[int, float]]
    resamples: int
    collapse_definition: str = dataclasses.field(default=COLLAPSED)
