"""SGD and Adam as torch.optim computes them, by its functions and without its classes.

The classes load torch's compiler at their first use, to tell it to leave them alone: more than a second and 80 MB of
every node's start, for a compiler that nothing here calls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam
from torch.optim.sgd import sgd

_EPSILON = 1e-8  # torch.optim.Adam's


class Optimizer(ABC):
    """Descends a loss along the gradients of given parameters, and of no others.

    Args:
        parameters: What it changes.
        moments: What it remembers of each parameter, by name: tensors of the parameter's shape, 0 at first.

    Attributes:
        parameters: What it changes.
        looks: Whether it may look at a loss and save itself the gradients; not where steps are recorded (`node/replay.py`).
    """

    looks = False

    def __init__(self, parameters: Iterable[Parameter], moments: Sequence[str]) -> None:
        self.parameters = list(parameters)
        # They lie in memory as their parameters do: the fused kernels walk both in one order.
        self._moments = {name: [torch.zeros_like(p) for p in self.parameters] for name in moments}

    def descend(self, loss: Tensor, above: Tensor | float = -math.inf) -> None:
        """One step along the gradients of `loss` (); none where it is not finite, or not above a threshold.

        The fused kernels are told where to do nothing, so that nobody need look at the loss.
        """
        if self.looks and not loss > above:
            return
        for parameter in self.parameters:
            parameter.grad = None
        # Other gradients, such as those of the D that judges G's images, would be computed for nothing.
        loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        with torch.no_grad():
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            self._step(gradients, (~(loss.isfinite() & (loss > above))).float())

    @abstractmethod
    def _step(self, gradients: list[Tensor], found_inf: Tensor) -> None:
        """Changes the parameters, which is all that `descend` leaves to do; nothing where `found_inf` () is 1."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers, as `INDEX.NAME` by the order of the parameters."""
        return {
            f"{index}.{name}": tensor
            for name, tensors in self._moments.items()
            for index, tensor in enumerate(tensors)
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        for name, mine in self.state().items():
            mine.copy_(tensors[name])


class Momentum(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD."""

    def __init__(self, parameters: Iterable[Parameter], learning_rate: float, momentum: float) -> None:
        super().__init__(parameters, ["momentum_buffer"] if momentum else [])
        self._learning_rate, self._momentum = learning_rate, momentum

    def _step(self, gradients: list[Tensor], found_inf: Tensor) -> None:
        sgd(
            list[Tensor](self.parameters),
            gradients,
            list[Tensor | None](self._moments.get("momentum_buffer", [None] * len(gradients))),
            fused=True,
            found_inf=found_inf,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=self._learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), as torch.optim.Adam."""

    def __init__(
        self, parameters: Iterable[Parameter], learning_rate: float, beta1: float, beta2: float
    ) -> None:
        super().__init__(parameters, ["exp_avg", "exp_avg_sq"])
        self._learning_rate, self._beta1, self._beta2 = learning_rate, beta1, beta2
        # The fused kernels count in a tensor for each parameter, on its device.
        self._moments["step"] = [torch.zeros((), device=p.device) for p in self.parameters]

    def _step(self, gradients: list[Tensor], found_inf: Tensor) -> None:
        adam(
            list[Tensor](self.parameters),
            gradients,
            self._moments["exp_avg"],
            self._moments["exp_avg_sq"],
            [],
            self._moments["step"],
            fused=True,
            found_inf=found_inf,
            amsgrad=False,
            beta1=self._beta1,
            beta2=self._beta2,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )
