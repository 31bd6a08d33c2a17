r"""Where a network is linear about several members at once, and what is left there to tell them from mixtures of each other.

Random mixtures, by which equations are counted elsewhere, see all the regions of a ReLU network; whoever makes up a batch may stay in one.
There the column of a sample is d = Jᵀ s: a vector of at most C − 1 dimensions behind a softmax, and J is the same for all q members that
share the region. Another batch that leaves the same update is X' = X M with columns D' = D M⁻ᵀ, M (q, q) among these:

    unknown     q² numbers of M, and q more where what the samples count is free
    equations   q ρ, of the dimensions ρ that d can have there; q more where the gradient of the bias says M⁻ᵀ 1 = 1

D has rank q, so ρ ≥ q. With a bias and the weights of a plain mean there are always q equations too many. Where one of both is missing,
ρ = q leaves as many equations as unknowns, and such a system has other solutions (found: three members, four classes, no bias, all three
wrong, to 1e-14). So ρ − q is measured: by what the columns of the slopes that a sample can have (``own_slopes``) have outside of the space
of the proposed columns.

The same holds for one sample that is held against the gradient by itself: of the directions in which the layers behind let it move, as they
let mixtures of its region, each takes one of the ρ − q away, and one must be left. Behind a smooth activation J turns as the sample moves:
what it gains by that counts among the ρ (``around``).

One member alone with a bias is settled by it whatever ρ is: M = 1, and its weight follows. But where ρ = 1, as behind two classes, several
members of a region leave one column between them, and Σ w s x / Σ w s with the weight Σ w s / s' leaves all that they do (found: two rows
of Adult, 38 % off, counted as 2.0002 of six). So what counts freely there is settled only where it is known that no two share a column:
there are as many members as independent columns, or J turns as the sample moves, as behind smooth activations (``turns``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.evidence.slopes import slopes_of
from unbatch.types import Observation

__all__ = ["VISIBLE", "around", "outside_of", "own_slopes", "random_slopes", "settled", "turns"]

VISIBLE = 1e-3
"""A column is outside of a space by this share of its length, or it is not. Chosen, not swept."""

SILENT = 1e-10
"""A neuron that says less than this share of what the loudest says is silent for the whole batch. Chosen, as in ``certificate``."""

STEP = 1e-6
"""Of the finite differences, as a share of the sample's length. Chosen: kinks are rarely that near, and rounding leaves 1e-10."""

ALONG = 1e-4
"""A score is moved by this much to see a slope turn: half of float64's digits are left on either side. Chosen."""

STILL = 4
"""Ways that turn nothing after which no more are tried. Chosen: what is left out can cost a proof, never make one."""

DIRECTIONS = 3
"""Slopes that are tried: at most two equations are ever missing."""


def random_slopes(observation: Observation, count: int, directions: int = DIRECTIONS) -> Float[Tensor, "s k c"]:
    """∂ℓ/∂outputs of made-up outputs and labels: what the loss can ask of a sample."""
    device, classes = observation.device, observation.classes
    generator = Generator(device).manual_seed(0)
    made = torch.randn((directions * count, classes), generator=generator, dtype=torch.float64, device=device)
    labels: Int64[Tensor, " n"] = torch.randint(classes, (len(made),), generator=generator, device=device)
    return slopes_of(observation, made, labels).nan_to_num(0.0).reshape(directions, count, classes)


