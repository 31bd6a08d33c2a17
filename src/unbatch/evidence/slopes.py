"""What a sample's own loss says of its outputs, whatever the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unbatch.errors import Misuse, named
from unbatch.losses import loss_function, quiet_vmap, slopes, slopes_alone, softmax_less
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["labels_told", "likely", "pulled_back", "slopes_of"]

PARALLEL = 1e-6
"""Two labels whose slopes differ by less in their direction leave the same gradient, but for what the sample counts. Chosen: half of
float64's digits."""


def slopes_of(observation: Observation, outputs: Tensor, labels: Tensor) -> Tensor:
    """∂ℓ(outputs_i, label_i)/∂outputs_i of every sample by itself, (k, C); without cancellation where a sample is nearly certain.

    Args:
        observation: for the loss.
        outputs: (k, C).
        labels: (k,).
    """
    if observation.loss == "cross_entropy":
        return softmax_less(outputs, F.one_hot(labels, outputs.shape[1]).bool())
    if not len(outputs):
        return torch.zeros_like(outputs)
    measure = loss_function(observation.loss)

    def own(row: Tensor, label: Tensor) -> Tensor:
        return measure(row[None], label[None])

    try:
        with quiet_vmap():
            at_once: Tensor = torch.func.vmap(torch.func.grad(own))(outputs, labels)
        if bool(at_once.any()):  # zeros may also mean that there is no gradient
            return at_once
    except (RuntimeError, Misuse):  # something in the loss is not made for vmap: one by one, then
        pass
    return torch.cat([slopes(observation.loss, row[None], label[None]) for row, label in zip(outputs, labels, strict=True)])


def pulled_back(outputs: Tensor, targets: Sequence[Tensor], head: Tensor, *, again: bool = False) -> list[Tensor | None]:
    """head · ∂outputs/∂target of each; None for what the outputs do not follow, as what a model computes without gradients.

    With ``again`` the graph is kept for another time.

    Raises:
        Misuse: the model runs, but cannot be differentiated in double precision.
    """
    followed = [target for target in targets if target.requires_grad and outputs.requires_grad]
    try:
        found = iter(torch.autograd.grad(outputs, followed, head, retain_graph=again, allow_unused=True) if followed else ())
    except (RuntimeError, NotImplementedError) as error:
        advice = "turn the checkpointing of activations off, which runs a model again with its own weights, or check the model"
        raise Misuse("a model that can be differentiated in double precision", named(error), advice) from error
    return [next(found) if followed and target.requires_grad else None for target in targets]


def labels_told(observation: Observation, inputs: Tensor, labels: Tensor) -> bool:
    """Whether no other label of any sample would leave the same gradient, up to a factor.

    Of plain cross-entropy none does. Label smoothing may: of two classes, where the network is sure, both labels pull in one direction.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
    """
    if observation.loss in ("cross_entropy", "nll"):
        return True
    outputs = run(observation.model, inputs).outputs.detach()
    every = slopes_alone(observation.loss, outputs, torch.arange(outputs.shape[1], device=outputs.device))
    every = torch.nn.functional.normalize(every, dim=-1)
    own = every[labels, torch.arange(len(labels), device=labels.device)]
    alike = (every * own).sum(dim=-1) > 1 - PARALLEL
    return int(alike.sum()) == len(labels)


def likely(observation: Observation, inputs: Tensor, labels: Tensor) -> bool:
    """Whether the network finds no label so unlikely that the client may have had the other one of two, smoothed.

    With smoothing σ a sample of class 1 pulls by p − 1 + σ/2, which is above zero, as of class 0, once p > 1 − σ/2. Told as plain
    cross-entropy, it is one of class 0 with a smaller weight: the label is turned round only where the network gives it less than σ/2.
    """
    if observation.loss not in ("cross_entropy", "nll"):
        return False
    given = run(observation.model, inputs).outputs.detach().softmax(dim=1)
    return bool((given[torch.arange(len(labels), device=labels.device), labels] >= UNLIKELY).all())


UNLIKELY = 0.25
"""Labels are smoothed by a half at most: see ``likely``. Derived."""
