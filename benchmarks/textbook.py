"""What a user would write without dgan: a DCGAN loop by the book, with the layers and the arithmetic of one dgan node.

Eager, float32, default memory format, default optimisers, gradients by `backward`. One cycle is one step of D and one
of G, each with noise of its own, as lines 3 to 8 of Algorithm 1 have it with an inner loop of one step. Real and
generated images never share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.config import Architecture, Settings
from node.models import Discriminator, Generator


@dataclass(frozen=True)
class Inputs:
    """What one cycle draws.

    Attributes:
        d_noise_mZ: For the images that D learns from.
        real_mCHW: Real images in [-1, 1].
        real_labels_m: Noisy labels of the real ones.
        fake_labels_m: Noisy labels of the generated ones.
        g_noise_mZ: For G's own step.
    """

    d_noise_mZ: Tensor
    real_mCHW: Tensor
    real_labels_m: Tensor
    fake_labels_m: Tensor
    g_noise_mZ: Tensor


class Textbook:
    """Two plain networks of MNIST's 20x20 shape, and their loop.

    Args:
        settings: Learning rates and the like.
        architecture: The widths; three for D and two for G.
        images_NCHW: The training images in [-1, 1], float32.
    """

    def __init__(self, settings: Settings, architecture: Architecture, images_NCHW: Tensor) -> None:
        a, b, c = architecture.discriminator_widths
        one, two = architecture.generator_widths
        slope, latent = architecture.slope, architecture.latent_size
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, a, 4, 2, 1, bias=False), nn.BatchNorm2d(a), nn.LeakyReLU(slope),
            nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(slope),
            nn.Conv2d(b, c, 4, 2, 1, bias=False), nn.BatchNorm2d(c), nn.LeakyReLU(slope),
            nn.Conv2d(c, 1, 2),
        )  # fmt: skip
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(latent, one, 5, bias=False), nn.BatchNorm2d(one), nn.ReLU(),
            nn.ConvTranspose2d(one, two, 4, 2, 1, bias=False), nn.BatchNorm2d(two), nn.ReLU(),
            nn.ConvTranspose2d(two, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        d, g = settings.discriminator, settings.generator
        self.d_optimizer = torch.optim.SGD(
            self.discriminator.parameters(), d.learning_rate, momentum=d.momentum
        )
        self.g_optimizer = torch.optim.Adam(
            self.generator.parameters(), g.learning_rate, betas=(g.beta1, g.beta2)
        )
        self.criterion = nn.BCEWithLogitsLoss()
        self._images_NCHW = images_NCHW
        self._batch, self._latent, self._label_noise = settings.training.batch_size, latent, d.label_noise

    def start_from(self, generator: Generator, discriminator: Discriminator) -> None:
        """Takes the weights of a node's networks."""
        for mine, theirs in ((self.generator, generator), (self.discriminator, discriminator)):
            with torch.no_grad():
                for p, q in zip(mine.parameters(), in_order(theirs), strict=True):
                    p.copy_(q)

    def draw(self) -> Inputs:
        """The inputs of the next cycle."""
        m = self._batch
        chosen = torch.randint(len(self._images_NCHW), (m,))
        return Inputs(
            torch.randn(m, self._latent),
            self._images_NCHW[chosen],
            1 + self._label_noise * torch.randn(m),
            self._label_noise * torch.randn(m),
            torch.randn(m, self._latent),
        )

    def cycle(self, inputs: Inputs | None = None) -> tuple[float, float]:
        """One step of D and one of G; returns their losses."""
        drawn = inputs or self.draw()
        z = drawn.d_noise_mZ[:, :, None, None]
        self.discriminator.zero_grad()
        real = self.criterion(self.discriminator(drawn.real_mCHW).flatten(), drawn.real_labels_m)
        real.backward()
        fake_images = self.generator(z)
        fake = self.criterion(self.discriminator(fake_images.detach()).flatten(), drawn.fake_labels_m)
        fake.backward()
        self.d_optimizer.step()
        self.generator.zero_grad()
        logits = self.discriminator(self.generator(drawn.g_noise_mZ[:, :, None, None])).flatten()
        loss = self.criterion(logits, torch.ones_like(logits))
        loss.backward()
        self.g_optimizer.step()
        return (real + fake).item(), loss.item()


def in_order(network: Generator | Discriminator) -> list[nn.Parameter]:
    """A node's parameters layer by layer, as a sequence of layers has them."""
    found: list[nn.Parameter] = []
    for index, convolution in enumerate(network.convolutions):
        found += convolution.parameters()
        if index < len(network.norms):
            found += network.norms[index].parameters()
    if isinstance(network, Discriminator):
        found += network.last.parameters()
    return found
