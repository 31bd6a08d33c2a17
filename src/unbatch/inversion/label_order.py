"""Which label belongs to which recovered sample: the one whose slope at a layer points as the sample's column of the gradient does."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from unbatch.gradients import sensitivities
from unbatch.inversion.label_guess import batch_size, fixed_labels, label_obstacle
from unbatch.types import Observation

__all__ = ["columns_of", "labels_by_columns", "without"]


def columns_of(observation: Observation, weight: str, rows: Float[Tensor, "k n"]) -> Float[Tensor, "k m"]:
    """∂L/∂z of every sample, from what a layer is fed: the least-squares A of ∂L/∂W = A X.

    Example:
        >>> seen = Observation(torch.nn.Linear(2, 3, bias=False), {"weight": torch.tensor([[2.0, 1.0], [4.0, 2.0], [0.0, 0.0]])}, (2,))
        >>> columns_of(seen, "weight", torch.tensor([[2.0, 1.0]])).tolist()
        [[1.0, 2.0, 0.0]]
    """
    rows = rows.double()
    gradient = observation.update[weight].double()
    return torch.linalg.lstsq(rows @ rows.T, rows @ gradient.T, driver="gelsd" if rows.device.type == "cpu" else None).solution


def labels_by_columns(
    observation: Observation, weight: str, inputs: Float[Tensor, " k *shape"], columns: Float[Tensor, "k m"]
) -> Int64[Tensor, " k"]:
    """The labels that fit best, each sample's own or, where the counts are told or can be restored, one to one.

    Args:
        observation: what the server saw.
        weight: name of the layer's weight.
        inputs: (k, *shape) samples, by estimate.
        columns: (k, m) of the layer.
    """
    with torch.no_grad():
        slopes = sensitivities(observation.model, inputs, weight, observation.loss)
    likeness = F.cosine_similarity(slopes, columns.to(slopes)[None], dim=2)
    known = batch_size(observation)
    there = None if known is None or label_obstacle(observation, "restored") else fixed_labels(observation, "restored")
    if there is None or len(there) < len(inputs):
        return likeness.argmax(dim=0)
    rows, chosen = linear_sum_assignment((-likeness[there].T).nan_to_num(1.0).cpu().numpy())
    return there[torch.as_tensor(chosen, device=there.device)][torch.as_tensor(rows, device=there.device).argsort()]


def without(labels: Int64[Tensor, " b"], taken: Int64[Tensor, " k"]) -> Int64[Tensor, " r"]:
    """The labels that are left when some are taken, each as often as it is taken.

    Example:
        >>> without(torch.tensor([0, 1, 1, 4]), torch.tensor([1, 4])).tolist()
        [0, 1]
    """
    left = labels.tolist()
    for label in taken.tolist():
        if label in left:
            left.remove(label)
    return labels.new_tensor(left)
