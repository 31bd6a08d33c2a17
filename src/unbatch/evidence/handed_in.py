"""What an attack handed in, before it is judged: whether it is a proposal at all, and a copy of it that nobody else holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from unbatch.types import Candidate, Inverted, Observation

__all__ = ["copied", "fault_of"]


def copied(candidate: Candidate) -> Candidate:
    """The same, of tensors that a thread which the attack left behind cannot write to while they are judged."""

    def own(given: Tensor | None) -> Tensor | None:
        return None if given is None else given.detach().clone()

    return replace(
        candidate,
        inputs=own(candidate.inputs),
        labels=own(candidate.labels),
        features=own(candidate.features),
        order=own(candidate.order),
        certainty=own(candidate.certainty),
    )


def fault_of(observation: Observation, candidate: Candidate) -> str:
    """What is wrong with a proposal in itself, or nothing: that is the attack's fault, not the update's."""
    if fault := _of_own_type(candidate):
        return fault
    for name, given, shape in (("inputs", candidate.inputs, observation.input_shape), ("features", candidate.features, None)):
        if given is None:
            continue
        if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < 2:
            return f"the attack returned {name} that are not a floating-point tensor of one row a sample"
        if shape is None and given.ndim != 2:
            return f"the attack returned {name} of shape {tuple(given.shape)}, where a row of numbers a sample is needed"
        if shape is not None and tuple(given.shape[1:]) != shape:
            return f"the attack returned {name} of shape {tuple(given.shape)}, where samples have the shape {shape}"
        if given.numel() and not bool(torch.stack(given.aminmax()).isfinite().all()):  # the extremes need no copy
            return f"the attack returned {name} with NaN or infinity"
        labels = candidate.labels
        if labels is not None and (labels.ndim != 1 or len(labels) != len(given) or labels.dtype != torch.int64):
            return f"the attack returned {len(given)} {name} with labels of shape {tuple(labels.shape)} and type {labels.dtype}"
        if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < observation.classes:
            return "the attack returned labels that are none of the model's classes"
    return _of_its_order(candidate)


def _of_its_order(candidate: Candidate) -> str:
    order, count = candidate.order, 0 if candidate.inputs is None else len(candidate.inputs)
    if order is not None and (
        order.ndim != 2
        or order.shape[1] != count
        or not torch.equal(order.sort(dim=1).values, torch.arange(count, device=order.device).expand_as(order))
    ):
        return "the attack returned an order of the samples that is none"
    return ""


def _of_own_type(candidate: Candidate) -> str:
    """What is no plain tensor of numbers, or nothing: a tensor of a type of its own may answer differently every time that it is asked."""
    for given in (candidate.inputs, candidate.features, candidate.labels, candidate.order, candidate.certainty):
        if given is None:
            continue
        if type(given) not in (Tensor, nn.Parameter):
            return f"the attack returned a {type(given).__name__} where a plain tensor is needed"
        if given.is_nested or given.layout != torch.strided or given.is_meta or (given.is_floating_point() and given.itemsize < HALF):
            layout = "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
            what = f"{layout}, {str(given.dtype).removeprefix('torch.')}, on {given.device}"
            return f"the attack returned a tensor ({what}) where a plain one is needed"
    said = ((candidate.stats, Mapping), (candidate.reason, str), (candidate.layer, str | None), (candidate.inverted, Inverted | None))
    for value, kind in said:
        if not isinstance(value, kind):
            return f"the attack returned a {type(value).__name__} where words or counts are needed"
    return ""


HALF = 2
"""Bytes of the shortest floating-point number that is computed with."""
