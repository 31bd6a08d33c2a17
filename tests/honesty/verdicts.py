"""What a false verdict is: a reconstruction held against the truth, with nothing of the package but the types it returns.

Everything here errs on the strict side: what is called disclosed must be true to the accuracy that is stated, and whole where it is called
whole.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from unbatch.types import Reconstruction, Status

FINE, COARSE = 1e-3, 2e-2
"""Relative errors above which no sample is a member, whatever accuracy is stated: float64 and float32; updates in fewer bits."""

SLACK = 3.0
"""A sample may be off by so many times the accuracy that is stated."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What the client had.

    Attributes:
        model: a copy of what was broadcast.
        inputs: (b, *shape) float64, as the client's network saw them.
        labels: (b,).
        coarse: whether the update, or a tensor of it, holds no more digits than fp16 or int8.
        size_told: whether the server was told the right number of samples.
        scale_told: whether the update has the scale that the server was told, and the loss is that which it was told. Where not, a number
            of samples that left no trace follows from what was told wrongly.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    coarse: bool = False
    size_told: bool = False
    scale_told: bool = True


@dataclass(frozen=True)
class Falsehood:
    """Something said that is not so: ``kind`` to count by, ``detail`` with the numbers."""

    kind: str
    detail: str


def truth_of(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, coarse: bool = False, size_told: bool = False, scale_told: bool = True
) -> Truth:
    """Copies, so that whoever tampers with the originals changes nothing here."""
    seen = inputs.to(next(model.parameters()).dtype)
    return Truth(copy.deepcopy(model), seen.double().clone(), labels.clone(), coarse, size_told, scale_told)


def layer_inputs(model: nn.Module, inputs: Tensor, weight: str) -> Tensor:
    """(b, n) float64: what the Linear layer with a weight of this name is fed, by a hook."""
    twin = copy.deepcopy(model).double()
    seen: list[Tensor] = []
    layer = twin.get_submodule(weight.removesuffix("weight").removesuffix("."))
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().flatten(1)))
    with torch.no_grad():
        twin(inputs.double())
    return seen[0]


def claimed(found: Reconstruction) -> int:
    """How many samples are called disclosed."""
    return 0 if found.inputs is None else int(_claims(found, len(found.inputs)).sum())


def falsehoods(found: Reconstruction, truth: Truth) -> list[Falsehood]:
    """All that a reconstruction says and that is not so."""
    wrong = _false_features(found, truth)
    if found.inputs is None:
        return wrong + ([Falsehood("empty", f"{found.status.name} without samples")] if found.status.disclosed else [])
    claims = _claims(found, len(found.inputs))
    if not bool(claims.any()):
        return wrong + ([Falsehood("empty", f"{found.status.name} with no sample proved")] if found.status.disclosed else [])
    if tuple(found.inputs.shape[1:]) != tuple(truth.inputs.shape[1:]):
        return [*wrong, Falsehood("false sample", f"of shape {tuple(found.inputs.shape[1:])}")]
    rows = claims.nonzero()[:, 0]
    errors = _relative(found.inputs[rows], truth.inputs)
    limits = _limits(found, truth)[rows]
    fits = errors <= limits[:, None]
    worst = errors.amin(dim=1)
    bad = ~fits.any(dim=1)
    if bool(bad.any()):
        told = [f"{worst[i]:.1e} (limit {limits[i]:.1e})" for i in bad.nonzero()[:4, 0].tolist()]
        wrong.append(Falsehood("false sample", f"{int(bad.sum())} of {len(rows)} called {found.status.name} are off by {', '.join(told)}"))
    wrong += _false_labels(found, truth, rows, fits)
    return wrong if bool(bad.any()) else wrong + _false_counts(found, truth, fits) + _false_rest(found, truth, fits)


def _claims(found: Reconstruction, count: int) -> Tensor:
    """(k,) bool: whatever a disclosing status shows, and what is marked as proved under another one."""
    proved = getattr(found, "proved", None)
    if found.status.disclosed or proved is None:
        return torch.full((count,), found.status.disclosed)
    return proved.clone()


def _relative(guesses: Tensor, members: Tensor) -> Tensor:
    """(k, b) distance as a share of the member's length; a member of zeros is measured by the mean length of all."""
    guesses, members = guesses.double().flatten(1), members.flatten(1)
    lengths = members.norm(dim=1)
    lengths = lengths.where(lengths > 1e-9 * lengths.mean(), lengths.mean()).clamp_min(1e-300)
    distances = torch.stack([(guesses - member).norm(dim=1) for member in members], dim=1)
    return (distances / lengths).nan_to_num(math.inf, math.inf, math.inf)


