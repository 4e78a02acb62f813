"""A private shard as an endless, shuffled, resumable stream of batches.

N images in the shard, m images in a batch, C channels, H W pixels
"""

from __future__ import annotations

import torch
from torch import Tensor

from node.shards import Shard


class Batches:
    """Batches of real images in [-1, 1], drawn without replacement; shuffled anew whenever the shard is used up.

    Args:
        shard: The node's private images.
        batch_size: m, at most N.
        generator: Source of the shuffles.
        device: Where batches are wanted.
    """

    def __init__(
        self, shard: Shard, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> None:
        images_NHWC = torch.from_numpy(shard.images)
        # NCHW in channels_last memory is the shard as it lies; bytes take a quarter of float32's memory.
        self._images_NCHW = images_NHWC.permute(0, 3, 1, 2).to(device)
        self._batch_size = batch_size
        self._generator = generator
        self._order_N = torch.randperm(len(shard), generator=generator)
        self._used = 0

    def sample(self) -> Tensor:
        """The next m real images (m, C, H, W), float32 (line 4 of Algorithm 1)."""
        if self._used + self._batch_size > len(self._order_N):
            self._order_N = torch.randperm(len(self._order_N), generator=self._generator)
            self._used = 0
        index_m = self._order_N[self._used : self._used + self._batch_size]
        self._used += self._batch_size
        return normalise(self._images_NCHW[index_m.to(self._images_NCHW.device)])

    def state(self) -> dict[str, Tensor]:
        """Where the stream stands."""
        return {"order": self._order_N, "used": torch.tensor(self._used)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues where `state` stood."""
        self._order_N = state["order"].clone()
        self._used = int(state["used"])


def normalise(images_NCHW: Tensor) -> Tensor:
    """Bytes 0..255 as float32 in [-1, 1] (P8)."""
    return images_NCHW.float().div_(127.5).sub_(1)
