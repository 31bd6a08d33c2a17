"""Recover a batch from a Linear + ReLU layer and the output layer behind it: peel, search pairs, solve for all at once, certify each.

Peeling costs a fraction of a second and finds most of a batch of natural pictures. The search over pairs finds what has no row of its
own (digits and clothes: hardly any sample has). With all samples known, masks and e follow from the model, and one weighted
least-squares problem gives the samples to the precision of the gradient. Notation: see ``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.shallow.on_off_equations import frame_of, samples_of, search_pairs
from unbatch.spear.shallow.peeling import always_on, peel, reread
from unbatch.spear.shallow.two_layer import Found, TwoLayer, residual_of

__all__ = ["Shallow", "certificates", "recover", "tighten"]

CERTIFIED = 1e-6
"""Largest certificate, and largest estimated relative error, of a sample that is given away."""


@dataclass(frozen=True, eq=False)
class Shallow:
    """What was recovered.

    Attributes:
        samples: (k, r) p of the certified samples.
        labels: (k,).
        certificates: (k,) see the function of this name.
        missing: how many of the r samples are not among them.
        tools: how many samples each tool found.
    """

    samples: Float[Tensor, "k r"]
    labels: Int64[Tensor, " k"]
    certificates: Float[Tensor, " k"]
    missing: int
    tools: dict[str, int]


def recover(problem: TwoLayer, generator: Generator, clock: Clock, progress: Callable[[str, float], None]) -> Shallow:
    """Find the batch, or what can be found of it.

    Args:
        problem: the two layers.
        generator: of the search over pairs.
        clock: when to end with what is known.
        progress: told how many samples are known.
    """

    def more(known: int) -> bool:
        progress(f"{known} of {problem.rank} samples, {clock.taken:.1f} s", known / problem.rank)
        return not clock.over

    found = peel(problem, more=more)
    tools = {"peeling": len(found)}
    left = problem.rank - len(found)
    if left and more(len(found)):
        rest = residual_of(problem, found)
        frame = frame_of(problem, rest, always_on(problem, rest), left)
        tolerance = min(0.03, max(1e-6, 10 * frame.noise))
        columns = search_pairs(problem, rest, frame, generator, tolerance, lambda known: more(len(found) + known), clock=clock)
        if left - 1 <= len(columns) <= left:  # more of them than there are samples cannot all be right
            found, tools["pairs"] = found + samples_of(problem, rest, frame, columns), left
    if len(found) == problem.rank:
        found = tighten(problem, reread(problem, found), clock=clock)
    certificate = certificates(problem, found)
    good = (certificate < CERTIFIED) & (found.doubt < CERTIFIED * found.samples.norm(dim=1))
    kept = found[good]
    return Shallow(kept.samples, kept.labels, certificate[good], problem.rank - len(kept), tools)


def tighten(problem: TwoLayer, found: Found, rounds: int = 60, patience: int = 6, clock: Clock = UNLIMITED) -> Found:
    """With all samples known: compute every column from the model, solve [G₁ g₁] = Σ d [pᵀ 1], and again; keep what certifies better.

    Columns are scaled to one length, so that a sample with a small gradient comes out as well. The last column of G tells the scale of
    each d, which for a sample that is nearly certain follows from p with a large error. The error halves in a round; weights by the
    rows' noise, which are right for a known D, make it grow.

    Args:
        problem: the two layers.
        found: all samples, with their masks and labels right.
        rounds: at most so many.
        patience: rounds without progress of the whole replay.
        clock: the best so far when it runs out.
    """
    wanted = torch.cat([problem.gradient, problem.bias_gradient[:, None]], dim=1)
    best, least, idle, samples = found.samples, torch.inf, 0, found.samples
    for _ in range(rounds):
        if clock.over:
            break
        columns = problem.columns(samples, found.labels).columns.T
        known = torch.cat([samples, torch.ones_like(samples[:, :1])], dim=1)
        rest = wanted - columns @ known
        size = float(rest.norm())
        if not size < torch.inf or idle == patience:
            break
        best, idle = (samples, 0) if size < least else (best, idle + 1)
        least = min(least, size)
        length = columns.norm(dim=0)
        orthogonal, change = torch.linalg.qr(columns / length)
        solved = known + torch.linalg.solve_triangular(change, orthogonal.T @ rest, upper=True) / length[:, None]
        samples = solved[:, :-1] / solved[:, -1:]
    old, new = certificates(problem, found), certificates(problem, Found(best, found.labels, found.doubt))
    kept = torch.where((new < old)[:, None], best, found.samples)
    return Found(kept, found.labels, new.minimum(old) * kept.norm(dim=1))


def certificates(problem: TwoLayer, found: Found) -> Float[Tensor, " k"]:
    """For each sample, how far it is from belonging to the batch: at rounding level only where it does.

    (p, y) is in the batch if and only if its column d, computed from the model, lies in the column space of G₁, d = G₁ q, and p · q = 1;
    the larger violation is given. Rows are scaled to one length, which keeps samples with small gradients above the rounding.
    """
    if not len(found):
        return found.doubt
    length = problem.gradient.norm(dim=1)
    alive = length > 1e-14 * length.max()
    left, values, right = torch.linalg.svd(problem.gradient[alive] / length[alive, None], full_matrices=False)
    column = problem.columns(found.samples, found.labels).columns[:, alive] / length[alive]
    inside = column @ left
    outside = (column - inside @ left.T).norm(dim=1) / column.norm(dim=1)
    product = ((found.samples @ right.T) * inside / values).sum(dim=1)
    return outside.maximum((product - 1).abs())
