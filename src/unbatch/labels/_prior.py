"""What is known of the batch before its labels: class scores under made-up inputs, and how uneven the classes may be."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from scipy.special import polygamma
from torch import Generator, Tensor

from unbatch.labels._last_layer import LastLayer, noise_inputs
from unbatch.types import Observation

__all__ = ["fallback", "noise_scores"]

SPECTRA = ((0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (1.5, 1.0), (0.0, 0.5), (1.0, 0.5))
"""Kinds of made-up inputs: how smooth, and how strong."""

OFFSET = 0.5
"""Deviation of the mean input of one population, in deviations of an input."""

MISSED = {True: 0.2, False: 0.4}
"""How often a trained network hides the sign of a class that is there, where features have zeros and where not.

This and the constants of ``fallback`` were set on MNIST networks after 100 and 1000 steps of training; they move the answer little.
"""


def noise_scores(observation: Observation, populations: int, inputs: int, generator: Generator) -> Float[Tensor, "m c"]:
    """For several populations of made-up inputs: the logarithm of the mean softmax, centered.

    Each population has a mean input and a spectrum of its own, so that the spread over populations tells how well such a guess can be.
    """
    scores = []
    for index in range(populations):
        decay, scale = SPECTRA[index % len(SPECTRA)]
        mean = OFFSET * noise_inputs(observation, 1, generator, 1.0)
        with torch.no_grad():
            outputs = observation.model(mean + scale * noise_inputs(observation, inputs, generator, decay))
        score = torch.softmax(outputs, dim=1).mean(dim=0).double().clamp_min(1e-30).log()
        scores.append(score - score.mean())
    return torch.stack(scores)


def fallback(layer: LastLayer, total: int) -> Float[Tensor, " c"]:
    """Counts where the mean probability cannot be known: an even batch, bent as far as signs and sizes of the gradient allow.

    Which classes seem to be missing tells how uneven the batch is (the concentration of a Dirichlet-multinomial), and that how far
    the size of a class's negative entries is to be believed.
    """
    shift, classes = layer.bias_gradient, layer.classes
    bent = (-0.6 * classes * shift).clamp(-4, 4)
    if layer.non_negative and layer.noise == 0:
        missed = MISSED[float((layer.features == 0).double().mean()) > 0.1]
        depth = (-layer.lowest).clamp_min(0)
        there = depth > 1e-12 * layer.gradient.abs().max()
        spread = float(polygamma(1, _concentration(int((~there).sum()), classes, total, missed)))
        belief = spread / (spread + 6)
        sizes = 0.5 * depth.clamp_min(torch.finfo(depth.dtype).tiny).log()
        missing = belief * math.log(1e-3)
        bent = bent + torch.where(there, belief * (sizes - sizes[there].mean()), missing)
    return total * torch.softmax(bent, dim=0)


def _concentration(missing: int, classes: int, total: int, missed: float) -> float:
    """The most likely concentration of a symmetric Dirichlet-multinomial for so many classes that seem to have no sample."""
    candidates = torch.logspace(-1.5, 3, 60, dtype=torch.float64)[:, None]
    # P(no sample of a class) = Γ(a(C−1)+K) Γ(aC) / (Γ(a(C−1)) Γ(aC+K))
    rest, all_ = candidates * (classes - 1), candidates * classes
    absent = (torch.lgamma(rest + total) - torch.lgamma(rest) - torch.lgamma(all_ + total) + torch.lgamma(all_)).exp()[:, 0]
    seen = (absent + (1 - absent) * missed).clamp(1e-12, 1 - 1e-12)
    likelihood = missing * seen.log() + (classes - missing) * (1 - seen).log()
    return float(candidates[likelihood.argmax(), 0])
