"""The labels that a candidate batch is given: as told, as the last layer's gradient says, or searched along with the inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from unbatch.errors import Inapplicable
from unbatch.last_layer import LastLayer, last_layer, obstacle
from unbatch.linalg.simplex import whole
from unbatch.types import Observation

__all__ = ["Labels", "assuming", "batch_size", "fixed_labels", "label_obstacle"]

NOTHING = 1e-12
"""A class whose bias gradient is below this share of the largest has none, but for the rounding of float64. Chosen."""

Labels = Literal["restored", "searched"]
"""Where the server was not told the labels: ``restored`` from the last layer's gradient, or ``searched`` with the inputs."""

SMOOTH_TARGETS = ("cross_entropy", "nll")
"""Losses that are defined for probabilities of classes too."""


def assuming(observation: Observation, size: int | None) -> Observation:
    """The same, with a batch size that the attacker assumes where the server does not know it."""
    return observation if size is None or batch_size(observation) is not None else replace(observation, batch_size=size)


def batch_size(observation: Observation) -> int | None:
    """How many samples the server knows the batch to have."""
    return observation.batch_size if observation.labels is None else len(observation.labels)


def label_obstacle(observation: Observation, labels: Labels) -> str | None:
    """Why there are no labels to be had in this way, or None if there are."""
    if observation.labels is not None:
        return None
    if labels == "restored":
        missing = obstacle(observation, bias=(batch_size(observation) or 1) > 1)
        if missing is None and not observation.factor_known and batch_size(observation) != 1:
            missing = "the update is multiplied by a factor that the server does not know"
        return None if missing is None else f"the labels cannot be restored ({missing}): set labels=searched, or tell the labels"
    if observation.loss not in SMOOTH_TARGETS:
        return "labels can be searched only with the losses cross_entropy and nll: tell the labels"
    return None


def fixed_labels(observation: Observation, labels: Labels) -> Int64[Tensor, " b"] | None:
    """As told or as restored, in rising order where they are restored; None where they are to be searched.

    Raises:
        Inapplicable: they cannot be restored.
    """
    if observation.labels is not None:
        return observation.labels
    if labels == "searched":
        return None
    if (missing := label_obstacle(observation, labels)) is not None:
        raise Inapplicable(missing)
    layer, count = last_layer(observation), batch_size(observation) or 1
    classes = torch.arange(layer.classes, device=observation.device)
    if count == 1:
        return classes[_only_class(layer)][None]
    return classes.repeat_interleave(_counts(layer, count))


def _only_class(layer: LastLayer) -> int:
    """Of one sample p − y is negative in one place only (iDLG, Zhao et al. 2020): in the bias, or in the row that points against others."""
    if layer.shift is not None:
        return int(layer.shift.argmin())
    against_the_rest = (layer.gradient @ layer.gradient.T).fill_diagonal_(0).sum(dim=1)
    return int(layer.row_sums.argmin() if layer.non_negative else against_the_rest.argmin())


def _counts(layer: LastLayer, total: int) -> Int64[Tensor, " c"]:
    """Instance-wise restoration as in iLRG (Ma et al., ICLR 2023): every class j has about the features G_j / g_j and their softmax.

    With P the matrix of these, (Pᵀ − I) n = K g and Σ n = K. Adding the second to each of the first makes one square system.
    """
    shift = layer.bias_gradient
    zero = shift.abs() <= NOTHING * shift.abs().max()
    features = torch.where(
        zero[:, None], (shift @ layer.gradient) / shift.square().sum(), layer.gradient / shift.where(~zero, 1.0)[:, None]
    )
    softmax = torch.softmax(features @ layer.weight.T + layer.bias, dim=1)
    system = softmax.T - torch.eye(layer.classes, dtype=shift.dtype, device=shift.device) + 1 / layer.classes
    solved, failed = torch.linalg.solve_ex(system, total * (shift + 1 / layer.classes))
    if bool(failed) or not bool(solved.isfinite().all()):
        raise Inapplicable("the labels cannot be restored (no gradient of some classes is left): set labels=searched, or tell the labels")
    return whole(solved, total)
