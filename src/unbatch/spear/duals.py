"""Where zeros are few, as after many local steps: directions near the inverse of all guesses at once, instead of from each guess alone.

A neuron is zero in a sample's column only if it was off in every step, which may leave a quarter of them. The smallest weighted sum of
absolute values then belongs to a mixture of columns. But samples and directions are dual, P Qᵀ = 1: the inverse of all guesses lies near
every direction, and weights that fall where that is large make the search stay there (Candès, Wakin, Boyd, "Enhancing Sparsity by
Reweighted ℓ1 Minimization", 2008). What is found corrects the guesses that are left, and so their inverse.

Of the neurons that a sample leaves off before and after, a half may have fired in between. But most of those where the inverse is smallest
have not, so that of a few hundred subsets of them one or more holds zeros alone: its null vector is the direction, exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import Clock
from unbatch.linalg.complement import complement
from unbatch.spear.dictionary_learning import off_weights, sparse_directions
from unbatch.spear.ica import guesses
from unbatch.spear.layer import Layer
from unbatch.spear.rounding import null_of_masks
from unbatch.spear.sampling import draw_rows, null_directions
from unbatch.spear.selection import one_a_pattern

__all__ = ["Near", "near_duals"]

SOFT = 0.01
"""Share of a direction's largest entry below which entries are as good as zero. Chosen of .003 to .2 on TinyImageNet, 40 steps of .1."""

DRAWN, WORK = 4096, 3.3e7
"""Subsets of each size at most, shared by the samples that are left, and multiplications in all of them: of 20 samples both are the same.
Chosen: of 80 samples a subset takes as long as 60 of 20, and seldom holds zeros alone."""

SPARE, ENOUGH = (2, 6, 12, 20), 2
"""How many more neurons than samples a subset is drawn from; and zeros that a direction must have beyond as many as there are samples.
Chosen on TinyImageNet, 40 steps of .1: of four batches 1 to 8 directions had been missing, and were found so."""

STARTS, SPREAD, REWEIGHTED = 128, (0.05, 2.0), 3
"""Starts at once, shared by the samples that are left; least and most of how far away they are, in lengths of a direction; how often each
is weighted anew. Chosen."""


class Near(NamedTuple):
    """Rough directions, with how probable it is of each neuron that the sample leaves it off; exact ones, with where they are zero."""

    rough: Float[Tensor, "k b"]
    likely: Float[Tensor, "k m"]
    exact: Float[Tensor, "j b"]
    off: Bool[Tensor, "j m"]


