"""From exact directions to samples: keep the sparsest independent ones, scale them, score them by the signs of W x + bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.spear.combinations import untangled
from unbatch.spear.layer import Layer, unit
from unbatch.spear.rounding import null_of_masks

__all__ = ["Solution", "agreement", "best_matching", "finished", "independent", "misfits", "one_a_pattern", "scaled"]

NEAR, BLUR = 3, 10.0
"""Thresholds to either side of zero within which a column says nothing; noise of a pre-activation below which its sign does not. Chosen.
The second swept."""

FAINT = 100.0
"""Thresholds below which a sample's usual entry may be zero by chance. Chosen: its entries differ by as much."""

INVERSE = 1e-3
"""An inverse times its matrix differs from the unit matrix by less than this, or there is none. Chosen: rounding leaves 1e-16 times the
condition, and nothing is read off what is worse conditioned than 1e12."""

APART = 1e-9
"""Codes of two zero patterns that differ by more are of different patterns: each is a sum over the neurons, rounded to 1e-13 or so. Chosen
in between."""

CLOSE = 1e-2
"""Largest change of a direction that is averaged over its zeros. Chosen."""

SINGULAR = 1e12
"""Condition of directions above which they are kept as they were: solving with them would leave four digits of float64. Derived."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What a search found.

    Attributes:
        samples: (k, b) p of the samples found: x = rightᵀ p.
        directions: (k, b) q of the same, p · q = 1: left @ q is the sample's column of ∂L/∂Z, up to the scale of the rows.
        agreement: (k,) for every sample the share of neurons where the sign of W x + bias fits the zeros of its column.
        missing: how many of the b samples are missing.
    """

    samples: Float[Tensor, "k b"]
    directions: Float[Tensor, "k b"]
    agreement: Float[Tensor, " k"]
    missing: int


def scaled(layer: Layer, directions: Float[Tensor, "b b"]) -> tuple[Float[Tensor, "b b"], Float[Tensor, "b b"] | None]:
    """All b directions (one a row), scaled: ∂L/∂bias is the sum of the columns of ∂L/∂Z. With their p, or None if they depend."""
    scale, failed = torch.linalg.solve_ex(directions.T, layer.sums)
    directions = directions * scale[:, None]
    samples, singular = torch.linalg.inv_ex(directions.T)
    if bool(failed) or bool(singular) or not bool(samples.isfinite().all()):
        return directions, None
    # Elimination takes rounding for a pivot where directions are the same: what comes out then is no inverse.
    unit = torch.eye(len(samples), dtype=samples.dtype, device=samples.device)
    if not bool(((samples @ directions.T - unit).abs() < INVERSE).all()):
        return directions, None
    return directions, samples


