"""DP-SGD: every sample's gradient clipped, Gaussian noise on the sum, and the privacy that this gives.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016. The accountants are those of Opacus (extra ``dp``): Renyi differential
privacy, and privacy random variables (Gopi, Lee, Wutschitz, "Numerical Composition of Differential Privacy", NeurIPS 2021).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse

__all__ = ["DpSgd"]

LARGEST_GRID = 3e7
"""Points up to which privacy random variables are discretized: about ten seconds and a gigabyte."""


@dataclass(frozen=True)
class DpSgd(Defense):
    """Every sample's gradient scaled down to an L2 norm over all tensors together, and Gaussian noise on their sum.

    Attributes:
        clip: C, the largest L2 norm of a sample's gradient; inf clips nothing, and then the noise must be 0.
        noise_multiplier: σ; the sum over the batch gets noise of standard deviation σ C, so its mean over b samples σ C / b.

    Example:
        >>> single = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}
        >>> DpSgd(1.0, noise_multiplier=0.0)(single, torch.Generator())["w"]
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """

    stage: ClassVar[Stage] = Stage.EXAMPLE
    rescales: ClassVar[bool] = True

    clip: float = field(default=1.0, metadata={"infinite": True})
    noise_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if not self.clip > 0:
            raise Misuse("a clipping norm above zero", f"{self.clip}", "inf clips nothing")
        if not 0 <= self.noise_multiplier < math.inf:
            raise Misuse("a finite noise multiplier from 0", f"{self.noise_multiplier}", "0 adds no noise, and protects nothing")
        if math.isinf(self.clip) and self.noise_multiplier:
            raise Misuse("a finite clipping norm with noise", f"clip=inf and noise_multiplier={self.noise_multiplier}", "give both or none")

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """See ``Defense``; each sample carries its equal part of the one noise that the sum gets."""
        norms = [torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1, dtype=torch.float64) for tensor in gradients.values()]
        factors = (self.clip / torch.stack(norms).norm(dim=0)).clamp(max=1.0)
        clipped = {name: torch.einsum("b,b...->b...", factors.to(tensor.dtype), tensor) for name, tensor in gradients.items()}
        if self.noise_multiplier:
            for tensor in clipped.values():
                tensor.add_(self._noise(tensor, generator) / len(tensor))
        return clipped

    def _noise(self, tensor: Tensor, generator: Generator) -> Tensor:
        """Of the shape of one sample's gradient."""
        unit = torch.randn(tensor.shape[1:], generator=generator, dtype=tensor.dtype, device=tensor.device)
        return self.noise_multiplier * self.clip * unit

    def epsilon(self, steps: int, sample_rate: float, delta: float = 1e-5, accountant: Literal["rdp", "prv"] = "rdp") -> float:
        """ε of the (ε, δ) differential privacy that training with this defense gives every sample: an upper bound, by Opacus.

        It holds if every step draws each sample into its batch by itself with the same probability, and if the noise is secret and
        of cryptographic quality, which a seeded generator is not.

        Args:
            steps: of training, in all.
            sample_rate: probability that a sample is in a step's batch, above 0 to 1.
            delta: δ, between 0 and 1.
            accountant: ``rdp``, or ``prv``, which is tighter and cannot be computed where ε is very large.

        Returns:
            ε; infinite without noise.

        Raises:
            Misuse: a number that cannot be; Opacus is not installed; ``prv`` where ε is too large for it.

        Example:
            >>> DpSgd(noise_multiplier=0.0).epsilon(steps=100, sample_rate=0.01)
            inf
        """
        if steps < 1 or not 0 < sample_rate <= 1 or not 0 < delta < 1:
            came = f"steps={steps}, sample_rate={sample_rate}, delta={delta}"
            raise Misuse("at least one step, a sample rate above 0 to 1 and a delta between 0 and 1", came, "delta is usually 1e-5")
        if accountant not in ("rdp", "prv"):
            raise Misuse("the accountant rdp or prv", repr(accountant), "use one of them")
        if self.noise_multiplier == 0:
            return math.inf
        renyi = _accounted("rdp", self.noise_multiplier, sample_rate, steps, delta)
        if accountant == "rdp":
            return renyi
        # Opacus: steps of 0.01 / sqrt(n ln(12 / (δ / 1000)) / 2), to either side up to at least ε.
        if 200 * renyi * math.sqrt(steps * math.log(12_000 / delta) / 2) > LARGEST_GRID:
            raise Misuse("an epsilon that prv can be computed for", f"one near {renyi:.3g} after {steps} steps", "take the accountant rdp")
        return _accounted("prv", self.noise_multiplier, sample_rate, steps, delta)


def _accounted(mechanism: str, noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        raise Misuse("opacus, which accounts for privacy", "none installed", "pip install 'unbatch[dp]'") from error
    accountant = create_accountant(mechanism)
    accountant.history = [(float(noise_multiplier), float(sample_rate), int(steps))]
    with warnings.catch_warnings():  # that another order might give a tighter bound: this one holds too
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(accountant.get_epsilon(delta=delta))
