"""What the client's optimizer left in an update besides gradients: weight decay, which is found and removed; Adam's first step, which hides
the sizes of gradients; and weights that were sent as if they were an update.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.errors import BadUpdate

__all__ = ["EVEN_SIZES", "STEPS", "adam_rate", "check_is_update", "decay_in", "told_by", "undo_adam"]

FLAT = 0.9
"""Share of numbers of one size from which on an update is Adam's first step. Chosen."""

ALIKE = 1e-2
"""Numbers are of one size when they differ by less than this share. Chosen."""

DECAYED = 0.1
"""Share of Adam's step below which a number moved by the decay of AdamW alone: λ times the weight. Chosen."""

NEAR = 0.5
"""An update this near to the weights themselves, as a share of their length, is weights. Chosen."""

FEW = 100
"""Fewer numbers than this show nothing."""

WIDEST = 2048
"""A layer with more neurons is not searched for weight decay."""


def check_is_update(update: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Refuse weights where a gradient or a difference was said to come.

    Raises:
        BadUpdate: the tensors are nearly the broadcast weights; the sentence names the flag.
    """
    named = [name for name, tensor in update.items() if tensor.ndim > 1]
    size = sum(float(weights[name].detach().double().square().sum()) for name in named)
    apart = sum(float((update[name].double() - weights[name].detach().double().to(update[name].device)).square().sum()) for name in named)
    many = sum(update[name].numel() for name in named) >= FEW
    if many and size > 0 and apart < NEAR**2 * size:
        came = f"tensors within {(apart / size) ** 0.5:.0e} of the broadcast weights"
        advice = "if the client sent its weights after training, say --update-is weights (kind='weights')"
        raise BadUpdate("a gradient, or a difference of weights", came, advice)


def adam_rate(moved: Mapping[str, Tensor]) -> float | None:
    """The learning rate, if the difference is Adam's first step from a zero state: nearly every number that moved, moved by that much.

    Example:
        >>> adam_rate({"w": 0.01 * torch.randn(200, generator=torch.Generator().manual_seed(0)).sign()})
        0.01
    """
    sizes = _sizes(moved)
    if len(sizes) < FEW:
        return None
    # Numbers without a gradient (of neurons that never fire) move by AdamW's decay alone: a small share of the learning rate.
    typical = sizes.kthvalue(1 + 3 * (len(sizes) - 1) // 4).values
    sizes = sizes[sizes > DECAYED * typical]
    alike = ((sizes - typical).abs() <= ALIKE * typical).double().mean()
    return float(f"{float(typical):.4g}") if float(alike) >= FLAT else None


def undo_adam(
    moved: Mapping[str, Tensor], weights: Mapping[str, Tensor], rate: float, epsilon: float, decay: float
) -> tuple[dict[str, Tensor], float]:
    """The gradient behind Adam's first step, Δ = rate · g / (|g| + ε), and how far it is off, relatively, by the rounding of the weights.

    |Δ| / rate falls short of 1 by about ε / |g|, which is how a size is read; rounding hides that of large gradients first.

    Args:
        moved: weights before less those after.
        weights: those before.
        rate: the learning rate.
        epsilon: ε.
        decay: λ of AdamW.

    Example:
        >>> before = {"w": torch.zeros(2, dtype=torch.float64)}
        >>> g = torch.tensor([1e-3, -2e-5], dtype=torch.float64)
        >>> found, off = undo_adam({"w": 0.1 * g / (g.abs() + 1e-8)}, before, 0.1, 1e-8, 0.0)
        >>> bool(torch.allclose(found["w"], g, rtol=1e-8, atol=0)), off < 1e-8
        (True, True)
    """
    found, errors, sizes = {}, 0.0, 0.0
    for name, tensor in moved.items():
        before = weights[name].detach().double().to(tensor.device)
        share = tensor.double() / rate - decay * before
        rest = (1 - share.abs()).clamp_min(1e-300)
        eps = torch.finfo(torch.promote_types(tensor.dtype, torch.float32)).eps
        rounding = eps / 2 * (before.abs() / rate + share.abs())
        gradient = epsilon * share.sign() * (share.abs() / rest.maximum(rounding))
        found[name] = gradient
        errors += float((gradient * (rounding / rest).clamp(max=1.0)).square().sum())
        sizes += float(gradient.square().sum())
    return found, (errors / sizes) ** 0.5 if sizes else 1.0


def decay_in(moved: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float | None:
    """c, if the update is c times the weights and something of low rank besides, as weight decay leaves it; None where it is not.

    Of a matrix M = c W + L with L of low rank, M W⁺ has the eigenvalue c as often as there are neurons beyond that rank.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> w = torch.randn(20, 30, generator=draw).double()
        >>> low = torch.outer(torch.randn(20, generator=draw).double(), torch.randn(30, generator=draw).double())
        >>> abs(decay_in({"w": 0.001 * w + low}, {"w": w}) - 0.001) < 1e-12
        True
    """
    wide = [name for name, t in moved.items() if t.ndim == 2 and 8 <= t.shape[0] <= min(t.shape[1], WIDEST)]
    for name in sorted(wide, key=lambda name: -moved[name].shape[0])[:2]:
        found = _decay_of(moved[name].double().cpu(), weights[name].detach().double().cpu())
        if found is not None:
            return found
    return None


def _decay_of(moved: Float[Tensor, "m n"], weight: Float[Tensor, "m n"]) -> float | None:
    gram = weight @ weight.T
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed) or not bool(moved.any()):
        return None
    solved = torch.cholesky_solve(weight @ moved.T, factor).T
    if not bool(solved.isfinite().all()):  # eigenvalues of NaN end the process in some builds of LAPACK; the observation refuses them
        return None
    values = torch.linalg.eigvals(solved).real
    count = max(4, len(values) // 8)
    order = values.sort().values
    widths = order[count - 1 :] - order[: len(order) - count + 1]
    start = int(widths.argmin())
    guess = float(order[start : start + count].median())
    if guess * float(weight.norm()) < FAINT * float(moved.norm()):
        return None
    # What is left of the rows that the samples do not reach is c W, and nothing else.
    for _ in range(3):
        left, values, _ = torch.linalg.svd(moved - guess * weight, full_matrices=False)
        values = values.clamp_min(1e-15 * float(values[0]))
        rank = int((values[:-1] / values[1:]).argmax()) + 1
        free = left[:, rank:]
        if not free.shape[1]:
            return None
        own, seen = free.T @ weight, free.T @ moved
        guess = float((own * seen).sum() / own.square().sum())
    rest = float((seen - guess * own).norm())
    # With c W taken out, much less is left than was there: otherwise there was none.
    return guess if guess > 0 and float(seen.norm()) > CLEAR * rest and rank < len(weight) - 3 else None


CLEAR = 20.0
"""The update along the weights must be this many times what is left of it there. Chosen."""

FAINT = 1e-11
"""Decay below this share of the update is nobody's concern. Chosen."""


def told_by(moved: Mapping[str, Tensor]) -> str:
    """What a reader must know of the sizes of the numbers, or nothing: several steps of Adam leave hardly any far from the typical.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> told_by({"w": torch.randn(500, generator=draw)}), told_by({"w": 1e-3 * torch.rand(500, generator=draw)}) == EVEN_SIZES
        ('', True)
    """
    squares = _sizes(moved).square()
    return EVEN_SIZES if len(squares) >= FEW and float(squares.square().mean()) <= EVEN * float(squares.mean()) ** 2 else ""


EVEN_SIZES = "that no number of the update is far larger than the others: several steps of Adam leave such an update, which is no gradient"

EVEN = 2.5
"""Mean of the fourth powers beside the square of the mean of the squares, up to which sizes look like Adam's. Chosen below the 3 of normal
numbers. Measured: 1.0 to 2.1 after 3 to 30 steps of Adam, 3.3 to 139 of gradients and steps of SGD (six networks, 8 and 64 samples)."""

STEPS = 1.5
"""A size beside the learning rate that was told, from which on it is that of several steps of Adam and not of its first. Derived: between
one and two."""


def _sizes(moved: Mapping[str, Tensor], most: int = 100_000) -> Tensor:
    """Of (evenly spaced) numbers that moved."""
    parts = [tensor.detach().double().abs().flatten()[:: max(1, tensor.numel() // most)] for tensor in moved.values()]
    sizes = torch.cat(parts) if parts else torch.zeros(0)
    return sizes[sizes > 0]
