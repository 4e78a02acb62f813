"""Who judges G's images where it is not one discriminator as its node trained it.

B batch, C channels, H W pixels, J judges
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from node.models import Discriminator, initialise

FAR = 10.0
"""Weights so many times their own norm away are not averaged."""


@dataclass(frozen=True)
class Forgiving:
    """Several discriminators as one: an image counts as real as the one says that forgives it most.

    D_max(x) = max_j D_j(x), the forgiver-first update (F2U) of Yonetani, Takahashi, Hashimoto, Ushiku, "Decentralized
    Learning of Generative Adversarial Networks from Non-iid Data", arXiv 1905.09684. Under skewed data a D rejects the
    classes that it never saw; against D_max an image need only please the D whose data have its class, and the optimum
    of G is proportional to max_j p_j, which holds every node's classes. Gradients flow through the maximum.

    Two of them with the same discriminators are equal, as the recordings of a cycle ask.

    Attributes:
        judges: The discriminators.
    """

    judges: tuple[Discriminator, ...]

    def __call__(self, images_BCHW: Tensor, *, track: bool = False) -> Tensor:
        """The largest logit (B,) of each image; the logit grows with D, so it is that of the largest D."""
        return torch.stack([judge(images_BCHW, track=track) for judge in self.judges]).amax(dim=0)


@dataclass(frozen=True)
class Divided:
    """Several discriminators, each of which judges its own part of a batch, apart from the rest.

    The parts are consecutive and as equal as can be (`tensor_split`), and belong to the parts of `divide`. Apart matters:
    batch normalisation looks at whatever is judged together, and a D has only ever seen real batches of its own node.

    Attributes:
        judges: One for each part, the own D first.
    """

    judges: tuple[Discriminator, ...]

    def __call__(
        self, images_BCHW: Tensor, *, track: bool = False, gaps: list[Tensor] | None = None
    ) -> Tensor:
        """Logits (B,).

        Args:
            images_BCHW: The images.
            track: Whether the running statistics of batch normalisation move.
            gaps: Takes, where given, how far each part is from its judge's, but for those that the first judge has; a part counts
                by its share of the images.
        """
        logits = []
        for judge, part_bCHW in zip(self.judges, images_BCHW.tensor_split(len(self.judges)), strict=True):
            if gaps is None or judge is self.judges[0]:
                logits.append(judge(part_bCHW, track=track))
                continue
            its: list[Tensor] = []
            logits.append(judge(part_bCHW, track=track, gaps=its))
            gaps.extend(gap * (len(part_bCHW) / len(images_BCHW)) for gap in its)
        return torch.cat(logits)


Judge = Discriminator | Forgiving | Divided


def divide(z_mZ: Tensor, parts: int) -> Tensor:
    """Noise sorted into territories: row by row the same noise, but for the order of its first `parts` numbers.

    The territory i of the latent space is where the i-th number is the largest of the first `parts`. Each row of the i-th
    part of the batch gets into it by an exchange of two numbers, so that it is N(0, 1) given its territory; all are equally
    likely, and noise that nobody divided covers them evenly.

    Args:
        z_mZ: Noise (m, Z), Z at least `parts`.
        parts: How many; 1 changes nothing.
    """
    if parts == 1:
        return z_mZ
    divided_mZ, rows_m = z_mZ.clone(), torch.arange(len(z_mZ))
    wanted_m = torch.cat([torch.full_like(part, i) for i, part in enumerate(rows_m.tensor_split(parts))])
    largest_m = z_mZ[:, :parts].argmax(dim=1)
    divided_mZ[rows_m, largest_m] = z_mZ[rows_m, wanted_m]
    divided_mZ[rows_m, wanted_m] = z_mZ[rows_m, largest_m]
    return divided_mZ


def most_forgiving(logits_JB: Tensor) -> int:
    """Index of the judge whose logit is the largest for the most images."""
    return int(logits_JB.argmax(dim=0).bincount().argmax())


def average(own: Discriminator, others: Mapping[int, Discriminator], count: int) -> set[int]:
    """Gossip averaging in place: own += sum of (other - own) / count, over the weights that are trained.

    The running statistics of batch normalisation stay: they describe the node's own images.

    Args:
        own: What is changed.
        others: What it is drawn towards, by node id.
        count: All who are averaged, with those from whom nothing is there now: the weight of each is 1 / count.

    Returns:
        Who was left out: a D of another structure cannot be averaged, and weights FAR times as far from the own ones as
        these are from 0 are no state of a training, and would end this one.
    """
    if not others:
        return set()
    mine = dict(own.named_parameters())
    norm = _norm(mine.values())
    gaps = []
    left_out = set()
    for node_id, other in others.items():
        gap = _gap(mine, other) if other.slope == own.slope else None
        # Written so that a distance that is no number is too far.
        if gap is not None and _norm(gap.values()) <= FAR * norm:
            gaps.append(gap)
        else:
            left_out.add(node_id)
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.add_(sum((gap[name] for gap in gaps), torch.zeros_like(parameter)) / count)
    return left_out


def _gap(mine: Mapping[str, Tensor], other: Discriminator) -> dict[str, Tensor] | None:
    """The other's trained weights less these; None where it has not the same ones."""
    theirs = dict(other.named_parameters())
    if {name: p.shape for name, p in theirs.items()} != {name: p.shape for name, p in mine.items()}:
        return None
    with torch.no_grad():
        return {name: theirs[name] - parameter for name, parameter in mine.items()}


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def untrained(like: Discriminator, rule: Literal["he", "dcgan"], generator: torch.Generator) -> Discriminator:
    """A random discriminator of the same structure, never trained and closed to gradients of its weights.

    Args:
        like: Gives the structure, and nothing else.
        rule: How the run draws weights.
        generator: Source of randomness.
    """
    drawn = Discriminator(*like.structure).requires_grad_(requires_grad=False)
    initialise(drawn, rule, generator)
    return drawn
