"""The numerical rank of a gradient, and its factors.

A gradient of b samples is a product D Xᵀ of rank b (SPEAR: Dimitrov, Baader, Müller, Vechev, NeurIPS 2024). The rank is read off the
largest gap between neighboring singular values. A gradient may be far wider than it is high (1.5 million columns): its column space is
found from random signed sums of some of its columns, which unlike the Gram matrix does not square the condition, and one pass in
blocks gives the right factor. It is never copied whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.blocks import converted

__all__ = ["NOISELESS", "Factors", "Spectrum", "factor", "multiply", "rank_of", "spectrum"]

SKETCH = 128
"""Sums of columns to begin with; doubled until the rank is well below."""

ENOUGH = 0.8
"""Share of the sums that the rank may come to, or there may be more directions than sums. Chosen."""

MIXED = 512
"""So many mixtures of all columns at least, where there are less than four columns a sum, and rows enough. Measured: at 2000 by 2000 and
rank 600 they take 1.2 s, the whole 3.7; at 1000 by 1000 0.15 and 0.45."""

NOISELESS = 1e-10
"""Noise below this share of the gradient is rounding of float64. Chosen: a million roundings. Swept."""

CLEAR = 30.0
"""A gap is clear when a singular value is this many times its successor. Chosen. Swept."""

COARSE = 1e-7
"""A matrix that is rounded to this share, or more, loses nothing by its Gram matrix. That turns a direction of size s, beside the largest
S, by 2e-16 (S/s)², where the rounding itself turns it by COARSE S/s: still 500 times more where s is ten roundings. Derived."""

WIDE = 1.5
"""Columns a row from which a matrix is factored before its singular values are sought. Near there it costs what it saves. Chosen."""

SPARE = 16
"""Random mixtures beyond the directions that they must show: as many find none of them by a chance that float64 does not tell from zero.
Chosen."""


@dataclass(frozen=True, eq=False)
class Factors:
    """gradient = left @ right, with left orthonormal.

    Attributes:
        left: (m, b) orthonormal columns, float64.
        right: (b, n) float64.
        singular_values: of the gradient or of random sums of its columns, falling.
        gap: ratio of the last kept singular value and the first dropped one; infinite for full rank.
        noise: standard deviation of an entry of the gradient that the factors do not explain.
        ranks: all ranks after which a clear gap follows, the largest first. Where there are several, some samples have gradients that
            are thousands of times smaller than those of others.
        lengths: (m,) what the rows of the gradient were divided by before it was factored; None where they were not.
    """

    left: Float[Tensor, "m b"]
    right: Float[Tensor, "b n"]
    singular_values: Float[Tensor, " s"]
    gap: float
    noise: float
    ranks: tuple[int, ...] = ()
    lengths: Float[Tensor, " m"] | None = None

    @property
    def rank(self) -> int:
        """b."""
        return self.left.shape[1]

    @property
    def noise_map(self) -> Float[Tensor, "b b"]:
        """The noise of left @ q has standard deviation ‖noise_map @ q‖ in every row: that of the gradient, divided by the inputs' size."""
        gram = self.right @ self.right.T
        squares, vectors = torch.linalg.eigh(gram)
        inverse: Tensor = (vectors / squares.clamp_min(1e-30 * float(squares[-1])).sqrt()) @ vectors.T
        return self.noise * inverse

    @property
    def clear(self) -> bool:
        """Whether the gap leaves no doubt about the rank."""
        return self.gap >= CLEAR

    def evened(self, columns: Float[Tensor, "*k m"]) -> Float[Tensor, "*k m"]:
        """What columns of the gradient are in the matrix that was factored, in float64."""
        return columns.double() if self.lengths is None else columns.double() / self.lengths


