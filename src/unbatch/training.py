"""Local training as a function of a batch: what a client's weights have moved by after some steps of SGD.

Works on copies: neither the model nor its buffers nor the global random state is touched.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64, Num
from torch import Tensor, nn

from unbatch.errors import Misuse
from unbatch.gradients import Loss, capture, check_deterministic

__all__ = ["GradientOf", "LocalTraining", "shuffled", "train"]

GradientOf = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
"""(model, inputs (b, *shape), labels (b,)) -> the gradient that a step follows, by parameter name."""


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains between the weights that it gets and the difference that it sends (FedAvg, McMahan et al. 2017).

    Attributes:
        epochs: E, passes over the client's data.
        batch_size: samples of a step, at most; the whole data if None.
        learning_rate: of SGD; None where the server was not told.
        momentum: of SGD, without dampening.
        weight_decay: λ of SGD, which adds λ times a weight to its gradient in every step (``torch.optim.SGD``).
        nesterov: whether the momentum is Nesterov's.

    Example:
        >>> LocalTraining(epochs=2, batch_size=5, learning_rate=0.1).steps(12)
        6
    """

    epochs: int = 1
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Refuse what no client can do."""
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise Misuse("at least one epoch and one sample a step", f"{self.epochs} and {self.batch_size}", "raise them")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise Misuse("a finite learning rate above zero", f"{self.learning_rate}", "give None if it is not known")
        if not 0 <= self.momentum < 1:
            raise Misuse("a momentum from 0 to below 1", f"{self.momentum}", "0 is plain SGD")
        if not 0 <= self.weight_decay < math.inf or (self.learning_rate or 0.0) * self.weight_decay >= 1:
            raise Misuse("a weight decay from 0 on, times the learning rate below 1", f"{self.weight_decay}", "0 is none")
        if self.nesterov and not self.momentum:
            raise Misuse("a momentum above 0 with Nesterov's", "0", "give the momentum, or leave Nesterov's out")

    def parts(self, samples: int) -> list[slice]:
        """The steps of an epoch, as slices of its order."""
        size = min(self.batch_size or samples, samples)
        return [slice(start, min(start + size, samples)) for start in range(0, samples, size)]

    def steps(self, samples: int) -> int:
        """How many steps in all."""
        size = min(self.batch_size or samples, samples)
        return self.epochs * -(-samples // size)

    def whole(self, samples: int | None) -> bool:
        """Whether every step sees all samples, so that their order does not matter."""
        return self.batch_size is None or (samples is not None and self.batch_size >= samples)

    def one_step(self, samples: int | None) -> bool:
        """Whether the difference is a single gradient, up to a factor."""
        return self.epochs == 1 and self.whole(samples)

    def weight(self, step: int, samples: int) -> float:
        """``weights`` of one step."""
        if not self.nesterov and not self.weight_decay:
            return (1 - self.momentum ** (self.steps(samples) - step)) / (1 - self.momentum)
        return self.weights(samples)[step]

    def weights(self, samples: int) -> list[float]:
        """What the gradient of each step counts in the difference, without the learning rate: 1 for plain SGD, more by momentum."""
        return self._response(samples)[0]

    def total(self, samples: int) -> float:
        """Sum of ``weights``."""
        if self.nesterov or self.weight_decay:
            return math.fsum(self.weights(samples))
        steps, rest = self.steps(samples), self.momentum
        return (steps - rest * (1 - rest**steps) / (1 - rest)) / (1 - rest)

    def decayed(self, samples: int | None) -> float | None:
        """The share of its first value that a weight loses by decay alone; None where that is not known.

        Example:
            >>> round(LocalTraining(learning_rate=0.5, weight_decay=0.1).decayed(8), 9)
            0.05
        """
        if not self.weight_decay:
            return 0.0
        if self.learning_rate is None or (samples is None and self.batch_size is not None):
            return None
        return self._response(samples or 1)[1]

    def _response(self, samples: int) -> tuple[list[float], float]:
        """A step of SGD is linear in the weight, its momentum and the gradient: what the last weight owes to each of the gradients and to
        the first weight, followed backwards. Without a learning rate, as if there were no decay.
        """
        rate, decay = (1.0, 0.0) if self.learning_rate is None else (self.learning_rate, self.weight_decay)
        fed, own = rate * (1 + self.momentum if self.nesterov else 1), rate * self.momentum * (self.momentum if self.nesterov else 1)
        weight, momentum, counted = 1.0, 0.0, []
        for _ in range(self.steps(samples)):
            counted.append((fed * weight - momentum) / rate)
            weight, momentum = weight - decay * (fed * weight - momentum), self.momentum * momentum - own * weight
        return counted[::-1], 1 - weight

    def average(self, moved: Mapping[str, Tensor], before: Mapping[str, Tensor], samples: int | None) -> dict[str, Tensor]:
        """The average gradient of the steps: a difference of weights without what they lost by decay, over ``factor`` where it is known.

        Args:
            moved: weights before less those after.
            before: the weights before.
            samples: of the client.
        """
        factor, decayed = self.factor(samples) or 1.0, self.decayed(samples) or 0.0
        if not decayed:
            return {name: tensor / factor for name, tensor in moved.items()}
        return {name: (tensor - decayed * before[name].detach().to(tensor)) / factor for name, tensor in moved.items()}

    def factor(self, samples: int | None) -> float | None:
        """difference = factor · average gradient; None where the learning rate, or the number of steps, is not known."""
        if self.learning_rate is None or (samples is None and self.batch_size is not None):
            return None
        return self.learning_rate * self.total(samples or 1)


def shuffled(epochs: int, samples: int, generator: torch.Generator) -> Int64[Tensor, "e b"]:
    """A fresh order of the samples for every epoch."""
    return torch.stack([torch.randperm(samples, generator=generator, device=generator.device) for _ in range(epochs)])


def train(
    model: nn.Module,
    inputs: Num[Tensor, " b *shape"],
    labels: Int64[Tensor, " b"],
    local: LocalTraining,
    order: Int64[Tensor, "e b"],
    loss: Loss = "cross_entropy",
    gradient: GradientOf | None = None,
) -> dict[str, Tensor]:
    """Weights before minus weights after, as the client computes it, in the model's dtype.

    Args:
        model: as broadcast.
        inputs: (b, *shape) in the model's dtype.
        labels: (b,).
        local: how it trains; the learning rate must be known.
        order: (E, b) the order of the samples in every epoch.
        loss: as for ``capture``.
        gradient: what a step follows, if not the mean gradient of its samples. That the model is deterministic was seen before.

    Raises:
        Misuse: the learning rate is not known; or see ``capture``.
        NotDeterministic: see ``capture``.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> moved = train(net, torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), LocalTraining(learning_rate=0.1), torch.arange(4)[None])
        >>> bool((moved["bias"] - 0.1 * capture(net, torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))["bias"]).abs().max() < 1e-7)
        True
    """
    if local.learning_rate is None:
        raise Misuse("a learning rate", "none", "training cannot be replayed without it")
    check_deterministic(model, inputs, alone=False)
    follow = gradient or (lambda moving, x, y: capture(moving, x, y, loss, check=False))
    moving = _copy(model)
    parameters = {name: parameter for name, parameter in moving.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD(
        parameters.values(), local.learning_rate, local.momentum, weight_decay=local.weight_decay, nesterov=local.nesterov
    )
    for epoch in order:
        for part in local.parts(len(inputs)):
            step = follow(moving, inputs[epoch[part]], labels[epoch[part]])
            for name, parameter in parameters.items():
                parameter.grad = step[name].to(parameter)
            optimizer.step()
    return {name: before[name] - parameter.detach() for name, parameter in parameters.items()}


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy in the same mode, without gradients or hooks on tensors."""
    with torch.no_grad():
        moving = copy.deepcopy(model)
    for parameter in moving.parameters():
        parameter.grad = None
    return moving
