"""What a client sent, to an observation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unbatch.gradients import Loss
from unbatch.importers.files import read_tensors
from unbatch.types import Observation, Schema

__all__ = ["load_observation"]


def load_observation(
    model: nn.Module,
    update_path: str | Path,
    input_shape: Sequence[int],
    *,
    loss: Loss = "cross_entropy",
    batch_size: int | None = None,
    labels: Tensor | None = None,
    schema: Schema | None = None,
    device: torch.device | str = "cpu",
) -> Observation:
    """An observation from the file of a captured update, with model and update moved to ``device``.

    Args:
        model: as broadcast, with its weights, in the mode in which the client ran it.
        update_path: file with parameter name -> mean gradient over the batch, see ``read_tensors``.
        input_shape: of one sample.
        loss: see ``Observation``.
        batch_size: see ``Observation``.
        labels: see ``Observation``.
        schema: see ``Observation``.
        device: where the attack is to run.

    Raises:
        BadFile: see ``read_tensors``.
        BadUpdate: the update does not fit the model.
        Misuse: see ``Observation``.
    """
    update = {name: tensor.to(device) for name, tensor in read_tensors(update_path).items()}
    labels = None if labels is None else labels.to(device)
    return Observation(model.to(device), update, tuple(input_shape), loss, batch_size, labels, schema=schema)
