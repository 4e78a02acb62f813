"""Who judges G's images where it is not one discriminator as its node trained it.

B batch, C channels, H W pixels, J judges
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from node.models import Discriminator, initialise


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


Judge = Discriminator | Forgiving


def most_forgiving(logits_JB: Tensor) -> int:
    """Index of the judge whose logit is the largest for the most images."""
    return int(logits_JB.argmax(dim=0).bincount().argmax())


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
