"""From a pool of sparse directions to the b true ones: refine, drop repetitions, choose, scale.

| SPEAR | here          | meaning                                                               |
|-------|---------------|-----------------------------------------------------------------------|
| L, R  | left, right   | factors of the gradient, G = L R                                      |
| Q     | mixing        | (b, b), D = L Q and Xᵀ = Q⁻¹ R                                        |
| λ     | agreement     | share of entries where the sign of Z = W X + bias fits the zeros of D |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["Layer", "Selection", "distinct", "refine", "scale", "select", "sparsest"]


@dataclass(frozen=True, eq=False)
class Layer:
    """All that is known of the layer, in the coordinates of the factors.

    Attributes:
        left: (m, b) orthonormal left factor of the gradient.
        bias_gradient: (m,) ∂L/∂bias, the sum of the columns of D.
        seen: (m, b) W Rᵀ: the pre-activations of a sample x = Rᵀ p are ``seen @ p + bias``.
        bias: (m,) of the layer.
        tolerance: entries of L q below this share of the largest count as zero.
    """

    left: Float[Tensor, "m b"]
    bias_gradient: Float[Tensor, " m"]
    seen: Float[Tensor, "m b"]
    bias: Float[Tensor, " m"]
    tolerance: float

    @property
    def batch(self) -> int:
        """b."""
        return self.left.shape[1]


@dataclass(frozen=True, eq=False)
class Selection:
    """b directions, scaled, and how well they fit.

    Attributes:
        mixing: (b, b) Q, one column a sample.
        agreement: (b,) for every sample the share of neurons whose sign fits; 1 everywhere means consistent.
        sparsity: zeros of L Q, all columns together.
    """

    mixing: Float[Tensor, "b b"]
    agreement: Float[Tensor, " b"]
    sparsity: int

    @property
    def consistent(self) -> bool:
        """Whether every neuron fits for every sample."""
        return bool((self.agreement == 1).all())


def refine(left: Float[Tensor, "m b"], directions: Float[Tensor, "k b"], least: int, tolerance: float) -> Float[Tensor, "k b"]:
    """Make directions exact: smallest on their ``least`` smallest rows, then on all rows that are zero after that.

    An entry that is small by chance is larger than the true zeros, so it is not among the first; rounding averages out over the second.

    Args:
        left: (m, b) left factor, float64.
        directions: (k, b) approximate unit directions.
        least: number of zeros that a true direction has for certain, at least b.
        tolerance: entries of left q below this share of the largest count as zero.

    Example:
        >>> left = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.3, 1.0]], dtype=torch.float64)
        >>> refine(left, torch.tensor([[0.01, 1.0]], dtype=torch.float64), least=2, tolerance=1e-9).abs()
        tensor([[0., 1.]], dtype=torch.float64)
    """
    columns = (directions @ left.T).abs()
    rows = columns.topk(least, dim=1, largest=False).indices
    exact: Tensor = torch.linalg.svd(left[rows], full_matrices=False).Vh[:, -1]
    columns = (exact @ left.T).abs()
    off = columns <= tolerance * columns.amax(dim=1, keepdim=True)
    best: Tensor = torch.linalg.svd(left * off[..., None], full_matrices=False).Vh[:, -1].contiguous()
    return best


def distinct(directions: Float[Tensor, "k b"], known: Float[Tensor, "j b"], closeness: float = 1e-6) -> Bool[Tensor, " k"]:
    """Which directions are neither a known one nor an earlier one, up to sign.

    Example:
        >>> axes = torch.eye(2, dtype=torch.float64)
        >>> distinct(torch.cat([axes, -axes]), axes[:1])
        tensor([False,  True, False, False])
    """
    new = ((directions @ known.T).abs() < 1 - closeness).all(dim=1)
    alike = (directions @ directions.T).abs() >= 1 - closeness
    earlier = torch.tril(alike, diagonal=-1) & new[None, :]
    return new & ~earlier.any(dim=1)


def sparsest(left: Float[Tensor, "m b"], directions: Float[Tensor, "k b"], tolerance: float, most: int) -> Float[Tensor, "j b"]:
    """The ``most`` best directions: first the independent ones of most zeros, then the runners-up.

    Taking the sparsest first and skipping what depends on those before gives the basis with most zeros in total (a matroid), so a
    combination of true columns, which is zero only where all of them are, gives way as soon as they are found.
    """
    columns = (directions @ left.T).abs()
    count = (columns <= tolerance * columns.amax(dim=1, keepdim=True)).sum(dim=1)
    ordered = directions[count.argsort(descending=True, stable=True)]
    basis = _independent(ordered)
    others = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    others[basis] = False
    return torch.cat([ordered[basis], ordered[others]])[:most]


def scale(layer: Layer, directions: Float[Tensor, "b b"]) -> Float[Tensor, "b b"]:
    """Q from unit directions (one a row): the scales follow from the bias gradient, which is the sum of the columns of D."""
    factors: Tensor = torch.linalg.lstsq(layer.left @ directions.T, layer.bias_gradient[:, None]).solution[:, 0]
    return directions.T * factors


def agreement(layer: Layer, mixing: Float[Tensor, "b b"]) -> Float[Tensor, " b"]:
    """The sparsity-matching score of SPEAR for every sample: share of neurons where (Z > 0) is (D ≠ 0).

    Neurons that are off in every row of D (dead) must be off in Z too; they count like all others.
    """
    columns = (layer.left @ mixing).abs()
    fires = columns > layer.tolerance * columns.amax(dim=0)
    pre_activations = layer.seen @ torch.linalg.inv(mixing).T + layer.bias[:, None]
    share: Tensor = ((pre_activations > 0) == fires).to(columns.dtype).mean(dim=0)
    return share


def select(layer: Layer, directions: Float[Tensor, "k b"], swaps: int = 200) -> Selection | None:
    """Choose the first b independent directions, then swap while the sparsity-matching score rises.

    Args:
        layer: the layer.
        directions: (k, b) unit candidates, the best first: see ``sparsest``.
        swaps: at most this many exchanges are tried.

    Returns:
        the best set, or None if the candidates do not span.
    """
    inside = _independent(directions)
    if len(inside) < layer.batch:
        return None
    best = _score(layer, directions[inside])
    for _ in range(swaps):
        if best.consistent:
            break
        better = _best_swap(layer, directions, inside, best)
        if better is None:
            break
        inside, best = better
    return best


def _score(layer: Layer, directions: Tensor) -> Selection:
    mixing = scale(layer, directions)
    columns = (layer.left @ directions.T).abs()
    sparsity = int((columns <= layer.tolerance * columns.amax(dim=0)).sum())
    if not bool((mixing.abs().amax(dim=0) > 1e-12 * mixing.abs().max()).all()):
        return Selection(mixing, torch.zeros_like(mixing[0]), sparsity)
    return Selection(mixing, agreement(layer, mixing), sparsity)


def _independent(directions: Float[Tensor, "k b"], smallest: float = 1e-5) -> Int64[Tensor, " j"]:
    """Indices of the first directions that are independent of those before them (Gram–Schmidt over all candidates at once)."""
    rest = directions.clone()
    kept: list[int] = []
    position = 0
    while len(kept) < directions.shape[1]:
        lengths = rest[position:].norm(dim=1)
        ahead = (lengths > smallest).nonzero()
        if not len(ahead):
            break
        position += int(ahead[0])
        unit = rest[position] / rest[position].norm()
        rest -= (rest @ unit)[:, None] * unit
        kept.append(position)
        position += 1
        if position >= len(directions):
            break
    return torch.tensor(kept, dtype=torch.int64, device=directions.device)


def _best_swap(layer: Layer, directions: Tensor, inside: Tensor, best: Selection) -> tuple[Tensor, Selection] | None:
    """The first exchange of the worst member for an outsider that raises the score, or None."""
    outside = torch.ones(len(directions), dtype=torch.bool, device=directions.device)
    outside[inside] = False
    coefficients = torch.linalg.solve(directions[inside].T, directions[outside].T).T
    for member in best.agreement.argsort().tolist():
        if best.agreement[member] == 1:
            break
        for newcomer in (coefficients[:, member].abs() > 1e-3).nonzero()[:, 0].tolist():
            trial = inside.clone()
            trial[member] = outside.nonzero()[newcomer, 0]
            scored = _score(layer, directions[trial])
            if scored.agreement.sum() > best.agreement.sum():
                return trial, scored
    return None
