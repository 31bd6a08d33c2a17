"""Labels of known inputs, from the gradient of the last layer: what the inputs do not explain of it is the labels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.labels._last_layer import obstacle
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["labels_by_head"]


def labels_by_head(observation: Observation, inputs: Float[Tensor, "b *shape"]) -> Int64[Tensor, " b"] | None:
    """The labels of a whole batch, or None where the model has no such last layer.

    With H the features of the inputs and P their softmax, the gradient of the last layer is (P − Y)ᵀ H / b, linear in the one-hot labels Y.
    That holds with batch statistics too, where no sample has a gradient of its own.

    Args:
        observation: what the server saw.
        inputs: (b, *shape) all samples of the batch.
    """
    if obstacle(observation) is not None:
        return None
    ran = run(observation.model, inputs)
    head = ran.linears[-1]
    features, scores = head.input.detach(), torch.softmax(ran.outputs.detach(), dim=1)
    if features.shape[1] < len(inputs):
        return None
    wrong = torch.linalg.lstsq(features.T, len(inputs) * observation.update[head.weight].double().T).solution
    return (scores - wrong).argmax(dim=1)