def factor(gradient: Float[Tensor, "m n"], generator: Generator, rank: int | None = None, clock: Clock = UNLIMITED) -> Factors:
    """Find the rank of a gradient by its last clear gap, and factor it.

    Args:
        gradient: (m, n), any float type; not changed, not copied whole.
        generator: of the random sums of columns that stand for a wide gradient.
        rank: use this rank instead of the one that the gap shows.
        clock: when to give up.

    Returns:
        the factors. A gradient without a gap is given its full numerical rank: see ``Factors.clear``.

    Raises:
        OutOfTime: the clock ran out.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> planted = torch.randn(50, 4, generator=generator) @ torch.randn(4, 300, generator=generator)
        >>> found = factor(planted.double(), generator)
        >>> found.rank, found.clear, bool((found.left @ found.right - planted).abs().max() < 1e-5)
        (4, True, True)
    """
    height, width = gradient.shape
    if height > width:
        flipped = factor(gradient.T, generator, rank, clock)
        left, mixing = torch.linalg.qr(flipped.right.T)
        return Factors(left, mixing @ flipped.left.T, flipped.singular_values, flipped.gap, flipped.noise, flipped.ranks)
    expected = 0 if rank is None else rank
    left, values, ranks, gap = _sketched(gradient, generator, clock, lambda sums: torch.linalg.svd(sums, full_matrices=False)[:2], expected)
    count = ranks[0]
    if rank is not None:
        count, gap = rank, _ratio(values, rank)
    left = left[:, :count].contiguous()
    noise = _unexplained(left, gradient)
    if noise > NOISELESS * float(values[0]) / gradient.numel() ** 0.5:
        # Sums of columns average less than all columns do: one step of subspace iteration uses every entry against the noise.
        left, _ = torch.linalg.qr(_squared(gradient, left, clock))
        noise = _unexplained(left, gradient)
    return Factors(left, _project(left, gradient, clock), values, gap, noise, ranks)


def rank_of(gradient: Float[Tensor, "m n"], generator: Generator, clock: Clock = UNLIMITED) -> tuple[tuple[int, ...], bool]:
    """``Factors.ranks`` and ``Factors.clear`` of a gradient, without its factors: a third of the time for a square one.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> rank_of(torch.randn(50, 4, generator=generator).double() @ torch.randn(4, 60, generator=generator).double(), generator)
        ((4,), True)
        >>> rank_of(torch.zeros(50, 60), generator)
        ((0,), False)
    """
    wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    _, _, ranks, gap = _sketched(wide, generator, clock, lambda sums: (sums, torch.linalg.svdvals(sums)))
    return ranks, gap >= CLEAR


