"""A Linear + ReLU layer that is followed by the output layer and mean cross-entropy: what both layers' gradients say together.

| research            | here                 | meaning                                                              |
|---------------------|----------------------|----------------------------------------------------------------------|
| W₁, b₁, W₂, b₂      | seen, bias, outer, outer_bias | the parameters; C classes, m neurons                       |
| G₁, g₁, G₂, g₂      | gradient, bias_gradient, outer_gradient, outer_bias_gradient | theirs                      |
| x = Vᵀ p            | rows p of ``(k, r)`` | a sample in r coordinates of the inputs' span                        |
| h                   | hidden (k, m)        | ReLU(W₁ x + b₁)                                                      |
| e                   | errors (k, C)        | (softmax − onehot) / b: ∂L/∂logits                                   |
| d                   | columns (k, m)       | ∂L/∂Z of a sample: W₂ᵀ e where it is on, else 0                      |
| F                   | Σ e p                | (C, r), what an always-on neuron's row shows: G₁_j = w₂_j · F        |

    G₁ = Σ d pᵀ,  g₁ = Σ d,  G₂ = Σ e hᵀ,  g₂ = Σ e

Samples are rows. A sample whose softmax is saturated has an e of 10⁻⁶ of the others': all that is computed here is therefore scaled by
the size of the row or column that it stands in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CLEAR", "Columns", "Found", "Residual", "TwoLayer", "always_on", "first_of_each", "residual_of", "zero_sum_basis"]

CLEAR = 100.0
"""A row shows something when it is this many times its noise. Chosen. Swept."""

SILENT = 30.0
"""A row is explained when it is below this many times its noise. Chosen, below ``CLEAR``. Swept."""

SPREAD = 1.0
"""An error of p moves its column d, relatively, by up to about this many times as much. Chosen."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What samples leave in the gradients: ``hidden`` (k, m), ``errors`` (k, C), ``columns`` (k, m) and ``signals`` (k, m) = W₂ᵀ e."""

    hidden: Float[Tensor, "k m"]
    errors: Float[Tensor, "k C"]
    signals: Float[Tensor, "k m"]
    columns: Float[Tensor, "k m"]


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """The two layers and their gradients, the first in r coordinates of the span of its inputs.

    Attributes:
        gradient: (m, r) ∂L/∂W₁ in these coordinates.
        bias_gradient: (m,) ∂L/∂b₁.
        outer_gradient: (C, m) ∂L/∂W₂.
        outer_bias_gradient: (C,) ∂L/∂b₂.
        seen: (m, r) pre-activations of a sample p are ``seen @ p + bias``.
        bias: (m,).
        outer: (C, m) W₂.
        outer_bias: (C,).
        batch: number of samples in the batch; no whole number where the update was scaled by a factor that the server does not know.
        rounding: relative rounding error of an entry of the gradients.
    """

    gradient: Float[Tensor, "m r"]
    bias_gradient: Float[Tensor, " m"]
    outer_gradient: Float[Tensor, "C m"]
    outer_bias_gradient: Float[Tensor, " C"]
    seen: Float[Tensor, "m r"]
    bias: Float[Tensor, " m"]
    outer: Float[Tensor, "C m"]
    outer_bias: Float[Tensor, " C"]
    batch: float
    rounding: float = 2e-16

    @property
    def rank(self) -> int:
        """r, at least the number of different samples that are above the rounding."""
        return self.gradient.shape[1]

    def logits(self, samples: Float[Tensor, "k r"]) -> Float[Tensor, "k C"]:
        """Class scores."""
        return (samples @ self.seen.T + self.bias).relu() @ self.outer.T + self.outer_bias

    def errors(self, logits: Float[Tensor, "k C"], labels: Int64[Tensor, " k"]) -> Float[Tensor, "k C"]:
        """(softmax − onehot) / b, without cancellation where a sample is nearly certain of its label."""
        soft = logits.softmax(dim=1)
        mark = F.one_hot(labels, logits.shape[1]).bool()
        others = torch.where(mark, 0.0, soft)
        return torch.where(mark, -others.sum(dim=1, keepdim=True), soft) / self.batch

    def columns(self, samples: Float[Tensor, "k r"], labels: Int64[Tensor, " k"]) -> Columns:
        """The forward and backward pass of samples."""
        return self.backward(samples @ self.seen.T + self.bias, labels)

    def backward(self, z: Float[Tensor, "k m"], labels: Int64[Tensor, " k"]) -> Columns:
        """The same from pre-activations z."""
        hidden = z.relu()
        errors = self.errors(hidden @ self.outer.T + self.outer_bias, labels)
        signals = errors @ self.outer
        return Columns(hidden, errors, signals, signals * (z > 0))


