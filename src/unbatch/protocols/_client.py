"""What the clients of all protocols share: the gradient that a step follows, and defenses at their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unbatch.contracts import Defense, Stage
from unbatch.gradients import Loss, capture, check_deterministic, per_example
from unbatch.types import Batch

__all__ = ["check", "defend", "fed", "following", "remarks", "rescaled"]


def defend(stage: Stage, defenses: Sequence[Defense], update: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The update after all defenses of a stage, in their order."""
    for defense in defenses:
        if defense.stage is stage:
            update = defense(update, generator)
    return dict(update)


def fed(model: nn.Module, batch: Batch) -> Tensor:
    """The inputs in the model's dtype; tokens as they are."""
    return batch.inputs.to(next(model.parameters()).dtype) if batch.inputs.is_floating_point() else batch.inputs


def check(model: nn.Module, inputs: Tensor, defenses: Sequence[Defense]) -> None:
    """Refuse a model whose gradient is no function of the batch; of each sample alone, where a defense asks for that.

    Raises:
        NotDeterministic: with what was measured.
    """
    check_deterministic(model, inputs, alone=_by_sample(defenses))


def following(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss, defenses: Sequence[Defense], generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean gradient of a batch, sample by sample where a defense asks for that; of a model that ``check`` has seen."""
    if not _by_sample(defenses):
        return capture(model, inputs, labels, loss, check=False)
    single = defend(Stage.EXAMPLE, defenses, per_example(model, inputs, labels, loss, check=False), generator)
    return {name: tensor.mean(dim=0) for name, tensor in single.items()}


def _by_sample(defenses: Sequence[Defense]) -> bool:
    return any(defense.stage is Stage.EXAMPLE for defense in defenses)


def rescaled(defenses: Sequence[Defense]) -> bool:
    """Whether a factor that the server does not know is left in the update."""
    return any(defense.rescales for defense in defenses)


def remarks(defenses: Sequence[Defense]) -> tuple[str, ...]:
    """What the server is told of the defenses: that they are there, and their settings but for hidden ones."""
    return tuple(f"that the update was defended by {defense.told}" for defense in defenses)
