"""Eq. (2)-(4) as losses of logits, apart from the loop that descends them.

B batch; a logit l stands for D(x) = sigmoid(l), so log D = logsigmoid(l) and log(1 - D) = logsigmoid(-l),
which stay finite where D itself rounds to 0 or 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def loss_threshold(initial: float, epoch: int) -> float:
    """LossThres of line 2 in epoch n: it decreases as 1/n from its initial value (section 4)."""
    return initial / epoch


def noisy_labels(label: float, count: int, deviation: float, generator: torch.Generator) -> Tensor:
    """`count` labels (B,) around 1 (real) or 0 (generated) with Gaussian noise of that standard deviation (P9)."""
    return label + deviation * torch.randn(count, generator=generator, device=generator.device)


def discriminator_loss(logits_B: Tensor, labels_B: Tensor) -> Tensor:
    """One half of the descent form of Eq. (3), for a batch that is all real or all generated.

    With label y the loss is -(y log D + (1 - y) log(1 - D)): for y = 1 that is -log D(x), for y = 0
    -log(1 - D(G(z))), and in between, or a little outside with noisy labels, their mixture.

    Returns:
        Mean over the batch, ().
    """
    return -(labels_B * logsigmoid(logits_B) + (1 - labels_B) * logsigmoid(-logits_B)).mean()


def saturating(logits_B: Tensor) -> Tensor:
    """Eq. (4) to the letter: mean of log(1 - D(G(z))), to be descended."""
    return logsigmoid(-logits_B).mean()


def non_saturating(logits_B: Tensor) -> Tensor:
    """Mean of -log D(G(z)): the same fixed point as Eq. (4), with a gradient where D is sure (Goodfellow 2014)."""
    return -logsigmoid(logits_B).mean()


GENERATOR_LOSSES: dict[Literal["saturating", "non_saturating"], Callable[[Tensor], Tensor]] = {
    "saturating": saturating,
    "non_saturating": non_saturating,
}