@dataclass(frozen=True, eq=False)
class Found:
    """Samples known so far.

    Attributes:
        samples: (k, r) p.
        labels: (k,).
        doubt: (k,) estimated length of the error of p.
        scale: (k,) what the model's column d of p is multiplied with: 1, but for the error of p.
    """

    samples: Float[Tensor, "k r"]
    labels: Int64[Tensor, " k"]
    doubt: Float[Tensor, " k"]
    scale: Float[Tensor, " k"]

    @staticmethod
    def none(problem: TwoLayer) -> Found:
        """Nothing is known yet."""
        empty = problem.gradient.new_zeros((0, problem.rank))
        return Found.read(empty, torch.zeros(0, dtype=torch.int64, device=empty.device), empty[:, 0])

    @staticmethod
    def read(samples: Float[Tensor, "k r"], labels: Int64[Tensor, " k"], doubt: Float[Tensor, " k"]) -> Found:
        """Samples whose columns are as the model has them."""
        return Found(samples, labels, doubt, torch.ones_like(doubt))

    def __len__(self) -> int:
        """How many."""
        return len(self.samples)

    def __add__(self, other: Found) -> Found:
        """Both, those of ``self`` first."""
        return Found(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in ("samples", "labels", "doubt", "scale")))

    def __getitem__(self, chosen: Tensor) -> Found:
        """Those of an index or mask."""
        return Found(self.samples[chosen], self.labels[chosen], self.doubt[chosen], self.scale[chosen])


@dataclass(frozen=True, eq=False)
class Residual:
    """What is left of the gradients when known samples are subtracted, and how much of each row may be error.

    Attributes:
        rows: (m, r) of ∂L/∂W₁.
        sums: (m,) of ∂L/∂b₁.
        outer: (C, m) of ∂L/∂W₂.
        outer_sums: (C,) of ∂L/∂b₂.
        rounding: (m,) rounding error of a row of ``rows``.
        noise: (m,) the same with what the errors of the known samples add.
        sum_noise: (m,) likewise of ``sums``.
    """

    rows: Float[Tensor, "m r"]
    sums: Float[Tensor, " m"]
    outer: Float[Tensor, "C m"]
    outer_sums: Float[Tensor, " C"]
    rounding: Float[Tensor, " m"]
    noise: Float[Tensor, " m"]
    sum_noise: Float[Tensor, " m"]


def residual_of(problem: TwoLayer, found: Found) -> Residual:
    """Subtract what was found from the gradients as they came: errors do not pile up over rounds."""
    known = problem.columns(found.samples, found.labels)
    columns, errors = known.columns * found.scale[:, None], known.errors * found.scale[:, None]
    length = found.samples.norm(dim=1)
    size = problem.gradient.norm(dim=1) + columns.abs().T @ length
    sums = problem.bias_gradient.abs() + columns.abs().sum(dim=0)
    spread = columns.square().T
    rounding = problem.rounding * size + 1e-30 * size.max()
    return Residual(
        problem.gradient - columns.T @ found.samples,
        problem.bias_gradient - columns.sum(dim=0),
        problem.outer_gradient - errors.T @ known.hidden,
        problem.outer_bias_gradient - errors.sum(dim=0),
        rounding,
        rounding + SPREAD * (spread @ found.doubt.square()).sqrt(),
        problem.rounding * sums + SPREAD * (spread @ (found.doubt / length).square()).sqrt(),
    )


def always_on(problem: TwoLayer, rest: Residual) -> Bool[Tensor, " m"]:
    """Neurons that are on for every sample that is left: g₁_j = w₂_j · g₂, and something is left in their row."""
    gap = (rest.sums - problem.outer.T @ rest.outer_sums).abs()
    slack = rest.sum_noise + problem.rounding * (problem.outer.abs().T @ problem.outer_bias_gradient.abs())
    return (rest.rows.norm(dim=1) > CLEAR * rest.noise) & (gap < SILENT * slack)


def zero_sum_basis(outer: Float[Tensor, "C m"]) -> Float[Tensor, "C c"]:
    """Orthonormal basis of the c = C − 1 vectors that sum to zero: every e lies there.

    Example:
        >>> zero_sum_basis(torch.ones(4, 9)).sum(dim=0).abs().max() < 1e-6
        tensor(True)
    """
    count = len(outer)
    identity = torch.eye(count, dtype=outer.dtype, device=outer.device)
    return torch.linalg.qr(torch.cat([torch.ones_like(identity[:, :1]), identity[:, :-1]], dim=1))[0][:, 1:]


def first_of_each(vectors: Float[Tensor, "k r"], nearer: float = 1e-3) -> Bool[Tensor, " k"]:
    """Which rows have no earlier row within ``nearer`` times their length.

    Example:
        >>> first_of_each(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-6]])).tolist()
        [True, True, False]
    """
    close = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist") < nearer * vectors.norm(dim=1)[:, None]
    return ~close.tril(-1).any(dim=1)
