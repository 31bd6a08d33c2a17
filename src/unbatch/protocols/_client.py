"""What the clients of all protocols share: the gradient that a step follows, and defenses at their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unbatch.contracts import Defense, Stage
from unbatch.gradients import Loss, capture, per_example
from unbatch.types import Batch

__all__ = ["defend", "fed", "following", "remarks", "rescaled"]


def defend(stage: Stage, defenses: Sequence[Defense], update: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The update after all defenses of a stage, in their order."""
    for defense in defenses:
        if defense.stage is stage:
            update = defense(update, generator)
    return dict(update)


def fed(model: nn.Module, batch: Batch) -> Tensor:
    """The inputs in the model's dtype; tokens as they are."""
    return batch.inputs.to(next(model.parameters()).dtype) if batch.inputs.is_floating_point() else batch.inputs


def following(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss, defenses: Sequence[Defense], generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean gradient of a batch; sample by sample where a defense asks for that."""
    if not any(defense.stage is Stage.EXAMPLE for defense in defenses):
        return capture(model, inputs, labels, loss)
    single = defend(Stage.EXAMPLE, defenses, per_example(model, inputs, labels, loss), generator)
    return {name: tensor.mean(dim=0) for name, tensor in single.items()}


def rescaled(defenses: Sequence[Defense]) -> bool:
    """Whether a factor that the server does not know is left in the update."""
    return any(defense.rescales for defense in defenses)


def remarks(defenses: Sequence[Defense]) -> tuple[str, ...]:
    """What the server is told of the defenses: that they are there, and their settings."""
    return tuple(f"that the update was defended by {defense.spec}" for defense in defenses)
