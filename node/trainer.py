"""Algorithm 1 of the paper, one cycle at a time. No sockets, no files.

A cycle is one turn of the outer loop (lines 1-14): D learns from batches while its loss on them is above
LossThres(epoch), up to a cap, and not at all where it is ahead already; G learns once against its own D and, with
probability P(consider neighbours), once more against one neighbour's D. Nothing here waits: line 10 reads whatever the
neighbours have sent so far through `read_neighbors`; where that is nothing the second step is skipped and counted. A
neighbour's discriminator is only ever read: weights and running statistics of batch normalisation stay as they came.

The paper compares three policies; five more are this project's, two of them controls:

    alone              line 9 is always false
    uniform            line 11 chooses evenly
    info-gain          line 11 chooses by Eq. (7)
    alone-matched      line 10 gives the node itself: the extra G steps of `uniform`, and no neighbour
    uniform-untrained  line 10 gives random discriminators in the neighbours' place: the extra judge, and no knowledge
    forgiving          line 9 comes before line 8, and lines 8 and 12 both go by the most forgiving of all judges
    gossip             as `alone-matched`, but D is averaged with each new snapshot of a neighbour, before line 1
    territories        D as under `gossip`; the noise is divided, and at lines 8 and 12 each D judges a part of G's images,
                       of which a neighbour's is led to the statistics of what that D has seen

    m batch, Z latent, C channels, H W pixels, J neighbours with a snapshot
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from node.checkpoint import add_prefix, strip_prefix
from node.config import Settings
from node.data import Batches
from node.ema import follow
from node.hardware import choose_device, choose_precision, place
from node.inputs import count_cycles
from node.judges import Divided, Forgiving, Judge, average, divide, most_forgiving, untrained
from node.losses import GENERATOR_LOSSES, discriminator_loss, loss_threshold, noisy_labels
from node.models import Discriminator, Generator, initialise
from node.optimizers import Adam, Momentum
from node.records import CycleRecord, Exchange
from node.replay import Recorder, Runner, gpu_recorder
from node.selection import CRITERIA, Evidence, information_gain, sample, uniform
from node.shards import Shard
from node.streams import seed_streams, shared_stream, untrained_stream

_Neighbors = Mapping[int, Discriminator]
_Read = Callable[[], _Neighbors]
_Tell = Callable[[Discriminator, Tensor], Tensor]
_OWN_AGAIN = ("alone-matched", "gossip")  # line 12 is one more step against the own D


class TrainingError(RuntimeError):
    """Training left the finite numbers; the newest checkpoint is still good."""


class Trainer:
    """One node's generator and discriminator, and everything that a cycle needs.

    Images for others are drawn with `average_generator`, which training never reads.

    Args:
        settings: The run's settings with image size and channels filled in.
        architecture: Name of this node's architecture.
        node_id: This node.
        shard: Its private images.
        record: Records the functions of a cycle; otherwise a GPU does, unless the settings say no.
        neighbor_ids: Its neighbours in the graph, whoever of them can be heard.

    Raises:
        InputError: The shard does not fit the image shape or is smaller than one batch.
    """

    def __init__(
        self,
        settings: Settings,
        architecture: str,
        node_id: int,
        shard: Shard,
        record: Recorder | None = None,
        neighbor_ids: Sequence[int] = (),
    ) -> None:
        self.cycles_per_epoch = count_cycles(settings, shard, node_id)
        self.settings = settings
        self._node_id, self._neighbor_ids = node_id, sorted(neighbor_ids)
        self._untrained: dict[int, Discriminator] = {}
        self.device = choose_device(settings.training.device, node_id)
        self.precision = choose_precision(settings.training.precision, self.device)
        self.cycle_count = 0
        self.streams = seed_streams(settings.seed, node_id)
        self.batches = Batches(shard, settings.training.batch_size, self.streams["data"], self.device)
        shape = (settings.architecture[architecture], settings.image.size, settings.image.channels)
        generator, discriminator = Generator(*shape), Discriminator(*shape)
        # Drawn on the CPU, so that equal seeds give equal weights on every device.
        initialise(generator, settings.generator.initialisation, self.streams["weights"])
        # Only discriminators that begin alike can be averaged from the beginning.
        drawn_from = shared_stream(settings.seed) if settings.averages else self.streams["weights"]
        initialise(discriminator, settings.discriminator.initialisation, drawn_from)
        self.generator, self.discriminator = place(generator, self.device), place(discriminator, self.device)
        g, d = settings.generator, settings.discriminator
        self._networks: dict[str, Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.average_generator = self.generator
        if g.ema_decay:
            self.average_generator = self._networks["average_generator"] = deepcopy(self.generator)
        self.g_optimizer = Adam(self.generator.parameters(), g.learning_rate, g.beta1, g.beta2)
        self.d_optimizer = Momentum(self.discriminator.parameters(), d.learning_rate, d.momentum)
        record = record or (gpu_recorder(self.device) if settings.training.cuda_graphs else None)
        self.d_optimizer.looks = record is None
        self._run = Runner(record, self._changed)

    @property
    def cycles(self) -> int:
        """Cycles of the whole run: floor(N / m) for every epoch."""
        return self.settings.epochs * self.cycles_per_epoch

    @property
    def epoch(self) -> int:
        """Epoch of the latest cycle, from 1."""
        return max(self.cycle_count - 1, 0) // self.cycles_per_epoch + 1

    @property
    def _territories(self) -> list[int]:
        """Among whose discriminators the noise is divided, the own one first."""
        return [self._node_id, *(self._neighbor_ids if self.settings.policy == "territories" else ())]

    def cycle(self, read_neighbors: _Read) -> CycleRecord:
        """One turn of Algorithm 1's outer loop; the numbers are the paper's lines.

        Args:
            read_neighbors: The usable discriminators of the neighbours, by node id; called at line 10 only.

        Raises:
            TrainingError: A loss is not finite.
        """
        self.cycle_count += 1
        threshold = loss_threshold(self.settings.discriminator.loss_threshold, self.epoch)
        loss, steps = math.inf, 0
        while loss > threshold and steps < self.settings.discriminator.max_steps:  # 2
            z_mZ = self.sample_noise()  # 3
            x_mCHW = self.batches.sample()  # 4
            loss = self._update_discriminator(x_mCHW, z_mZ, threshold)  # 2 on this batch, and 5
            steps += loss > threshold
            if not math.isfinite(loss):
                break  # told below: an infinite loss is no reason to go on
        z_mZ = self.sample_noise()  # 7
        if self.settings.policy == "forgiving":
            g_loss, exchange = self._learn_from_all(read_neighbors, z_mZ)  # 9, 10, 8, 12
        elif self.settings.policy == "territories":
            g_loss, exchange = self._learn_in_parts(read_neighbors, z_mZ)  # 10, 8, 9, 12
        else:
            g_loss, exchange = self._update_generator(z_mZ, self.discriminator), None  # 8
            if self._consider_neighbors():  # 9
                exchange = self._learn_from_one(self._candidates(read_neighbors), z_mZ, x_mCHW)  # 10-12
        self._require(math.isfinite(loss) and math.isfinite(g_loss), f"loss of D {loss}, of G {g_loss}")
        follow(self.average_generator, self.generator, self.settings.generator.ema_decay, self.cycle_count)
        return CycleRecord(
            cycle=self.cycle_count,
            epoch=self.epoch,
            loss_threshold=threshold,
            d_loss=loss,
            g_loss=g_loss,
            inner_steps=steps,
            cap_hit=loss > threshold,
            exchange=exchange,
        )

    def sample_noise(self) -> Tensor:
        """Noise vectors (m, Z) from N(0, 1), lines 3 and 7; under `territories` one part of the batch from each."""
        shape = (self.settings.training.batch_size, self.generator.latent_size)
        drawn_mZ = torch.randn(shape, generator=self.streams["noise"])
        return divide(drawn_mZ, len(self._territories)).to(self.device)

    def generate(self, z_mZ: Tensor, *, track: bool = True) -> Tensor:
        """G(z): images (m, C, H, W) in [-1, 1] that gradients flow back through."""
        with self._precision():
            images: Tensor = self.generator(z_mZ, track=track)
        return images

    def _update_discriminator(self, x_mCHW: Tensor, z_mZ: Tensor, threshold: float) -> float:
        """Line 5 where line 2 asks for it: one step along Eq. (3), real and generated images apart (P9); the loss before it."""
        count, noise = len(x_mCHW), self.settings.discriminator.label_noise
        given = (noisy_labels(label, count, noise, self.streams["labels"]) for label in (1.0, 0.0))
        numbers = (each.to(self.device) for each in (*given, torch.tensor(threshold)))
        return self._run(self._descend_discriminator, x_mCHW, z_mZ, *numbers).item()

    def _descend_discriminator(
        self, x_mCHW: Tensor, z_mZ: Tensor, real_labels_m: Tensor, fake_labels_m: Tensor, above: Tensor
    ) -> Tensor:
        with torch.no_grad():
            fake_mCHW = self.generate(z_mZ, track=False)
        # The running statistics follow real images alone: they serve the features, which are read on real images.
        real_m = self._judge(self.discriminator, x_mCHW, track=True)
        fake_m = self._judge(Divided((self.discriminator,) * len(self._territories)), fake_mCHW)
        loss = discriminator_loss(real_m, real_labels_m) + discriminator_loss(fake_m, fake_labels_m)
        self.d_optimizer.descend(loss, above)
        return loss.detach()

    def _update_generator(self, z_mZ: Tensor, judge: Judge, drawn_mCHW: Tensor | None = None) -> float:
        """Lines 8 and 12: one step of G along Eq. (4) against the judge, which stays as it is; the loss, of no step if not finite.

        `drawn_mCHW` is G(z), where it has been drawn already.
        """
        if drawn_mCHW is not None and drawn_mCHW.requires_grad:
            return self._descend_generator(judge, drawn_mCHW).item()
        # Replayed images have no history: gradients need them drawn again, by which the running statistics must not move twice.
        return self._run(self._draw_and_descend, judge, z_mZ, track=drawn_mCHW is None).item()

    def _draw_and_descend(self, judge: Judge, z_mZ: Tensor, *, track: bool) -> Tensor:
        return self._descend_generator(judge, self.generate(z_mZ, track=track))

    def _descend_generator(self, judge: Judge, fake_mCHW: Tensor) -> Tensor:
        weight, gaps = self.settings.cooperation.statistics_weight, list[Tensor]()
        asked = {"gaps": gaps} if weight and isinstance(judge, Divided) else {}
        loss = GENERATOR_LOSSES[self.settings.generator.loss](self._judge(judge, fake_mCHW, **asked))
        self.g_optimizer.descend(loss + weight * sum(gaps) if gaps else loss)
        return loss.detach()

    def _consider_neighbors(self) -> bool:
        """Line 9: Sample(ConsiderNeighbors); a node alone never does."""
        if self.settings.policy == "alone":
            return False
        drawn = torch.rand((), generator=self.streams["selection"])
        return bool(drawn < self.settings.cooperation.consider_probability)

    def _candidates(self, read_neighbors: _Read) -> _Neighbors:
        """Line 10: among whose discriminators line 11 chooses, by node id; a control replaces them."""
        if self.settings.policy in _OWN_AGAIN:
            return {self._node_id: self.discriminator}
        neighbors = read_neighbors()
        if self.settings.policy != "uniform-untrained":
            return neighbors
        rule = self.settings.discriminator.initialisation
        for j in neighbors.keys() - self._untrained.keys():
            drawn = untrained(neighbors[j], rule, untrained_stream(self.settings.seed, j))
            self._untrained[j] = place(drawn, self.device)
        return {j: self._untrained[j] for j in neighbors}

    def _learn_from_one(self, candidates: _Neighbors, z_mZ: Tensor, x_mCHW: Tensor) -> Exchange:
        """Lines 11 and 12 with the z of line 7 and the x of line 4, through the generator as line 8 left it."""
        if not candidates:
            return Exchange()
        if self.settings.policy == "info-gain":
            return self._learn_by_gain(candidates, z_mZ, x_mCHW)
        # Among more candidates a draw takes more of the stream: with as many as `uniform` has, line 9 goes as it does there.
        ids = sorted(candidates) * (len(self._neighbor_ids) or 1 if self.settings.policy in _OWN_AGAIN else 1)
        chosen = ids[sample(uniform(len(ids)), self.streams["selection"])]  # 11
        loss = self._update_generator(z_mZ, candidates[chosen])  # 12
        return Exchange(chosen, loss) if math.isfinite(loss) else Exchange()

    def _learn_by_gain(self, candidates: _Neighbors, z_mZ: Tensor, x_mCHW: Tensor) -> Exchange:
        fake_mCHW = self._run(self.generate, z_mZ)
        own_m, judged = self._hear(candidates, fake_mCHW)
        if not judged:
            return Exchange()
        ids, judges = list(judged), [candidates[j] for j in judged]
        evidence = Evidence(
            own_m,
            torch.stack(list(judged.values())),
            lambda: self._each(self._ask, judges, x_mCHW),
            lambda: self._each(self._slope, [self.discriminator, *judges], fake_mCHW),
        )
        found = CRITERIA[self.settings.cooperation.criterion](evidence)  # Eq. (6)
        chosen = ids[sample(information_gain(found.values_J), self.streams["selection"])]  # 11, Eq. (7)
        return Exchange(
            chosen,
            self._update_generator(z_mZ, candidates[chosen], fake_mCHW),  # 12
            divergences=dict(zip(ids, found.values_J.tolist(), strict=True)),
            clamped=found.clamped,
            negative_terms=found.negative_terms,
        )

    def _learn_from_all(self, read_neighbors: _Read, z_mZ: Tensor) -> tuple[float, Exchange | None]:
        """Lines 8 to 12 of the policy `forgiving`: in a cycle that considers neighbours both steps of G please D_max.

        Line 9 is drawn first. Where it comes out false, line 8 is the paper's; with P(consider neighbours) = 1 every step
        of G is forgiving, as in F2U.

        Returns:
            G's loss at line 8, and what came of line 9.
        """
        if not self._consider_neighbors():  # 9
            return self._update_generator(z_mZ, self.discriminator), None  # 8
        neighbors = read_neighbors()  # 10
        fake_mCHW = self._run(self.generate, z_mZ)
        own_m, judged = self._hear(neighbors, fake_mCHW)
        judge = Forgiving((self.discriminator, *(neighbors[j] for j in judged)))
        g_loss = self._update_generator(z_mZ, judge, fake_mCHW)  # 8
        if not judged:
            return g_loss, Exchange()
        loss = self._update_generator(z_mZ, judge)  # 12
        chosen = [self._node_id, *judged][most_forgiving(torch.stack([own_m, *judged.values()]))]
        return g_loss, Exchange(chosen, loss) if math.isfinite(loss) else Exchange()

    def _learn_in_parts(self, read_neighbors: _Read, z_mZ: Tensor) -> tuple[float, Exchange | None]:
        """The same of the policy `territories`: each D judges its own part of the noise, at both steps of G.

        The territory of a neighbour that cannot be heard now is the own D's until it can.
        """
        neighbors, fake_mCHW = read_neighbors(), self._run(self.generate, z_mZ)  # 10
        judges, parts = [self.discriminator], fake_mCHW.tensor_split(len(self._territories))
        for j, part in zip(self._territories[1:], parts[1:], strict=True):
            usable = j in neighbors and bool(self._run(self._ask, neighbors[j], part).isfinite().all())
            judges.append(neighbors[j] if usable else self.discriminator)
        judge = Divided(tuple(judges))
        g_loss = self._update_generator(z_mZ, judge, fake_mCHW)  # 8
        if not self._consider_neighbors():  # 9
            return g_loss, None
        loss = self._update_generator(z_mZ, judge)  # 12
        return g_loss, Exchange(self._node_id, loss) if math.isfinite(loss) else Exchange()

    def average(self, neighbors: _Neighbors) -> set[int]:
        """Gossip averaging of D with neighbours' new snapshots, as in D-PSGD (Lian et al. 2017, arXiv 1705.09056).

        Each weighs as much as the own D, and so does one from whom nothing new has come; momentum stays. Returns whose D was
        left out, as `judges.average` tells.
        """
        return average(self.discriminator, neighbors, 1 + len(self._neighbor_ids))

    def _hear(self, neighbors: _Neighbors, images_mCHW: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (m,) of the own D, and of each neighbour's by id; one that answers with inf or nan is no candidate."""
        ids = sorted(neighbors)
        judges = [self.discriminator, *(neighbors[j] for j in ids)]
        own_m, *their_Jm = self._each(self._ask, judges, images_mCHW)
        judged = dict(zip(ids, their_Jm, strict=True))
        return own_m, {j: logits_m for j, logits_m in judged.items() if bool(logits_m.isfinite().all())}

    def _each(self, tell: _Tell, judges: Sequence[Discriminator], images_mCHW: Tensor) -> Tensor:
        """What each judge tells of the images, (J, m, …) on the CPU."""
        return torch.stack([self._run(tell, judge, images_mCHW).cpu() for judge in judges])

    def _slope(self, discriminator: Discriminator, images_mCHW: Tensor) -> Tensor:
        """Gradient (m, C H W) of G's loss with respect to the images: the change that this D asks for, but for its sign."""
        apart_mCHW = images_mCHW.detach().requires_grad_()
        loss = GENERATOR_LOSSES[self.settings.generator.loss](self._judge(discriminator, apart_mCHW))
        (gradient_mCHW,) = torch.autograd.grad(loss, apart_mCHW)
        return gradient_mCHW.flatten(start_dim=1)

    def _ask(self, discriminator: Discriminator, images_mCHW: Tensor) -> Tensor:
        """The same logits, without gradients."""
        with torch.no_grad():
            return self._judge(discriminator, images_mCHW)

    def _judge(self, discriminator: Judge, images_mCHW: Tensor, **options: Any) -> Tensor:
        """Logits (m,) of D(x), float32; options are that judge's."""
        with self._precision():
            logits_m: Tensor = discriminator(images_mCHW, **options)
        return logits_m

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def _changed(self) -> list[Tensor]:
        """All that a cycle changes on the device."""
        kept = (self.generator.state_dict(), self.discriminator.state_dict())
        moments = (self.g_optimizer.state(), self.d_optimizer.state())
        return [tensor for part in (*kept, *moments) for tensor in part.values()]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next cycle depends on, by dotted name; `load_state` takes it back bit for bit.

        Raises:
            TrainingError: A weight is not finite; such a state is not worth keeping.
        """
        networks = [add_prefix(network.state_dict(), name) for name, network in self._networks.items()]
        weights = {name: tensor for part in networks for name, tensor in part.items()}
        for name, tensor in weights.items():
            self._require(bool(tensor.isfinite().all()), f"{name} is not finite")
        return {
            **weights,
            **add_prefix(self.g_optimizer.state(), "g_optimizer"),
            **add_prefix(self.d_optimizer.state(), "d_optimizer"),
            **add_prefix({name: stream.get_state() for name, stream in self.streams.items()}, "random"),
            **add_prefix(self.batches.state(), "batches"),
            "progress.cycle": torch.tensor(self.cycle_count),
            **({"progress.neighbors": torch.tensor(self._neighbor_ids)} if self.settings.averages else {}),
        }

    def _require(self, finite: bool, what: str) -> None:  # noqa: FBT001 - what is required
        if not finite:
            raise TrainingError(f"cycle {self.cycle_count}: {what}; lower the learning rates")

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from what `state` returned, perhaps in another process."""
        for name, network in self._networks.items():
            network.load_state_dict(strip_prefix(tensors, name))
        self.g_optimizer.load_state(strip_prefix(tensors, "g_optimizer"))
        self.d_optimizer.load_state(strip_prefix(tensors, "d_optimizer"))
        for name, stream in self.streams.items():
            stream.set_state(tensors[f"random.{name}"])
        self.batches.load_state(strip_prefix(tensors, "batches"))
        self.cycle_count = int(tensors["progress.cycle"])
        if self.settings.averages:
            # Weights and territories stay as they were, whoever has been taken away since.
            self._neighbor_ids = tensors["progress.neighbors"].tolist()