def own_slopes(
    observation: Observation, scores: Float[Tensor, "k c"], labels: Int64[Tensor, " k"], directions: int = DIRECTIONS
) -> Float[Tensor, "s k c"]:
    """∂ℓ/∂outputs of each sample, and how it turns as its scores move at random, in units of its own length: what the loss asks near there.

    Random slopes ask something of every class, a sure network nothing of most. A class of which the probability is nothing sets no equation
    (found: four classes of ten alive, no bias, and all three members of one region wrong, to 1e-15).

    Args:
        observation: for the loss.
        scores: (k, C) what the network says of the samples.
        labels: (k,) theirs.
        directions: in so many the scores are moved.
    """
    generator = Generator(scores.device).manual_seed(0)
    ways = torch.randn((directions, *scores.shape), generator=generator, dtype=scores.dtype, device=scores.device)
    own = slopes_of(observation, scores, labels)
    turned = [
        (slopes_of(observation, scores + ALONG * way, labels) - slopes_of(observation, scores - ALONG * way, labels)) / (2 * ALONG)
        for way in ways
    ]
    found = torch.stack([own, *turned]) / own.norm(dim=1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
    found = found.nan_to_num(0.0)
    return found.where(found.norm(dim=2, keepdim=True) > VISIBLE, 0.0)


def around(
    pull: Callable[[Float[Tensor, "k r"]], Float[Tensor, "s k m"]], coordinates: Float[Tensor, "k r"], ways: int
) -> Float[Tensor, "t k m"]:
    """Columns that a sample can have at its place, and how they turn as it moves, per length: for ``outside_of``.

    Args:
        pull: columns of some slopes of samples.
        coordinates: (k, r) of the samples.
        ways: in so many random directions they are moved.
    """
    here = pull(coordinates)
    size = here.norm(dim=2, keepdim=True).clamp_min(torch.finfo(here.dtype).tiny)
    generator = Generator(coordinates.device).manual_seed(0)
    ways_there = torch.randn((ways, coordinates.shape[1]), generator=generator, dtype=here.dtype, device=here.device)
    found = [here / size]
    for way in torch.nn.functional.normalize(ways_there, dim=1):
        moved = STEP * coordinates.norm(dim=1, keepdim=True) * way
        ahead, behind = ((pull(coordinates + sign * moved) - here) / STEP / size for sign in (1, -1))
        # Where one of them meets a kink, the other does not.
        found.append(torch.where(ahead.norm(dim=2, keepdim=True) < behind.norm(dim=2, keepdim=True), ahead, behind))
        if len(found) > STILL and not any(bool((each.norm(dim=2) > VISIBLE).any()) for each in found[1:]):
            break  # piecewise linear: no way turns it, and what is not looked at proves nothing
    return torch.cat(found)


def outside_of(pulled: Float[Tensor, "s k m"], columns: Float[Tensor, "m q"]) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """Of every sample, how many dimensions its possible columns have outside of the given ones, and in all; at most s.

    Args:
        pulled: (s, k, m) columns of random slopes, or how they turn where the sample moves, in a unit in which a share of 1 is large.
        columns: (m, q) proposed ones.
    """
    loud = columns.abs().amax(dim=1)
    heard = loud > SILENT * loud.max()  # silent neurons set no equation that is worth one
    basis, _ = torch.linalg.qr(columns[heard] / columns.norm(dim=0).clamp_min(torch.finfo(columns.dtype).tiny))
    found = pulled[:, :, heard].transpose(0, 1)
    rest = found - (found @ basis) @ basis.T
    beyond, in_all = ((torch.linalg.eigvalsh(_small_gram(part)) > VISIBLE**2).sum(dim=1) for part in (rest, found))
    return beyond, in_all


def _small_gram(matrices: Float[Tensor, "k s m"]) -> Float[Tensor, "k e e"]:
    """Of the rows or of the columns, whichever are fewer: both have the squares of the singular values."""
    fewer = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    return fewer @ fewer.mT


def settled(
    pulled: Float[Tensor, "s k m"],
    columns: Float[Tensor, "m q"],
    *,
    bias: bool | Bool[Tensor, " k"],
    free: bool | Bool[Tensor, " k"],
    alone: bool | Bool[Tensor, " k"] = False,
) -> Bool[Tensor, " k"]:
    """Whether no mixture of samples that share a region could stand in the place of each sample; see the module.

    Args:
        pulled: (s, k, m) columns of the slopes that a sample can have (``own_slopes``).
        columns: (m, q) proposed ones.
        bias: whether the gradient of the bias says what the samples count, or what each of them does: M⁻ᵀ 1 = 1 is one equation a sample.
            Its own is to spare, q² + 1 where ρ = q, however little noise leaves of those of weak samples in its region.
        free: whether what they count, or each of them counts, is that of no plain mean.
        alone: whether no two members, or none beside each of them, can have left one column between them.
    """
    outside, all_ways = outside_of(pulled / pulled.norm(dim=2, keepdim=True).clamp_min(torch.finfo(pulled.dtype).tiny), columns)
    bias, free, alone = (torch.as_tensor(given, device=columns.device) for given in (bias, free, alone))
    enough = outside >= (~bias).int() + free.int()
    return enough | (bias & (all_ways == 1) & (alone | ~free))


def turns(
    pull: Callable[[Float[Tensor, "k r"]], Float[Tensor, "s k m"]], coordinates: Float[Tensor, "k r"], columns: Float[Tensor, "m q"]
) -> Bool[Tensor, " k"]:
    """Whether the column that a sample can have turns as it moves, out of the proposed ones: then two members do not share one.

    Args:
        pull: see ``around``.
        coordinates: see ``around``.
        columns: (m, q) proposed ones.
    """
    found = around(pull, coordinates, 1)  # the columns at its place, then as many: how each turns
    return outside_of(found[len(found) // 2 :], columns)[0] > 0
