"""What records leave that have nothing to do with the batch, and how unlikely it is that one of them leaves as little as another.

The reference are records of the same kind: given ones, or those among the candidates that lie clearly outside. Where these are few, records
are made up of parts of the candidates: the left of one and the right of another, or of its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import stdtr
from torch import Tensor

from unbatch.evidence.certificate import FINEST

__all__ = ["FEW", "INDEPENDENT", "Reference", "decoys", "holm", "reference_of"]

FEW = 24
"""Records that a reference has at least, made-up ones included."""

LEAST = 3
"""Records of which a spread can be told at all. Derived."""

NARROWEST = 1e-3
"""Spread of logarithms below which none is believed: a reference of nearly equal records would make all others improbable. Chosen.
Swept."""

EDGES = 8
"""Of a record's width that is left whole at either side, one part of so many: what lies beyond may be background. Chosen, not swept."""

THIN = 64
"""Of so many numbers one is compared first. Chosen, for time alone."""

INDEPENDENT = 1e-5
"""A way to leave the row space counts when it is this large beside the largest. Chosen, as in ``certificate``."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What unrelated records leave at a layer.

    Attributes:
        typical: geometric mean of their residuals.
        spread: standard deviation of the natural logarithms of these.
        count: how many records.
        equations: in how many independent ways they leave the row space, at most as many as there are records.
    """

    typical: float
    spread: float
    count: int
    equations: int

    def p_values(self, residuals: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """How likely an unrelated record leaves as little, by Student's distribution of the next draw."""
        if self.count < LEAST or not self.typical > 0:
            return torch.ones_like(residuals)
        scale = max(self.spread, NARROWEST) * (1 + 1 / self.count) ** 0.5
        t = (residuals.clamp_min(1e-17).log() - torch.tensor(self.typical).double().log()) / scale
        return torch.from_numpy(stdtr(self.count - 1, t.cpu().numpy())).to(residuals)

    def digits(self, left: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Independent ways times the decimal digits by which records stay below an unrelated one."""
        return self.equations * (self.typical / left.clamp_min(FINEST)).log10().clamp_min(0)


def reference_of(outside: Float[Tensor, "k n"], lengths: Float[Tensor, " k"]) -> Reference:
    """Of unrelated records.

    Args:
        outside: (k, n) what of each lies outside of the row space.
        lengths: (k,) of the whole of each.

    Example:
        >>> found = reference_of(torch.eye(4).double() / 2, torch.ones(4).double())
        >>> round(found.typical, 3), found.equations
        (0.5, 4)
    """
    if not len(outside):
        return Reference(0.0, 0.0, 0, 0)
    shares = (outside.norm(dim=1) / lengths.clamp_min(1e-300)).clamp_min(1e-17)
    values = torch.linalg.svdvals(outside / lengths.clamp_min(1e-300)[:, None])
    equations = int((values > INDEPENDENT * float(values[0])).sum()) if float(values[0]) > 0 else 0
    logs = shares.log()
    return Reference(float(logs.mean().exp()), float(logs.std()) if len(logs) > 1 else 0.0, len(logs), equations)


def decoys(records: Tensor, count: int = FEW) -> Tensor:
    """(at most count, *shape) records of the same kind: the left of one, up to somewhere, and the right of another, or of its mirror image.

    Where the left is as empty as that of the other, as at the edges of digits, a copy of the other comes out: these are left out.

    Example:
        >>> decoys(torch.arange(6.0).reshape(1, 6), 2).tolist()
        [[0.0, 4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 3.0, 2.0, 1.0, 0.0]]
    """
    number, width = len(records), records.shape[-1]
    edge = max(1, width // EDGES)
    made = []
    for turn in range(count):
        left = records[(7 * turn) % number]
        right = records[(7 * turn + 1 + turn // number) % number] if number > FEW else left.flip(-1)
        cut = edge + turn % max(1, width - 2 * edge)
        made.append(torch.cat([left[..., :cut], right[..., cut:]], dim=-1))
    found = torch.stack(made)
    flat = records.flatten(1)
    thin = flat[:, ::THIN].contiguous()
    copied = torch.tensor([_among(one, flat, thin) for one in found.flatten(1)], device=found.device)
    return found if bool(copied.all()) else found[~copied]


def _among(one: Tensor, flat: Tensor, thin: Tensor) -> bool:
    """Whether a record is one of these; ``thin`` is every so many of their numbers, which tells nearly all of them from it."""
    like = (thin == one[::THIN]).all(dim=1).nonzero()[:, 0]
    return bool((flat[like] == one).all(dim=1).any())


def holm(p_values: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Corrected for asking k times (Holm 1979): the chance that any unrelated record gets so small a value is at most this.

    Example:
        >>> holm(torch.tensor([0.01, 0.5, 0.03], dtype=torch.float64)).tolist()
        [0.03, 0.5, 0.06]
    """
    order = p_values.argsort()
    steps = torch.arange(len(p_values), 0, -1, dtype=p_values.dtype, device=p_values.device)
    raised = (p_values[order] * steps).clamp(max=1.0).cummax(dim=0).values
    return torch.empty_like(p_values).scatter_(0, order, raised)