def near_duals(
    layer: Layer, whole: Float[Tensor, "b b"], known: Float[Tensor, "j b"], contrast: float, generator: Generator, clock: Clock
) -> Near:
    """Directions of the samples that are left.

    Args:
        layer: the layer.
        whole: (b, b) guesses of all samples, up to scale.
        known: directions of j of them, up to scale.
        contrast: see ``guesses``.
        generator: of guesses of those that are left, and of the starts.
        clock: when to give up.
    """
    old, count, left = _corrected(whole, known), len(known), complement(known)
    new = guesses(left.T @ layer.views, generator, contrast, clock=clock) @ left.T
    found = []
    for guessed in (old[count:], new):  # neither is the better one always
        samples = guessed / (guessed @ layer.sums)[:, None]
        near = _duals(torch.cat([old[:count], samples]))[count:]
        likely, samples = off_weights(layer, samples)[: len(near)], samples[: len(near)]  # no duals, where guesses depend on each other
        drawn = _drawn(layer, samples, near, generator, clock)
        found.append(Near(*_sharpened(layer, likely, samples, near, known, generator, clock), *drawn))
    return Near(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _drawn(
    layer: Layer, samples: Float[Tensor, "k b"], near: Float[Tensor, "k b"], generator: Generator, clock: Clock
) -> tuple[Float[Tensor, "j b"], Bool[Tensor, "j m"]]:
    """Null vectors of subsets of the neurons that are off and where ``near`` is smallest, if they have zeros enough, and where."""
    never = layer.extremes(samples)[1] < 0
    order = (near @ layer.left.T).abs().where(never, torch.inf).argsort(dim=1)
    height, batch = layer.left.shape
    count = min(DRAWN, int(WORK) // batch**3) // max(1, len(near))
    found = []
    for spare in SPARE:
        clock.check()
        size = min(batch + spare, height)
        rows = order[:, draw_rows(size, count, batch - 1, generator)].flatten(0, 1)
        found.append(null_directions(layer.left, rows))
    directions = torch.cat(found)
    kept = layer.off(directions).sum(dim=1) >= batch + ENOUGH
    exact = null_of_masks(layer.left, layer.off(directions[kept]), clock=clock)  # rounding averages out
    off = layer.off(exact)
    return one_a_pattern(exact, off)


def _duals(samples: Float[Tensor, "b b"]) -> Float[Tensor, "k b"]:
    """Rows q with p_i · q_j = 1 if i = j, else 0; none where samples depend on each other."""
    inverse, info = torch.linalg.inv_ex(samples)
    return inverse.T if not int(info) and bool(inverse.isfinite().all()) else samples[:0]


def _corrected(samples: Float[Tensor, "b b"], known: Float[Tensor, "j b"]) -> Float[Tensor, "b b"]:
    """Guesses that have no part in directions that are not theirs, those whose directions are known first.

    Example:
        >>> _corrected(torch.tensor([[1.0, 0.0], [0.2, 1.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    own = torch.as_tensor(linear_sum_assignment(-(known @ samples.T).abs().cpu().numpy())[1], device=samples.device)
    others = torch.ones(len(samples), dtype=torch.bool, device=samples.device)
    others[own] = False
    samples = torch.cat([samples[own], samples[others]])
    for row, direction in enumerate(known):
        share = (parts := samples @ direction) / parts[row]
        share[row] = 0
        samples = samples - share[:, None] * samples[row]
    return samples


def _sharpened(
    layer: Layer,
    weights: Float[Tensor, "k m"],
    samples: Float[Tensor, "k b"],
    near: Float[Tensor, "k b"],
    known: Float[Tensor, "j b"],
    generator: Generator,
    clock: Clock,
) -> tuple[Float[Tensor, "s b"], Float[Tensor, "s m"]]:
    """Directions with as many zeros as can be, from ``near`` and from around it, and the weights of the sample that each belongs to.

    What is wrong with ``near`` lies among the directions that are known: guesses err by each other once these have been taken out.

    Args:
        layer: the layer.
        weights: how probable it is that a neuron is off for a sample.
        samples: the k guesses.
        near: of each what lies near its direction.
        known: directions that are not theirs.
        generator: of the starts.
        clock: when to give up.
    """
    starts = max(1, STARTS // max(1, len(near)))
    weights, samples, rough = (every.repeat_interleave(starts, dim=0) for every in (weights, samples, F.normalize(near, dim=1)))
    if len(known):
        drawn = torch.randn((len(rough), len(known)), generator=generator, dtype=rough.dtype, device=rough.device)
        far = torch.logspace(math.log10(SPREAD[0]), math.log10(SPREAD[1]), starts, dtype=rough.dtype, device=rough.device)
        far[0] = 0
        rough = rough + far.repeat(len(near))[:, None] * F.normalize(drawn @ known, dim=1)
    found = []
    for _ in range(REWEIGHTED):
        entries = (rough @ layer.left.T).abs()
        held = weights * SOFT / (SOFT + entries / entries.amax(dim=1, keepdim=True))
        rough = sparse_directions(layer.left.float(), samples.float(), held.float(), clock=clock).to(rough.dtype)
        found.append(rough)
    return torch.cat(found), weights.repeat(REWEIGHTED, 1)
