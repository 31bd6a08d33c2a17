"""Samples that have a neuron to themselves: its row of the gradient is theirs alone, and as exact as any, whatever others leave elsewhere.

A network that knows its samples by heart fires few neurons for each, and leaves next to nothing of those that it is sure of: the search
for zeros then ends early. But row n of the gradient is Σ_i w_i d_in x_iᵀ, and the bias gradient Σ_i w_i d_in: where one sample alone is on,
their ratio is that sample, to the last digit. Two rows of the same ratio are hardly ever both mixtures; of a row by itself, the network
must say that it leaves just this much there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from unbatch.gradients import sensitivities
from unbatch.linalg.rows import lengths_of_uneven, of_own_way
from unbatch.spear.shallow.two_layer import first_of_each
from unbatch.trace import LinearCall, run
from unbatch.types import Candidate, Observation

__all__ = ["SAME", "merged", "those_alone"]

ALIKE = 1e-13
"""Two rows show the same sample where the cosine of their ratios misses one by less. Chosen: 450 roundings; of another sample a share of
4e-7 at most is in them."""

COUNTS = 1e-6
"""A row by itself shows a sample where what the network says it leaves there, as one of the batch, differs by no larger share. Chosen: that
one of two hundred mixtures does so for one of ten labels happens once in a thousand times."""

SAME, EXACT = 0.1, 1e-6
"""A sample this near, relatively, to one that is known is the same; and where it is nearer than that, the known one stays. Chosen: rows
that are alike may be off by 4e-7."""

MOST = 1 << 12
"""Rows that are asked at most. Chosen: each is held against each, 128 MiB."""

ASKED = 1 << 22
"""Numbers of columns, of all labels, that are asked of the network at most; of more, rows by themselves are left out. Chosen: .2 s."""


def those_alone(observation: Observation, call: LinearCall) -> Candidate:
    """The samples that rows of the gradient show by themselves; nothing where there are none, or too many rows to ask.

    Args:
        observation: what the server saw: one gradient, of a layer that is fed the raw input.
        call: the layer.
    """
    uneven = lengths_of_uneven(observation.update[call.weight]) is not None
    if not uneven or call.bias is None or call.bias not in observation.update or observation.coupled:
        return Candidate()
    read, rows = _read(observation, call)
    if observation.classes * rows.numel() > ASKED:
        read, rows = (every[rows.sum(dim=1) > 1] for every in (read, rows))
    if not len(read) or observation.classes * rows.numel() > ASKED:
        return Candidate()
    inputs = read.reshape(-1, *observation.input_shape)
    labels, right = _labelled(observation, call, inputs, rows)
    right |= rows.sum(dim=1) > 1
    best = (rows.sum(dim=1) * right).argsort(descending=True)[: int(right.sum())]
    best = best[first_of_each(read[best], nearer=SAME)]
    return Candidate(inputs[best], labels[best])


def merged(known: Candidate, alone: Candidate, most: int | None, exact: float = EXACT) -> Candidate:
    """What was found otherwise and what was read off rows, each sample once; as it was where nothing is new, or more than ``most`` are.

    A known sample stays where the other is nearer to it than ``exact``.
    """
    if alone.inputs is None or alone.labels is None or not len(alone.inputs):
        return known
    if known.inputs is None or known.labels is None:
        return replace(known, inputs=alone.inputs, labels=alone.labels)
    old, new = known.inputs.double(), alone.inputs
    apart = torch.stack([(old - one).flatten(1).norm(dim=1) / one.norm() for one in new])
    fresh = (apart >= exact).all(dim=1)
    kept = (apart[fresh] > SAME).all(dim=0)
    if not bool(fresh.any()) or int(kept.sum() + fresh.sum()) > (most or torch.inf):
        return known
    return replace(known, inputs=torch.cat([old[kept], new[fresh]]), labels=torch.cat([known.labels[kept], alone.labels[fresh]]))


def _read(observation: Observation, call: LinearCall) -> tuple[Float[Tensor, "k n"], Bool[Tensor, "k m"]]:
    """What rows say by themselves, different samples, each on its own neurons; and on which rows."""
    parameters = dict(observation.model.named_parameters())
    weight, bias = (parameters[str(name)].detach().double() for name in (call.weight, call.bias))
    gradient, sums = observation.update[call.weight], observation.update[str(call.bias)].double()
    ratio = gradient / sums[:, None]
    on = (ratio * weight).sum(dim=1) + bias > 0  # false of rows that say nothing, NaN
    there = (on & ratio.isfinite().all(dim=1)).nonzero()[:MOST, 0]
    there = there[of_own_way(torch.cat([weight, bias[:, None]], dim=1)[there])]  # copies of a neuron show one mixture twice
    unit = F.normalize(torch.cat([ratio[there], torch.ones_like(sums[there, None])], dim=1), dim=1)
    alike = 1 - unit @ unit.T < ALIKE
    first = torch.unique(alike.int().argmax(dim=1))
    rows = torch.zeros((len(first), len(sums)), dtype=torch.bool, device=sums.device)
    rows[:, there] = alike[first]
    return ratio[there[first]], rows


def _labelled(observation: Observation, call: LinearCall, inputs: Tensor, rows: Bool[Tensor, "k m"]) -> tuple[Tensor, Bool[Tensor, " k"]]:
    """The label of every sample, and whether it leaves on its rows what one sample of the batch does."""
    sums = observation.update[str(call.bias)].double()
    expected, wanted = sensitivities(observation.model, inputs, call.weight, observation.loss) * rows, sums * rows
    share = (expected * wanted).sum(dim=2) / expected.square().sum(dim=2).clamp_min(torch.finfo(torch.float64).tiny)
    apart = ((wanted - share[..., None] * expected).norm(dim=2) / wanted.norm(dim=1)).where(share > 0, torch.inf)
    counts = 1 / share
    size = (observation.batch_size or _size(apart, counts)) if observation.factor_known else None
    apart = apart if size is None else apart + (counts / size - 1).abs()
    least, sure = apart.min(dim=0), run(observation.model, inputs).outputs.argmax(dim=1)
    right = least.values < (0 if size is None else COUNTS)
    return least.indices.where(right, sure), right  # of what the network is sure of, rounding may be all that it leaves


def _size(apart: Float[Tensor, "c k"], counts: Float[Tensor, "c k"]) -> float | None:
    """The batch size: a whole number that more than one row says; None where there is none."""
    near = (apart < COUNTS) & ((counts - counts.round()).abs() < COUNTS * counts)
    sizes, often = torch.unique(counts[near].round(), return_counts=True)
    return float(sizes[often.argmax()]) if len(sizes) and int(often.max()) > 1 else None