def _sketched(
    gradient: Float[Tensor, "m n"],
    generator: Generator,
    clock: Clock,
    decomposed: Callable[[Tensor], tuple[Tensor, Tensor]],
    expected: int = 0,
) -> tuple[Tensor, Float[Tensor, " s"], tuple[int, ...], float]:
    """What ``decomposed`` says of random sums of the columns, as many as the rank wants: something, and the singular values; their gaps.

    Of an ``expected`` rank, fewer sums are not tried.
    """
    height, width = gradient.shape
    # Rounding in the gradient's own type is noise of this size on its singular values.
    resolution = 4 * torch.finfo(torch.promote_types(gradient.dtype, torch.float32)).eps
    size = SKETCH
    while expected >= ENOUGH * size:
        size *= 2
    while True:
        clock.check()
        narrow = width < 4 * size
        if narrow and height >= WIDE * MIXED:
            size = max(size, MIXED)
        mixed = narrow and MIXED <= size <= height / WIDE
        whole = size >= height or (narrow and not mixed)
        sums = _mixtures(gradient, size, generator) if mixed else _sums_of_columns(gradient, 2 * height if whole else size, generator)
        made, values = decomposed(sums)
        # Rows of dead neurons give singular values of zero, which say nothing of the batch.
        shown = values[: int((sums != 0).any(dim=1).sum())]
        ranks, gap = _gaps(shown, resolution)
        if whole or (ranks[0] < ENOUGH * size and gap >= CLEAR and _flat(shown[ranks[0] :], float(values[0]) * resolution)):
            return made, values, ranks, gap
        size *= 2


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values of a matrix, and its leading directions where they are asked for.

    Attributes:
        values: (k,) falling.
        left: (m, k) orthonormal columns.
        right: (k, n) orthonormal rows, or the matrix itself (m, n), of which ``leading`` makes them.
        whole: whether ``right`` is the matrix.
    """

    values: Float[Tensor, " k"]
    left: Float[Tensor, "m k"]
    right: Float[Tensor, "k n"]
    whole: bool = False

    def leading(self, count: int) -> tuple[Float[Tensor, "m c"], Float[Tensor, "c n"]]:
        """Orthonormal bases of the first ``count`` directions of columns and rows; with ``whole``, all of values above the rounding."""
        left = self.left[:, :count]
        if not self.whole:
            return left, self.right[:count]
        right = left.T @ self.right / self.values[:count, None]
        # Nearly orthonormal, but for the weakest: each is made orthogonal to all stronger ones.
        return left, torch.linalg.solve_triangular(torch.linalg.cholesky(right @ right.T), right, upper=False)


def spectrum(matrix: Float[Tensor, "m n"], rounding: float = 0.0) -> Spectrum:
    """The thin singular value decomposition; of a wide matrix by way of its LQ factors, or its Gram matrix, which is faster.

    Args:
        matrix: (m, n), float64.
        rounding: share of the largest singular value below which ten times as much says nothing.

    Example:
        >>> wide = torch.arange(12.0).reshape(2, 6).double()
        >>> for rounding in (0.0, 1e-7):
        ...     found = spectrum(wide, rounding)
        ...     left, right = found.leading(2)
        ...     print(tuple(right.shape), bool(((left * found.values) @ right - wide).abs().max() < 1e-12))
        (2, 6) True
        (2, 6) True
    """
    height, width = matrix.shape
    if rounding >= COARSE and height <= width:
        squares, left = torch.linalg.eigh(matrix @ matrix.T)
        return Spectrum(squares.flip(0).clamp_min(0).sqrt(), left.flip(1), matrix, whole=True)
    if width < WIDE * height:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return Spectrum(values, left, right)
    wide, lower = torch.linalg.qr(matrix.T)
    left, values, right = torch.linalg.svd(lower.T)
    return Spectrum(values, left, right @ wide.T)


def row_space(matrix: Float[Tensor, "m n"], rounding: float, rank: int, generator: Generator) -> Float[Tensor, "k n"]:
    """Orthonormal rows that span those of a matrix, in falling order, where singular values exceed ``rounding`` of the largest.

    Random mixtures of the columns, twice as many as the expected ``rank``, show the columns' space to float64's rounding (Halko,
    Martinsson and Tropp, "Finding structure with randomness"); a matrix of more directions than that is decomposed whole.

    Args:
        matrix: (m, n), float64.
        rounding: share of the largest singular value that a direction must exceed.
        rank: how many directions are expected.
        generator: of the mixtures.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> planted = torch.randn(50, 4, generator=generator).double() @ torch.randn(4, 60, generator=generator).double()
        >>> [tuple(row_space(planted, 1e-12, expected, generator).shape) for expected in (1, 4, 50)]
        [(4, 60), (4, 60), (4, 60)]
    """

    def above(found: Spectrum) -> Tensor:
        return found.right[: int((found.values > rounding * found.values[0]).sum())]

    size = 2 * rank + SPARE
    if 2 * size <= len(matrix):
        columns, _ = torch.linalg.qr(_mixtures(matrix, size, generator))
        rows = above(spectrum(columns.T @ matrix))
        if len(rows) <= size - SPARE:
            return rows
    return above(spectrum(matrix))


def _unexplained(left: Float[Tensor, "m b"], gradient: Float[Tensor, "m n"], most: int = 4096) -> float:
    """Standard deviation of the noise, seen on evenly spaced columns; b of the m dimensions of each are taken up by the factors."""
    columns = gradient[:, :: max(1, gradient.shape[1] // most)].double()
    rest = columns - left @ (left.T @ columns)
    return float((rest.square().mean() * len(left) / max(1, len(left) - left.shape[1])).sqrt())


def _mixtures(matrix: Float[Tensor, "m n"], count: int, generator: Generator) -> Float[Tensor, "m k"]:
    """``count`` random mixtures of all columns, in float64."""
    return matrix.double() @ torch.randn((matrix.shape[1], count), generator=generator, dtype=torch.float64, device=matrix.device)


def _sums_of_columns(gradient: Float[Tensor, "m n"], count: int, generator: Generator) -> Float[Tensor, "m k"]:
    """``count`` random signed sums of 64 columns each, in float64; the columns themselves where there are not many more."""
    width = gradient.shape[1]
    if width <= 2 * count:
        return gradient.double()
    chosen = torch.randperm(width, generator=generator, device=gradient.device)[: 64 * count]
    signs = torch.randint(0, 2, (len(chosen),), generator=generator, device=gradient.device).double() * 2 - 1
    signed = gradient[:, chosen].double() * signs
    padded = torch.nn.functional.pad(signed, (0, -len(chosen) % count))
    return padded.view(len(gradient), -1, count).sum(dim=1)


def multiply(wide: Float[Tensor, "m n"], right: Float[Tensor, "b n"], clock: Clock = UNLIMITED) -> Float[Tensor, "m b"]:
    """wide @ rightᵀ in float64, reading the wide matrix in blocks."""
    total = right.new_zeros((right.shape[0], wide.shape[0]))  # the few rows first: twice as fast
    for columns, block in converted(wide):
        clock.check()
        total.addmm_(right[:, columns], block.T)
    return total.T.contiguous()


def _squared(gradient: Float[Tensor, "m n"], left: Float[Tensor, "m b"], clock: Clock) -> Float[Tensor, "m b"]:
    """gradient gradientᵀ left, in one pass."""
    rows = left.T.contiguous()
    total = torch.zeros_like(rows)
    for _, block in converted(gradient):
        clock.check()
        total.addmm_(rows @ block, block.T)
    return total.T


def _project(left: Tensor, gradient: Tensor, clock: Clock) -> Tensor:
    """leftᵀ gradient, in blocks."""
    right = left.new_empty((left.shape[1], gradient.shape[1]))
    for columns, block in converted(gradient):
        clock.check()
        torch.mm(left.T, block, out=right[:, columns])
    return right


def _gaps(values: Tensor, resolution: float) -> tuple[tuple[int, ...], float]:
    """The ranks before clear gaps, the largest first, and how large its gap is; without a clear gap the rank before the largest.

    Values under the resolution are noise: they count as that noise, so that no gap among them is ever chosen.
    """
    if not len(values):  # of zeros alone
        return (0,), 1.0
    floor = values[0] * resolution
    seen = values.clamp_min(float(floor))
    if len(seen) == 1:
        return (1,), float("inf")
    ratios = seen[:-1] / seen[1:]
    clear = (ratios >= CLEAR).nonzero()[:, 0].flip(0).tolist()
    full = bool(values[-1] > 10 * floor)
    if not clear and full:
        return (len(values),), float("inf")
    ranks = [index + 1 for index in clear] or [int(ratios.argmax()) + 1]
    return tuple(ranks), float(ratios[ranks[0] - 1])


def _flat(values: Tensor, floor: float) -> bool:
    """Whether what follows a gap is noise, of one size, or rounding; what goes on falling is samples, of which more sums show more."""
    return not len(values) or float(values[0]) < CLEAR * max(float(values[-1]), floor)


def _ratio(values: Tensor, rank: int) -> float:
    return float("inf") if rank >= len(values) else float(values[rank - 1] / values[rank].clamp_min(torch.finfo(torch.float64).tiny))
