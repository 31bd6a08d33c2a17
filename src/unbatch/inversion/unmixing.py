"""The rows of a layer's gradient are mixtures of the layer's inputs: whiten them and look for the sources.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee, "Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning using
Independent Component Analysis", ICML 2023.

| paper    | here          | meaning                                                              |
|----------|---------------|----------------------------------------------------------------------|
| G        | gradient      | ∂L/∂W = A X, (m, n)                                                  |
| A        | columns       | (b, m) ∂L/∂z of every sample                                         |
| X, S     |               | (b, n) what the layer is fed: the sources                            |
|          | right         | (b, n) the gradient's right factor, G = left @ right                 |
| V        | turning       | (b, b) rows of length 1 in whitened coordinates                      |
|          | whitening     | (b, b) whitening @ (right − mean) is white: (b, n) of covariance 1   |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.errors import Inapplicable
from unbatch.inversion import priors
from unbatch.inversion.descent import Descended, Variables
from unbatch.inversion.label_guess import batch_size
from unbatch.linalg.ica import fast_ica, views_of
from unbatch.linalg.lowrank import Factors, factor
from unbatch.trace import LinearCall
from unbatch.types import Observation

__all__ = ["Sources", "Terms", "Turning", "Unmixing", "gaussian_contrast", "log_cosh"]

Turning = Literal["identity", "differences"]
"""Where the search starts: at the principal axes, as published; or where differences of neighboring numbers are sparsest (FastICA)."""

LEAST_SHARE = 0.02
"""A component whose weight in the bias gradient is below this share of the typical one is scaled as if it had that much. Chosen."""


@dataclass(frozen=True)
class Terms:
    """What each term of the objective counts.

    Attributes:
        contrast: of how far sources are from Gaussian.
        corrected: whether that is measured from a Gaussian's value. As coded by the authors it is measured from zero, which favors flat
            distributions over peaked ones.
        sharpness: of log cosh, their a.
        decorrelation: of sources that point the same way.
        temperature: of that, their T.
        total_variation: of sources that are pictures.
        sign: of sources that are of both signs.
        sparsity: of the mean absolute value of sources.
        orthogonal: whether rows are kept at right angles after every step, in the place of a penalty that holds them where they start.
    """

    contrast: float = 1.0
    corrected: bool = True
    sharpness: float = 1.0
    decorrelation: float = 1.47
    temperature: float = 12.4
    total_variation: float = 0.0
    sign: float = 0.0
    sparsity: float = 0.0
    orthogonal: bool = False


@dataclass(frozen=True, eq=False)
class Sources:
    """What was unmixed.

    Attributes:
        inputs: (b, n) what the layer was fed, by estimate.
        columns: (b, m) ∂L/∂z of every sample that goes with it.
        scaled: whether sign and scale were known, from the bias gradient; otherwise rows stand for themselves up to a factor.
    """

    inputs: Float[Tensor, "b n"]
    columns: Float[Tensor, "b m"]
    scaled: bool


class Unmixing:
    """One layer's gradient, made ready for a descent.

    Args:
        observation: what the server saw.
        call: the layer.
        terms: of the objective.
        generator: of the factors, where the gradient is wide.

    Raises:
        Inapplicable: the batch is larger than the layer, or its size is neither known nor shown by the gradient's rank.

    Example:
        >>> from torch import nn
        >>> from unbatch.gradients import capture
        >>> from unbatch.inversion.layers import raw_layer
        >>> net, generator = nn.Sequential(nn.Linear(400, 30), nn.Tanh(), nn.Linear(30, 3)).double(), torch.Generator().manual_seed(0)
        >>> secret = -torch.rand((4, 400), generator=generator, dtype=torch.float64).log()
        >>> seen = Observation(net, capture(net, secret, torch.tensor([0, 1, 2, 0])), (400,), batch_size=4)
        >>> unmixing = Unmixing(seen, raw_layer(seen), Terms(), generator)
        >>> unmixing.count, tuple(unmixing.start("identity", 2, generator)["turning"].shape)
        (4, (2, 4, 4))
    """

    def __init__(self, observation: Observation, call: LinearCall, terms: Terms, generator: Generator) -> None:
        self.terms = terms
        self.shape = observation.input_shape if call.raw else call.input.shape[1:]
        schema = observation.schema
        self.pictures = call.raw and schema is not None and schema.kind == "image" and len(self.shape) == 3
        gradient = observation.update[call.weight]
        factors = _factors(gradient, batch_size(observation), generator)
        self.left, self.right, self.count = factors.left, factors.right, factors.rank
        shift = None if call.bias is None else observation.update.get(call.bias)
        self.sums = None if shift is None or not bool(shift.any()) else self.left.T @ shift.double()
        centered = self.right - self.right.mean(dim=1, keepdim=True)
        axes, sizes, _ = torch.linalg.svd(centered, full_matrices=False)
        sizes = sizes.clamp_min(1e-12 * float(sizes[0]))
        self.whitening = (centered.shape[1] - 1) ** 0.5 * axes.T / sizes[:, None]
        self.unwhitening = axes * sizes / (centered.shape[1] - 1) ** 0.5
        self.white, self.shifted = self.whitening @ centered, self.whitening @ self.right
        self.gaussian = gaussian_contrast(terms.sharpness) if terms.corrected else 0.0

    def start(self, how: Turning, restarts: int, generator: Generator) -> Variables:
        """``turning`` (r, b, b): the first as it says, further ones at random."""
        first = torch.eye(self.count, dtype=self.white.dtype, device=self.white.device)
        if how == "differences":
            views = views_of(self.right, tuple(self.shape), generator)
            axes, sizes, _ = torch.linalg.svd(views, full_matrices=False)
            white = views.shape[1] ** 0.5 * axes.T / sizes.clamp_min(1e-12 * float(sizes[0]))[:, None]
            first = F.normalize(fast_ica(white @ views, generator) @ white @ self.unwhitening, dim=1)
        noise = torch.randn((restarts - 1, *first.shape), generator=generator, dtype=first.dtype, device=generator.device)
        return {"turning": torch.cat([first[None], torch.linalg.qr(noise.to(first.device)).Q])}

    def objective(self, variables: Variables) -> Float[Tensor, " r"]:
        """(r,) the sum of the terms."""
        terms, turning = self.terms, F.normalize(variables["turning"], dim=2)
        total = turning.new_zeros(len(turning))
        if terms.contrast:
            peaked = (log_cosh(terms.sharpness * (turning @ self.white)) / terms.sharpness).mean(dim=2) - self.gaussian
            total = total - terms.contrast * peaked.square().mean(dim=1)
        if terms.decorrelation and not terms.orthogonal:
            # Without the diagonal, a constant so large that the rest would drown in its rounding.
            alike = (turning @ turning.mT).abs().triu(1)
            total = total + terms.decorrelation * 2 * torch.expm1(terms.temperature * alike).sum(dim=(1, 2)) / self.count**2
        if terms.total_variation or terms.sign or terms.sparsity:
            sources = turning @ self.shifted
            if terms.total_variation and self.pictures:
                pictures = sources.view(*sources.shape[:2], *self.shape)
                total = total + terms.total_variation * priors.total_variation(pictures)
            if terms.sign:
                above, below = (priors.norm(side.clamp_min(0).flatten(0, 1)) for side in (sources, -sources))
                total = total + terms.sign * torch.minimum(above, below).view(sources.shape[:2]).mean(dim=1)
            if terms.sparsity:
                total = total + terms.sparsity * sources.abs().mean(dim=(1, 2))
        return total

    def project(self, variables: Variables) -> Variables:
        """Rows back to length 1, or to the nearest orthogonal matrix."""
        if self.terms.orthogonal:
            left, _, right = torch.linalg.svd(variables["turning"])
            return {"turning": left @ right}
        return {"turning": F.normalize(variables["turning"], dim=2)}

    def sources(self, found: Descended, *, non_negative: bool = False) -> Sources:
        """Of the best restart: what was mixed.

        The bias gradient is the sum of the columns of all samples, which gives sign and scale. Without it rows are turned so that their
        larger side is positive where they cannot be negative, or else to the side on which they are skewed, and have deviation 1.

        Args:
            found: where the descent ended.
            non_negative: whether the layer is fed no negative numbers, as behind ReLU.
        """
        best = int(found.values.argmin())
        mixing = F.normalize(found.variables["turning"][best], dim=1) @ self.whitening
        rows = mixing @ self.right
        if self.sums is not None:
            scale = mixing @ self.sums
            least = LEAST_SHARE * scale.abs().median()
            scale = torch.where(scale.abs() < least, torch.where(scale < 0, -least, least), scale)
        elif non_negative:
            scale = torch.where(rows.clamp_min(0).norm(dim=1) < (-rows).clamp_min(0).norm(dim=1), -1.0, 1.0).to(rows)
        else:
            scale = torch.where((rows - rows.mean(dim=1, keepdim=True)).pow(3).mean(dim=1) < 0, -1.0, 1.0).to(rows)
        columns = torch.linalg.lstsq(mixing.T, self.left.T).solution * scale[:, None]
        return Sources(rows / scale[:, None], columns, self.sums is not None)


def _factors(gradient: Tensor, size: int | None, generator: Generator) -> Factors:
    """Of as many samples as the batch is known to have, or as many fewer as the rank shows; or else of the rank."""
    factors = factor(gradient, generator)
    if size is None:
        if not factors.clear or factors.rank >= min(gradient.shape):
            raise Inapplicable(
                "the batch size is not known, and the gradient's rank does not show it: tell it, or assume one with batch_size="
            )
        return factors
    if size > min(gradient.shape):
        raise Inapplicable(f"the batch of {size} samples is larger than the layer, whose gradient is {tuple(gradient.shape)}")
    return factors if factors.clear and factors.rank <= size else factor(gradient, generator, rank=size)


def log_cosh(numbers: Tensor) -> Tensor:
    """log cosh without overflow.

    Example:
        >>> log_cosh(torch.tensor([0.0, -1000.0])).tolist()
        [0.0, 999.306...]
    """
    sizes = numbers.abs()
    return sizes + torch.log1p(torch.exp(-2 * sizes)) - math.log(2)


def gaussian_contrast(sharpness: float, points: int = 20001) -> float:
    """The mean of log cosh(a u) / a over a standard Gaussian u.

    Example:
        >>> round(gaussian_contrast(1.0), 4)
        0.3746
    """
    u = torch.linspace(-10, 10, points, dtype=torch.float64)
    density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    return float((log_cosh(sharpness * u) / sharpness * density).sum() * 20 / (points - 1))