def _limits(found: Reconstruction, truth: Truth) -> Tensor:
    """(k,) the relative error that each sample may have."""
    rows = found.features if found.inputs is None else found.inputs
    assert rows is not None
    most, stated = COARSE if truth.coarse else FINE, getattr(found, "accuracy", None)
    if stated is None or len(stated) != len(rows):
        return torch.full((len(rows),), most, dtype=torch.float64)
    return (SLACK * stated.double().nan_to_num(0.0) + 8 * torch.finfo(rows.dtype).eps).clamp_max(most)


def _false_labels(found: Reconstruction, truth: Truth, rows: Tensor, fits: Tensor) -> list[Falsehood]:
    """Labels that no member has which the sample could be; a negative label is none."""
    if found.labels is None:
        return []
    labels = found.labels[rows]
    right = (fits & (labels[:, None] == truth.labels)).any(dim=1) | (labels < 0) | ~fits.any(dim=1)
    if bool(right.all()):
        return []
    could = [sorted(set(truth.labels[fits[i]].tolist())) for i in (~right).nonzero()[:4, 0].tolist()]
    said = labels[~right][:4].tolist()
    return [Falsehood("false label", f"{int((~right).sum())} of {len(rows)} labels: said {said}, are {could}")]


def _false_counts(found: Reconstruction, truth: Truth, fits: Tensor) -> list[Falsehood]:
    """Copies that the client did not have; where the whole batch is claimed also members that are missing.

    Without a told batch size nobody can tell a batch from twice the batch: the counts may be off by one common factor.
    """
    k, b = fits.shape
    if found.status is not Status.RECONSTRUCTED:
        unmatched = k - _matched(fits)
        return (
            [Falsehood("invented copies", f"{unmatched} of {k} samples are more often there than the client had them")] if unmatched else []
        )
    if k != b and truth.size_told:
        return [Falsehood("false completeness", f"{k} samples called the whole batch of {b}, which was told")]
    common = math.gcd(k, b)
    paired = fits.repeat_interleave(b // common, dim=0).repeat_interleave(k // common, dim=1)
    if missing := len(paired) - _matched(paired):
        share = missing / len(paired)
        return [Falsehood("false completeness", f"{k} samples called the whole batch of {b}: {share:.0%} of it missing or invented")]
    return []


def _false_rest(found: Reconstruction, truth: Truth, fits: Tensor) -> list[Falsehood]:
    """A number of further samples, given as known, that the client did not have; without a told batch size their share is judged."""
    rest = getattr(found, "missing", None)
    if rest is None or not found.status.disclosed:
        return []
    if found.labels is not None:  # of a picture that was there with two labels, one is found and the other is not (212892)
        fits = fits & (found.labels[:, None] == truth.labels[None])
    (k, b), there = fits.shape, int(fits.any(dim=0).sum())
    right = rest == b - there or (not truth.size_told and k * b == (k + rest) * there)
    return [] if rest >= 0 and (right or not truth.scale_told) else [Falsehood("false rest", f"{k} samples and {rest} more, of {b}")]


def _matched(fits: Tensor) -> int:
    """How many pairs can be made, one to one."""
    first, second = linear_sum_assignment(fits.double().numpy(), maximize=True)
    return int(fits[first, second].sum())


def _false_features(found: Reconstruction, truth: Truth) -> list[Falsehood]:
    """Rows that are no input of the layer that they are said to be of."""
    if found.features is None or not (found.status.disclosed or found.status is Status.FEATURES):
        return []
    layer = getattr(found, "layer", None) or found.stats.get("layer")
    if layer is None:
        return [Falsehood("false features", "of no layer")]
    members = layer_inputs(truth.model, truth.inputs, layer)
    if found.features.shape[1:] != members.shape[1:]:
        return [Falsehood("false features", f"of shape {tuple(found.features.shape)} for {layer}, which is fed {tuple(members.shape)}")]
    stated = getattr(found, "accuracy", None) if found.inputs is None else None
    most = COARSE if truth.coarse else FINE
    limits = torch.full((len(found.features),), most, dtype=torch.float64)
    if stated is not None and len(stated) == len(limits):
        limits = (SLACK * stated.double() + 8 * torch.finfo(found.features.dtype).eps).clamp_max(most)
    worst = _relative(found.features, members).amin(dim=1)
    bad = worst > limits
    if not bool(bad.any()):
        return []
    told = f"off by up to {float(worst[bad].max()):.1e} (limit {float(limits[bad].min()):.1e})"
    return [Falsehood("false features", f"{int(bad.sum())} of {len(bad)} rows called inputs of {layer} are {told}")]
