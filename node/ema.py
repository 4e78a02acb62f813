"""The moving average of a generator's weights, which images are drawn with.

Generator and discriminator circle around each other, and the last weights of G are one point on the way: what they draw well
changes from cycle to cycle. Their average stands near the middle (Yazici et al. 2018, "The Unusual
Effectiveness of Averaging in GAN Training", arXiv 1806.04498). Training never reads it, and so goes on as without.
"""

from __future__ import annotations

import torch

from node.models import Generator


def follow(average: Generator, generator: Generator, decay: float, cycle: int) -> None:
    """Moves the average towards the generator, in place: average <- d average + (1 - d) generator.

    d is `decay`, but no more than (1 + n) / (10 + n) after n cycles: the average forgets faster as long as it is young, as else
    a short training would be judged by what it began with. The running statistics of batch normalisation are averaged too.

    Args:
        average: What is moved; nothing happens where it is the generator itself.
        generator: Of the same structure.
        decay: 0 to less than 1; of 0.99 half is forgotten in 69 cycles.
        cycle: n, from 1.
    """
    if average is generator:
        return
    weight = 1 - min(decay, (1 + cycle) / (10 + cycle))
    theirs = generator.state_dict()
    with torch.no_grad():
        for name, tensor in average.state_dict().items():
            tensor.lerp_(theirs[name], weight)