def misfits(layer: Layer, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"]) -> Bool[Tensor, "k m"]:
    """Where the sign of W x + bias contradicts the column: it is positive and the column zero, or the other way round."""
    wrong, decided = _signs(layer, samples, directions)
    return wrong & decided


def agreement(layer: Layer, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"]) -> Float[Tensor, " k"]:
    """SPEAR's sparsity-matching score, sample by sample: the share of neurons where the signs of W x + bias fit the column's zeros.

    Only neurons count of which something can be said.
    """
    wrong, decided = _signs(layer, samples, directions)
    return 1 - (wrong & decided).sum(dim=1).double() / decided.sum(dim=1).clamp_min(1)


def _signs(
    layer: Layer, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"]
) -> tuple[Bool[Tensor, "k m"], Bool[Tensor, "k m"]]:
    """Where sign and column disagree, and where either says anything.

    Entries that the noise leaves undecided, within three thresholds of zero on either side, say nothing; nor do signs that changed
    while the client trained, or may have changed in between, being no further from zero than neurons typically moved.
    """
    (low, high), column = layer.extremes(samples), (directions @ layer.left.T).abs()
    threshold = layer.threshold(directions)
    blurred = BLUR * layer.noise_level * low.norm(dim=1, keepdim=True) / low.shape[1] ** 0.5
    moved = (high - low).square().mean(dim=1, keepdim=True).sqrt()
    near = (low - moved < 0) & (high + moved > 0)
    if layer.evened is not None:  # where others leave much, what a weak sample leaves is below the noise
        raw = layer.divided
        usual = (column * raw).where(column > threshold, torch.nan).nanmedian(dim=1).values
        near |= (column < threshold) & (usual[:, None] / raw < FAINT * threshold)
    undecided = ((column > threshold / NEAR) & (column < NEAR * threshold)) | (low.abs() < blurred) | near
    return (low > 0) == (column < threshold), ~undecided


def independent(directions: Float[Tensor, "k b"], off: Bool[Tensor, "k m"], smallest: float = 1e-6) -> Int64[Tensor, " j"]:
    """Indices of an independent set with the most zeros in total: the sparsest first, skipping what depends on those before.

    Independent sets are a matroid, so this greedy choice is the best one. A combination of true columns is zero only where all
    of them are, and gives way as soon as they are found.

    Example:
        >>> directions = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        >>> independent(directions, torch.tensor([[True, True], [True, False], [True, True]])).tolist()
        [0, 2]
    """
    order = off.sum(dim=1).argsort(descending=True, stable=True)
    rest = unit(directions[order])
    kept: list[int] = []
    position = 0
    while len(kept) < directions.shape[1] and position < len(rest):
        ahead = (rest[position:].norm(dim=1) > smallest).nonzero()
        if not len(ahead):
            break
        position += int(ahead[0])
        axis = rest[position] / rest[position].norm()
        rest = rest - (rest @ axis)[:, None] * axis
        kept.append(int(order[position]))
        position += 1
    return torch.tensor(kept, dtype=torch.int64, device=directions.device)


def best_matching(
    layer: Layer, directions: Float[Tensor, "k b"], off: Bool[Tensor, "k m"], clock: Clock = UNLIMITED
) -> Int64[Tensor, " j"]:
    """SPEAR's selection: the b sparsest independent candidates, then swaps while the sparsity-matching score of the whole rises.

    Args:
        layer: the layer.
        directions: (k, b) candidates.
        off: (k, m) where they are zero.
        clock: the best set so far when it runs out.

    Returns:
        indices of the candidates that are kept; fewer than b where no b are independent.
    """
    chosen = independent(directions, off)
    if len(chosen) < layer.batch:
        return chosen
    score = float(_scores(layer, directions[chosen][None]))
    by_zeros = off.sum(dim=1).argsort(descending=True, stable=True)
    changed = score < 1
    while changed and not clock.over:
        changed = False
        for candidate in by_zeros.tolist():
            if candidate in chosen.tolist() or clock.over:
                continue
            swapped = chosen.repeat(layer.batch, 1)
            swapped.fill_diagonal_(candidate)
            scores = _scores(layer, directions[swapped])
            if float(scores.max()) > score:
                chosen, score, changed = swapped[scores.argmax()], float(scores.max()), True
    return chosen


def _scores(layer: Layer, sets: Float[Tensor, "s b b"]) -> Float[Tensor, " s"]:
    """The score of every set of b directions; −1 where they depend on each other."""
    scale, failed = torch.linalg.solve_ex(sets.mT, layer.sums.expand(len(sets), -1))
    scaled_sets = sets * scale[..., None]
    samples, singular = torch.linalg.inv_ex(scaled_sets.mT)
    right = (failed == 0) & (singular == 0) & samples.isfinite().flatten(1).all(dim=1)
    score = sets.new_full((len(sets),), -1.0)
    if bool(right.any()):
        flat = agreement(layer, samples[right].flatten(0, 1), scaled_sets[right].flatten(0, 1))
        score[right] = flat.view(-1, layer.batch).mean(dim=1)
    return score


def one_a_pattern(directions: Float[Tensor, "k b"], off: Bool[Tensor, "k m"]) -> tuple[Float[Tensor, "j b"], Bool[Tensor, "j m"]]:
    """One direction for every different zero pattern."""
    if len(off) < 2:
        return directions, off
    code = off.double() @ torch.linspace(1, 2, off.shape[1], dtype=torch.float64, device=off.device).sin()
    order = code.argsort()
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = code[order].diff().abs() > APART
    return directions[order[first]], off[order[first]]


def finished(
    layer: Layer, directions: Float[Tensor, "b b"], off: Bool[Tensor, "b m"], blurred: float, clock: Clock, *, tangled: bool
) -> Solution | None:
    """All samples, from directions that are computed from all of their zeros together; None where the directions depend on each other.

    Args:
        layer: with all its samples.
        directions: of each.
        off: which neurons it leaves off.
        blurred: what the noise may leave of a zero.
        clock: when to stop making directions more exact.
        tangled: whether combinations of columns may pass for columns, as where neurons changed sides while the client trained.
    """
    directions = unit(directions)
    if tangled:
        directions = untangled(layer, directions, clock=clock)
        off = layer.off(directions)
    # In the scale of the gradient itself every row is equally noisy, so that all zeros together average the noise out.
    try:
        exact = null_of_masks(layer.left * layer.length[:, None], off, clock=clock)
    except OutOfTime:
        exact = directions
    same = ((exact * directions).sum(dim=1).abs() > 1 - min(CLOSE, blurred)) & (off.sum(dim=1) >= layer.batch + 2)
    better = torch.where(same[:, None], exact, directions)
    directions, samples = scaled(layer, better if float(torch.linalg.cond(better)) < SINGULAR else directions)
    return None if samples is None else Solution(samples, directions, agreement(layer, samples, directions), 0)
