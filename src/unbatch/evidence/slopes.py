"""What a sample's own loss says of its outputs, whatever the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unbatch.errors import Misuse, named
from unbatch.losses import loss_function, quiet_vmap, slopes, softmax_less
from unbatch.types import Observation

__all__ = ["pulled_back", "slopes_of"]


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
