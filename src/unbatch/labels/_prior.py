"""What is known of the batch before its labels: class scores under made-up inputs, and how uneven the classes may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import polygamma
from torch import Generator, Tensor

from unbatch.errors import Inapplicable
from unbatch.last_layer import LastLayer, noise_inputs
from unbatch.types import Observation

__all__ = ["Anchors", "anchors", "fallback"]

LEAST, LESS = 0.6, 0.2
"""How far an even batch is bent at least, and by how much less for every sample a class. Measured: see ``ZEROS``. Both swept."""

FLOOR, CUT = 0.05, 4.0
"""Least weight of a class, and largest logarithm of one. Measured: see ``ZEROS``. Swept."""

HALF, DOUBTED = 0.5, 6.0
"""Sizes count by their square roots at most, and by half of that where logarithms of counts vary by the second. Measured: see ``ZEROS``.
Swept."""

NOTHING = 1e-12
"""An entry below this share of the largest is zero but for rounding. Chosen."""

SPECTRA = ((0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (1.5, 1.0), (0.0, 0.5), (1.0, 0.5))
"""Kinds of made-up inputs: how smooth, and how strong. Chosen: from white noise to smoother than photographs."""

OFFSET = 0.5
"""Deviation of the mean input of one population, in deviations of an input. Chosen. Swept."""

MOST_NUMBERS = 1 << 24
"""In one population of made-up inputs."""

MISSED = {True: 0.2, False: 0.4}
"""How often a trained network hides the sign of a class that is there, where features have zeros and where not. Measured: see ``ZEROS``.
Swept."""

ZEROS = 0.1
"""Share of zeros from which on features count as having them.

This, ``MISSED`` and the constants of ``fallback`` were set on MNIST networks after 100 and 1000 steps of training; they move the answer
little. Measured. Swept.
"""


@dataclass(frozen=True, eq=False)
class Anchors:
    """What the model makes of made-up inputs.

    Attributes:
        scores: (m, C) for each population the logarithm of its mean softmax, centered.
        curvature: (C,) root mean square over populations of how far the mean softmax is from the softmax of the mean scores.
        within: mean variance of a centered score inside a population.
    """

    scores: Float[Tensor, "m c"]
    curvature: Float[Tensor, " c"]
    within: float


def anchors(observation: Observation, populations: int, inputs: int, generator: Generator) -> Anchors:
    """Run the model on populations of made-up inputs.

    Each has a mean input and a spectrum of its own, so that the spread over populations tells how well such a guess can be. Populations of
    very large inputs are smaller. The generator is left as it came, so that the same inputs are made up for other weights.

    Raises:
        Inapplicable: the model overflows.
    """
    scores, bends, within, state = [], [], [], generator.get_state()
    inputs = max(8, min(inputs, MOST_NUMBERS // math.prod(observation.input_shape)))
    for index in range(populations):
        decay, scale = SPECTRA[index % len(SPECTRA)]
        mean = OFFSET * noise_inputs(observation, 1, generator, 1.0)
        noise = noise_inputs(observation, inputs, generator, decay)
        with torch.no_grad():
            outputs = observation.model(mean + scale * noise if noise.is_floating_point() else noise)  # tokens have no mean
        centered = outputs.double() - outputs.double().mean(dim=1, keepdim=True)
        within.append(centered.var(dim=0).mean())
        softmax = torch.softmax(outputs, dim=1).mean(dim=0).double()
        score = softmax.clamp_min(1e-30).log()
        scores.append(score - score.mean())
        bends.append((softmax - torch.softmax(outputs.mean(dim=0).double(), dim=0)).square())
    generator.set_state(state)
    if not bool(torch.stack(scores).isfinite().all()):
        raise Inapplicable(
            "the scores of the model overflow on made-up inputs: the weights, or the update of local training, are too large"
        )
    return Anchors(torch.stack(scores), torch.stack(bends).mean(dim=0).sqrt(), float(torch.stack(within).mean()))


def fallback(layer: LastLayer, total: int) -> Float[Tensor, " c"]:
    """Counts where the mean probability cannot be known: an even batch, bent as far as signs and sizes of the gradient allow.

    Which classes seem to be missing tells how uneven the batch is (the concentration of a Dirichlet-multinomial), and that how far
    signs and sizes of the negative entries are to be believed.
    """
    shift, classes = layer.bias_gradient, layer.classes
    bent = -max(LEAST, 1 - LESS * total / classes) * classes * shift
    weights = (1 + bent).clamp_min(FLOOR) if total < 2 * classes else bent.clamp(-CUT, CUT).exp()
    if layer.non_negative and layer.noise == 0:
        missed = MISSED[float((layer.features == 0).double().mean()) > ZEROS]
        depth = (-layer.lowest).clamp_min(0)
        there = depth > NOTHING * layer.gradient.abs().max()
        concentration, absent = _concentration(int((~there).sum()), classes, total, missed)
        spread = float(polygamma(1, concentration))
        sizes = HALF * spread / (spread + DOUBTED) * depth.clamp_min(torch.finfo(depth.dtype).tiny).log()
        hidden = (1 - absent) * missed / (absent + (1 - absent) * missed)
        # What is hidden is rarely large: hence the power.
        weights = weights * torch.where(there, (sizes - sizes[there].mean()).exp(), hidden**3)
    return total * weights / weights.sum()


def _concentration(missing: int, classes: int, total: int, missed: float) -> tuple[float, float]:
    """The most likely concentration of a symmetric Dirichlet-multinomial for so many classes that seem to have no sample.

    Returns:
        the concentration, and how often a class has no sample under it.
    """
    candidates = torch.logspace(-1.5, 3, 60, dtype=torch.float64)[:, None]
    # P(no sample of a class) = Γ(a(C−1)+K) Γ(aC) / (Γ(a(C−1)) Γ(aC+K))
    rest, all_ = candidates * (classes - 1), candidates * classes
    absent = (torch.lgamma(rest + total) - torch.lgamma(rest) - torch.lgamma(all_ + total) + torch.lgamma(all_)).exp()[:, 0]
    seen = (absent + (1 - absent) * missed).clamp(1e-12, 1 - 1e-12)
    best = int((missing * seen.log() + (classes - missing) * (1 - seen).log()).argmax())
    return float(candidates[best, 0]), float(absent[best])
