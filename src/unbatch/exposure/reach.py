"""Up to which batch size ``span`` solves for the samples of a layer: by counting equations, and as far as it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unbatch.exposure.findings import Reach
from unbatch.exposure.limits import FAILURE, searched
from unbatch.exposure.tracing import ParameterTrace
from unbatch.span.equations import MARGIN
from unbatch.trace import LinearCall

__all__ = ["reach", "traced_by_all"]

KINKED = {"leaky_relu", "prelu", "relu", "rrelu"}
"""Behind these ∂ℓ/∂z jumps: only what the next layers are fed is solved for."""

SMOOTH_PICTURES: dict[int, int] = {60: 36, 100: 56, 200: 120, 400: 120}
"""Width -> largest batch of CIFAR-10 that was tried through GELU of which every draw (two or three a size) was wholly exact: six layers,
untrained. From benchmarks/results/span.json. What is larger was not tried or failed: no promise is meant."""

KINKED_PICTURES: dict[int, int] = {200: 50}
"""The same through ReLU, LeakyReLU and PReLU, twenty draws each."""

VECTORS: dict[int, int] = {200: 16}
"""The same for Gaussian inputs through GELU, twenty draws. Nothing larger was tried."""

SCORES: dict[int, int] = {10: 3, 100: 48}
"""The same for an output layer of so many classes with nothing behind it, which is softmax regression; one draw each, of pictures."""


def reach(call: LinearCall, trace: ParameterTrace, follower: str, *, pictures: bool, biased: bool) -> Reach | None:
    """How far ``span`` reaches from a layer that is applied once a sample; None where it proves no batch of two.

    Args:
        call: the layer.
        trace: that it comes from.
        follower: the function that takes its output.
        pictures: whether it is fed pictures.
        biased: whether the update holds its bias's gradient, which tells the scale.
    """
    own, behind = call.output.shape[-1], _behind(call, trace)
    kinked = follower in KINKED
    most = min(own, call.input.shape[-1]) - 1
    counted = next((b for b in range(most, 1, -1) if _enough(b, 0 if kinked else own, behind, kinked, b - biased)), 1)
    if counted < 2:
        return None
    measured: Mapping[int, int] = KINKED_PICTURES if kinked else SMOOTH_PICTURES
    expected, inside = searched(own, SCORES if not behind else measured if pictures else VECTORS)
    return Reach(counted=counted, searched=max(1, min(counted, expected)), extrapolated=not inside)


def traced_by_all(reach: Reach, untraced: float) -> Reach:
    """The same, searched no further than where 99 of 100 batches leave a trace of every sample, of which this share leaves none.

    Example:
        >>> traced_by_all(Reach(counted=30, searched=20, extrapolated=False), 0.001).searched
        10
    """
    most = reach.searched if untraced <= 0 else int(math.log1p(-FAILURE) / math.log1p(-min(untraced, 1 - 1e-16)))
    return reach.model_copy(update={"searched": max(1, min(reach.searched, most))})


def _behind(call: LinearCall, trace: ParameterTrace) -> list[tuple[int, int]]:
    """Neurons and inputs, a bias's 1 among these, of the trained layers behind that are applied once a sample."""
    calls = trace.ran.linears
    names = [other.weight for other in calls]
    trained = {name for module in trace.modules for name, parameter in module.parameters.items() if parameter.requires_grad}
    return [
        (other.output.shape[-1], other.input.shape[-1] + (other.bias in trained))
        for other in calls[names.index(call.weight) + 1 :]
        if names.count(other.weight) == 1 and other.weight in trained and other.input.ndim == 2 and len(other.input) == len(trace.inputs)
    ]


def _enough(batch: int, own: int, behind: list[tuple[int, int]], kinked: bool, unknowns: int) -> bool:
    """Whether there are more equations than unknowns, with the margin that a proof asks for."""
    count = max(0, own - batch)
    for neurons, inputs in behind:
        if min(neurons, inputs) >= batch:
            count += inputs - batch + (0 if kinked else neurons - batch)
    return count >= unknowns + MARGIN
