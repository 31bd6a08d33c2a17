"""Which neurons of Linear layers fire, measured on inputs, and what follows for a batch of b samples.

A sample's direction is determined by the b − 1 rows of its zeros (SPEAR, NeurIPS 2024): it must leave at least b − 1 neurons off that
others turn on, and those rows must have rank b − 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from scipy.stats import betabinom, binom
from torch import Tensor, nn

from unbatch.exposure.findings import Neurons
from unbatch.exposure.tracing import precision
from unbatch.trace import run

__all__ = ["Firing", "in_chunks", "measure", "samples_for"]

BUDGET = 2_000_000_000
"""Numbers that all measuring passes together may compute: a minute or so on one core."""

QUICK = 100_000_000
"""Numbers that they may compute for more inputs than ``MANY``: some seconds. Chosen."""

AT_ONCE = 30_000_000
"""Numbers in the intermediate results of one pass."""

FEWEST, MANY, MOST = 64, 1000, 4000
"""Noise inputs to measure on: at least, at most, and at most where they cost little."""

ENOUGH = 3
"""Samples on which a measured share rests, at least."""


def samples_for(footprint: int, parameters: int) -> int:
    """How many noise inputs a model is measured on, by the numbers it computes and the parameters it reads for each.

    Example:
        >>> samples_for(5_000, 600_000), samples_for(10_000_000, 600_000), samples_for(3_000_000, 311_000_000)
        (1538, 198, 64)
    """
    each = footprint + parameters // 10
    return min(MOST, max(FEWEST, QUICK // each, min(MANY, BUDGET // each)))


def in_chunks(count: int, footprint: int) -> list[int]:
    """How many inputs each pass takes, about equally many, none of them one alone unless there is only one: batch statistics need two.

    Example:
        >>> in_chunks(7, 10_000_000), in_chunks(5, 1_000_000_000), in_chunks(1, 1)
        ([4, 3], [3, 2], [1])
    """
    passes = max(1, count // max(2, AT_ONCE // footprint))
    return [count // passes + (i < count % passes) for i in range(passes)]


def measure(model: nn.Module, chunks: Iterable[Tensor], weights: Sequence[str]) -> dict[str, Firing]:
    """Run the model on chunks (s, *shape) of inputs and see which neurons of the layers of these weights fire.

    The global random state is left as it was.
    """
    fires: dict[str, list[Tensor]] = {weight: [] for weight in weights}
    for chunk in chunks if weights else ():
        with torch.random.fork_rng(devices=[chunk.device] if chunk.device.type == "cuda" else []):
            torch.manual_seed(0)
            for call in run(model, chunk, dtype=precision(model)).linears:
                if call.weight in fires:
                    fires[call.weight].append((call.output.detach() > 0).cpu())
    return {weight: Firing(torch.cat(masks)) for weight, masks in fires.items()}


@dataclass(frozen=True, eq=False)
class Firing:
    """Which neurons fire, ``on`` (s, m), for s inputs."""

    on: Bool[Tensor, "s m"]

    @cached_property
    def alive(self) -> Bool[Tensor, "s alive"]:
        """The same without the neurons that never fire."""
        return self.on[:, self.on.any(dim=0)]

    @cached_property
    def zeros(self) -> npt.NDArray[np.int64]:
        """(s,) how many of the living neurons each sample leaves off, sorted."""
        return np.sort((~self.alive).sum(dim=1).numpy())

    @cached_property
    def off(self) -> npt.NDArray[np.float64]:
        """(alive,) probability that each living neuron is off, drawn half a sample towards the middle."""
        count = (~self.alive).sum(dim=0).double()
        return np.asarray((count + 0.5) / (len(self.on) + 1))

    @property
    def neurons(self) -> Neurons:
        """The figures to report."""
        alive = self.alive.shape[1]
        always = int(self.on.all(dim=0).sum())
        return Neurons(
            inputs=len(self.on),
            dead=self.on.shape[1] - alive,
            always_on=always,
            switching=alive - always,
            off=float(self.zeros.mean()) / max(1, alive),
            zeros=float(self.zeros.mean()),
            spread=float(self.zeros.std(ddof=1)) if len(self.zeros) > 1 else 0.0,
        )

    @cached_property
    def tail(self) -> npt.NDArray[np.float64]:
        """(alive + 2,) at k the probability that a sample leaves fewer than k living neurons off.

        The larger of three: neurons that are off independently, each with its own measured probability (the bound of SPEAR, with 1/2
        replaced by what was measured); where the counts spread more than that allows, a beta-binomial of the measured mean and spread;
        and the measured share, where it rests on three samples or more.
        """
        below = np.concatenate([[0.0], np.cumsum(_poisson_binomial(self.off))])
        independent = float((self.off * (1 - self.off)).sum())
        samples, alive, mean = len(self.zeros), len(self.off), float(self.off.mean()) if len(self.off) else 0.0
        spread = float(self.zeros.var(ddof=1)) if samples > 1 else 0.0
        if alive > 1 and samples > 1 and spread > independent * (1 + 3 * math.sqrt(2 / (samples - 1))):
            excess = (spread / (alive * mean * (1 - mean)) - 1) / (alive - 1)
            counts = np.arange(-1, alive + 1)
            if excess > 0:
                concentration = 1 / min(excess, 0.999) - 1
                wide = betabinom.cdf(counts, alive, mean * concentration, (1 - mean) * concentration)
            else:
                wide = binom.cdf(counts, alive, mean)
            below = np.maximum(below, wide)
        measured = np.searchsorted(self.zeros, np.arange(alive + 2), side="left")
        return np.minimum(1.0, np.maximum(below, np.where(measured >= ENOUGH, measured / samples, 0.0)))

    def undetermined(self, batch: int) -> float:
        """Probability that one sample of a batch leaves fewer than b − 1 living neurons off."""
        return float(self.tail[min(batch - 1, len(self.tail) - 1)])

    def failure(self, batch: int) -> float:
        """Probability that any of b samples does.

        Example:
            >>> fires = Firing(torch.rand((500, 200), generator=torch.Generator().manual_seed(0)) < 0.5)
            >>> fires.failure(1), fires.failure(60) < 1e-6, 0.001 < fires.failure(75) < 0.02, fires.failure(100) > 0.99
            (0.0, True, True, True)
        """
        return -math.expm1(batch * math.log1p(-min(self.undetermined(batch), 1 - 1e-16)))

    def largest(self, failure: float, most: int) -> int:
        """The largest batch up to ``most`` that fails with less than this probability: at least 1, where a neuron lives at all."""
        if not self.alive.shape[1]:
            return 0
        return max((batch for batch in range(1, most + 1) if self.failure(batch) < failure), default=1)


def _poisson_binomial(probabilities: Float[np.ndarray, " m"]) -> npt.NDArray[np.float64]:
    """(m + 1,) distribution of how many of m independent events happen, exactly, by one convolution an event.

    Example:
        >>> _poisson_binomial(np.array([0.5, 0.5])).tolist()
        [0.25, 0.5, 0.25]
    """
    distribution = np.zeros(len(probabilities) + 1)
    distribution[0] = 1.0
    for probability in probabilities:
        distribution[1:] = distribution[1:] * (1 - probability) + distribution[:-1] * probability
        distribution[0] *= 1 - probability
    return distribution
