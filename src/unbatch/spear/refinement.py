"""All samples of a batch refined together, where the strongest leave a million times what the weakest do, as in a trained network.

The search reads each sample off its own direction, and what that direction is off by is the strong samples' part in it. But the network
says what column d_i every sample has, and the update is Σ w_i d_i [x_iᵀ 1]. With D of the samples at hand,

    A = D⁺ [G g],    w_i = A_i,n+1,    x_i ← A_i,1..n / w_i,

which takes all others out of each, however strong. It divides by w_i, for the length of a column, which a sure network's samples change
by much when they move a little, then cancels: what is left is how the column turns, and the step shrinks it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.linalg.lowrank import Factors
from unbatch.linalg.rows import LARGEST
from unbatch.losses import slopes_alone
from unbatch.trace import LinearCall, run
from unbatch.types import Candidate, Observation

__all__ = ["HALF", "STRONG", "is_uneven", "misfit", "polished", "refined"]

UNEVEN = 1e-6
"""A column is faint that is below this share of the strongest. Chosen: columns of an untrained network differ by a hundred at most, and
below 1e-12 rounding leaves nothing to refine."""

STEPS = 6
"""Steps at most. Chosen: on MNIST after 20 epochs the misfit falls five to thirty times a step, and is rounding after three."""

ROUNDED = 1e-15
"""Misfit beside the gradient that is rounding already. Chosen: some roundings of float64."""

STEP = 1e-6
"""By how much, relatively, samples are made longer to see what they count then. Chosen: above the root of float64's rounding."""

STRONG, HALF = 1e-2, 0.5
"""Share of the strongest column from which on a sample is strong, as what weaker ones are off by leaves less than rounding; and of the
misfit that a step of strong samples must come below: what it explains less may be the rounding of the network. Chosen."""

NEAR = 1e-2
"""Relative length of a step at most. Chosen: a longer one makes up for a sample that is missing."""


def is_uneven(factors: Factors) -> bool:
    """Whether a sample may leave so little beside the others: none does of which the gradient has no faint direction."""
    values = factors.singular_values[: factors.rank]
    return len(values) > 1 and float(values[-1]) < UNEVEN * float(values[0])


def refined(observation: Observation, call: LinearCall, candidate: Candidate) -> Candidate:
    """The candidate with its samples refined, as far as they then explain more of the layer's gradient; otherwise as it is.

    Args:
        observation: what the server saw: one gradient, without batch statistics.
        call: the layer that sees the samples.
        candidate: all samples that are visible, with labels. Where some are missing the others would take up what they left.
    """
    layer = None if candidate.exhausted else _layer(observation, call, candidate)
    given = None if layer is None else layer.explained()
    if layer is None or given is None or not bool(given.faint.any()) or given.misfit < ROUNDED * layer.size:
        return candidate
    best: _Explained = given
    known: _Explained | None = given
    for _ in range(STEPS):
        # Two steps in turn: the samples by what the others leave, and their lengths by what they count.
        tried = layer.explained(known.refined) if known is not None and known.step < NEAR else None
        known = None if tried is None else layer.explained(layer.of_even_shares(tried))
        if known is None or not known.misfit < best.misfit:
            break
        best = known
    return candidate if best is given else replace(candidate, inputs=best.fed.reshape(layer.inputs.shape))


def polished(observation: Observation, call: LinearCall, candidate: Candidate) -> Candidate:
    """The candidate with its strong samples refined, which are nearly exact, as long as each step explains twice as much.

    Args:
        observation: what the server saw: one gradient, without batch statistics.
        call: the layer that sees the samples.
        candidate: all samples that are visible, with labels; weak ones better than the network's rounding tells them.
    """
    layer = _layer(observation, call, candidate)
    best = None if layer is None else layer.explained()
    if layer is None or best is None:
        return candidate
    for _ in range(STEPS):
        strong = best.sizes > STRONG * best.sizes.max()
        known = layer.explained(best.refined.where(strong[:, None], best.fed))
        if known is None or not known.misfit < HALF * best.misfit:
            break
        best = known
    return replace(candidate, inputs=best.fed.reshape(layer.inputs.shape))


def misfit(observation: Observation, call: LinearCall, candidate: Candidate) -> float:
    """Share of the layer's gradient that a candidate leaves, where its faint samples count what one of a plain mean does; infinite where
    that cannot be told.
    """
    layer = _layer(observation, call, candidate)
    given = None if layer is None else layer.explained()
    return math.inf if layer is None or given is None else given.misfit / layer.size


@dataclass(frozen=True, eq=False)
class _Explained:
    """What samples explain of the gradient of the layer that sees them.

    Attributes:
        fed: (b, n) the samples.
        counts: (b,) what each counts.
        sizes: (b,) lengths of their columns.
        faint: (b,) whether its column is weak beside the strongest.
        misfit: length of what is left of the gradient, where the faint samples count what one of a plain mean does.
        refined: (b, n) the samples after the next step.
        step: its largest relative length.
    """

    fed: Float[Tensor, "b n"]
    counts: Float[Tensor, " b"]
    sizes: Float[Tensor, " b"]
    faint: Bool[Tensor, " b"]
    misfit: float
    refined: Float[Tensor, "b n"]
    step: float


def _layer(observation: Observation, call: LinearCall, candidate: Candidate) -> _Layer | None:
    """The layer, with the samples of a candidate; None where these have no labels, or its gradients are not there, or too large."""
    inputs, labels, bias, gradient = candidate.inputs, candidate.labels, call.bias, observation.update[call.weight]
    if inputs is None or labels is None or bias is None or bias not in observation.update or observation.coupled:
        return None
    if gradient.numel() > LARGEST:
        return None
    return _Layer(observation, call, inputs, labels, gradient.double(), observation.update[bias].double())


@dataclass(frozen=True, eq=False)
class _Layer:
    observation: Observation
    call: LinearCall
    inputs: Float[Tensor, " b *shape"]
    labels: Int64[Tensor, " b"]
    gradient: Float[Tensor, "m n"]
    sums: Float[Tensor, " m"]

    @property
    def size(self) -> float:
        """Of the gradient."""
        return float(self.gradient.norm())

    def columns(self, fed: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """∂ℓ(x_i, y_i)/∂z of every sample by itself."""
        ran = run(self.observation.model, fed.reshape(self.inputs.shape))
        named, own = torch.unique(self.labels, return_inverse=True)
        slopes = slopes_alone(self.observation.loss, ran.outputs.detach(), named)[own, torch.arange(len(own), device=own.device)]
        found: Tensor = torch.autograd.grad(ran.outputs, ran.made_by(self.call.weight), slopes)[0]
        return found

    def explained(self, fed: Float[Tensor, "b n"] | None = None) -> _Explained | None:
        """Of the samples as they are given, if of no others. None where one leaves nothing, or is nothing that a number can say."""
        fed = self.inputs.double().flatten(1) if fed is None else fed
        if not bool(fed.isfinite().all()):
            return None
        columns = self.columns(fed)
        sizes = columns.norm(dim=1)
        if not bool((sizes > 0).all()):
            return None
        directions = columns.T / sizes
        parts = torch.linalg.lstsq(directions, self.sums[:, None]).solution[:, 0]
        left = self._left(directions * parts, fed)
        steps = torch.linalg.lstsq(directions, left).solution / parts[:, None]
        refined = (fed + steps[:, :-1]) / (1 + steps[:, -1:])
        step = float(((refined - fed).norm(dim=1) / fed.norm(dim=1)).max())
        counts, faint = parts / sizes, sizes < UNEVEN * sizes.max()
        even = self._even(counts, faint)
        misfit = left.norm() if even is None else self._left(columns.T * counts.where(~faint, even), fed).norm()
        return _Explained(fed, counts, sizes, faint, float(misfit), refined, step)

    def _left(self, columns: Float[Tensor, "m b"], fed: Float[Tensor, "b n"]) -> Float[Tensor, "m n1"]:
        """What samples with these columns leave of the gradients of the weight and the bias."""
        return torch.cat([self.gradient - columns @ fed, (self.sums - columns.sum(dim=1))[:, None]], dim=1)

    def _even(self, counts: Float[Tensor, " b"], faint: Bool[Tensor, " b"]) -> float | None:
        """What every sample of the plain mean counts that the strong ones show; None where the update may have any factor."""
        size = float(1 / counts[~faint].median()) if self.observation.factor_known else 0.0
        return 1 / max(1, round(size)) if 0 < size < LARGEST else None

    def of_even_shares(self, known: _Explained) -> Float[Tensor, "b n"]:
        """The samples, each faint one at the length at which it counts what one of a plain mean does, if that is near.

        What a sample of a sure network counts tells its length better than the bias gradient does, from which it came.
        """
        even = self._even(known.counts, known.faint)
        if even is None:
            return known.fed
        longer = self.columns((1 + STEP) * known.fed).norm(dim=1)
        growth = (known.counts / even).log() * STEP / (longer / known.sizes).log()
        near = known.faint & (growth.abs() < NEAR)  # which is false of NaN
        return torch.where(near, 1 + growth, 1.0)[:, None] * known.fed
