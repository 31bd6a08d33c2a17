"""From an observation to equations: the layer, the factors of its gradient, and what else of the update speaks.

| here       | meaning                                                                                           |
|------------|---------------------------------------------------------------------------------------------------|
| U, R       | left, right: ∂L/∂W = U R, U orthonormal, of rank b                                                  |
| p          | a sample in these coordinates: x = Rᵀ p                                                             |
| s          | sums: Uᵀ ∂L/∂bias; p · s = 1 for every sample, because the bias's gradient is the sum of all columns; 0 where there is none |
| c          | Uᵀ d, scaled so that p · c = 1; of two samples i ≠ j, p_i · c_j = 0                                 |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.errors import Inapplicable, UnbatchError, named
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import Factors, factor
from unbatch.losses import LossFailed, slopes
from unbatch.span.equations import MARGIN, Equations, Space, spaces_of_gradient
from unbatch.span.network import network_behind
from unbatch.trace import TRIAL, LinearCall
from unbatch.types import Observation

__all__ = ["CROWDED", "PRECISION", "Found", "Problem", "across", "entered", "find_layer", "layers_behind", "other_spaces", "pose"]

STEP, SMOOTH = 1e-3, 0.1
"""A step as a share of a sample, and how far a smooth layer may be off its derivative there: one with kinks is off by about 1. Chosen; the
second one swept."""

CROWDED = 0.6
"""Above this share of unknowns to the first layer's equations the other layers' equations are used in the search, not only in the proof.
Chosen. Swept."""

FED = 0.45
"""The same for what the next layers are fed: with fewer equations a kinked activation has zeros that no sample has, and more are cheap.
Chosen, not swept."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer whose samples are sought.

    Attributes:
        call: the layer.
        factors: of its gradient.
        sums: (b,) s.
        unknowns: of every sample: b, and one less where s tells the scale.
        equations: all of them.
        plans: those that the search uses, one choice of them after the other while nothing is found.
        precision: what of a residual is rounding in any case.
        samples: how many samples there are, as told or as the rank shows.
        classes: C.
    """

    call: LinearCall
    factors: Factors
    sums: Float[Tensor, " b"]
    unknowns: int
    equations: Equations
    plans: tuple[Equations, ...]
    precision: float
    samples: int
    classes: int

    @property
    def batch(self) -> int:
        """b."""
        return self.factors.rank

    @cached_property
    def length(self) -> float:
        """About how long the inputs are, by the size of the gradient: ‖G‖² is about Σ w² ‖d‖² ‖x‖², and the model says what ‖d‖ is."""
        network, right = self.equations.network, self.factors.right
        drawn = torch.randn((32, self.batch), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(right)
        drawn = drawn / (drawn @ right).norm(dim=1, keepdim=True)
        labels, length = torch.arange(len(drawn), device=right.device) % self.classes, right.shape[1] ** 0.5
        for _ in range(4):
            columns, _ = network.sensitivities(length * drawn, labels, [self.call.weight])
            sizes = columns[self.call.weight].norm(dim=1)
            length = float(right.norm()) * self.samples**0.5 / float(sizes.square().mean().sqrt().clamp_min(1e-30))
        return length

    @property
    def column(self) -> Space:
        """The column space of the layer itself."""
        return self.equations.spaces[0]


@dataclass(eq=False)
class Found:
    """Proved samples.

    Attributes:
        points: (k, b) p.
        labels: (k,).
        columns: (k, b) c.
        errors: (k,) how far the inputs may be off, in their own units, as the residual and the least determined direction bound it.
    """

    points: Float[Tensor, "k b"]
    labels: Int64[Tensor, " k"]
    columns: Float[Tensor, "k b"]
    errors: Float[Tensor, " k"]

    def __len__(self) -> int:
        """k."""
        return len(self.points)


def across(sums: Float[Tensor, " r"]) -> Float[Tensor, "q r"]:
    """Directions along which p · sums stays 1: all of them where there are no sums."""
    return complement(sums[None]).T if bool(sums.any()) else torch.eye(len(sums), dtype=sums.dtype, device=sums.device)


def find_layer(observation: Observation, layer: str | None = None) -> LinearCall | str:
    """The layer to invert, or why there is none.

    Args:
        observation: what the server saw.
        layer: the name of its weight; the first that sees the raw input if None.
    """
    every = observation.layers
    calls = [call for call in every if layer in (None, call.weight, call.weight.removesuffix(".weight"))]
    if not calls and layer is not None:
        return f"the model runs no Linear layer named {layer!r}"
    obstacles = [_obstacle(call, every, observation, inner=layer is not None) for call in calls]
    for call, obstacle in zip(calls, obstacles, strict=True):
        if obstacle is None:
            return call
    told = "; ".join(f"{call.weight} {obstacle}" for call, obstacle in zip(calls[:4], obstacles, strict=False))
    return "the model has no Linear layer that sees its raw input once a sample: " + (told or "it runs no Linear layer at all")


def _obstacle(call: LinearCall, every: Sequence[LinearCall], observation: Observation, *, inner: bool) -> str | None:
    if call.input.ndim != 2 or len(call.input) != TRIAL or sum(other.weight == call.weight for other in every) > 1:
        return f"is applied {sum(o.input.numel() // o.input.shape[-1] for o in every if o.weight == call.weight) // TRIAL} times a sample"
    if call.weight not in observation.update:
        return "is frozen: the update holds no gradient of it"
    if not bool(observation.update[call.weight].any()):
        return "has a gradient of zero: it was frozen, or no neuron of it passes anything on"
    if not (call.raw or inner):
        return "does not see the raw input (name it with layer= to recover what it sees)"
    return None


def pose(
    observation: Observation,
    call: LinearCall,
    generator: Generator,
    *,
    alone: bool = False,
    resolution: float = 0.0,
    clock: Clock = UNLIMITED,
) -> Problem:
    """The equations of a layer's samples.

    Args:
        observation: what the server saw.
        call: the layer.
        generator: of all randomness.
        alone: whether only the layer's own column space counts, because what is behind it moved.
        resolution: relative rounding of the update, where that is more than its type's.
        clock: when to give up.

    Raises:
        OutOfTime: the clock ran out.
        Inapplicable: the rank of the gradient says that there are too few equations, or says nothing, or the scores depend on more than
            what the layer is fed.
    """
    gradient = observation.update[call.weight]
    factors = _factored(observation, call, generator)
    calls = entered(observation, call)
    with _differentiating(observation):
        network = network_behind(observation.model, calls, factors.right, observation.input_shape, observation.loss)
    if network is None:
        raise Inapplicable(f"the model's scores depend on more than what {call.weight} is fed: a path goes past it")
    precision = PRECISION[observation.rounding]
    first = Space("column", call.weight, factors.left, factors.noise_map * max(1, len(factors.left) - factors.rank) ** 0.5)
    rounding = max(resolution, torch.finfo(gradient.dtype).eps)
    others = [] if alone else other_spaces(observation, calls, factors.rank, rounding, clock)
    equations = Equations(network, [first, *others])
    bias = observation.update.get(str(call.bias))
    sums = factors.left.new_zeros(factors.rank) if bias is None else factors.left.T @ bias.double()
    unknowns = factors.rank - bool(sums.any())
    if equations.count < unknowns + MARGIN:
        raise Inapplicable(_too_few(observation, call, factors.rank, unknowns, equations.count))
    with _differentiating(observation):
        tried = torch.zeros((TRIED, factors.rank), dtype=sums.dtype, device=sums.device)
        equations.linearized(tried, torch.zeros(TRIED, dtype=torch.int64, device=sums.device), tried[:1])
        plans, samples = _plans(equations, sums, unknowns), observation.batch_size or factors.rank
    return Problem(call, factors, sums, unknowns, equations, plans, precision, samples, observation.classes)


@contextmanager
def _differentiating(observation: Observation) -> Iterator[None]:
    """Whatever keeps the model, or the loss, from being differentiated as the search needs, as the reason why it does not apply.

    Functions that are written by hand have no rule under vmap or no forward derivative, and checkpoints of activations neither.
    """
    try:
        yield
    except LossFailed as error:
        given = torch.zeros((1, observation.classes), dtype=torch.float64, device=observation.device)
        slopes(observation.loss, given, torch.zeros(1, dtype=torch.int64, device=observation.device))  # raises if it fails at that, too
        told = f"PyTorch cannot differentiate the loss forward, as this search needs: {error.came}"
        raise Inapplicable(told) from error
    except (UnbatchError, Inapplicable, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        told = f"PyTorch cannot differentiate the model forward, twice and at many points at once, as this search needs: {named(error)}"
        raise Inapplicable(told) from error


TRIED = 32
"""Points on which the model is differentiated once, to see whether it can be. Chosen: as many as a search begins with."""


def _too_few(observation: Observation, call: LinearCall, batch: int, unknowns: int, equations: int) -> str:
    every, classes = observation.layers, observation.classes
    if call.weight == every[-1].weight and len(observation.update[call.weight]) == classes:
        most = max(1, (classes + 1 - MARGIN) // 2)
        return (
            f"{call.weight} is the output layer: its gradient has at most {classes - 1} dimensions for {classes} classes, which prove"
            f" batches of up to {most}; of larger ones it gives the labels (`unbatch labels`) and mixtures of the samples"
        )
    return f"{batch} samples are {unknowns} unknowns each, and the update gives {equations} equations: too few for a proof"


def _plans(equations: Equations, sums: Tensor, unknowns: int) -> tuple[Equations, ...]:
    """Which equations to search with, one choice after the other while nothing is found.

    First what the next layers are fed: it needs no label, and behind a kinked activation (ReLU, LeakyReLU) it is continuous where ∂ℓ/∂z
    jumps from mask to mask. As few layers as are enough: the nearest is the nearest to linear.
    """
    network = equations.network
    own = Equations(network, [equations.spaces[0]])
    rows = [space for space in equations.spaces if space.kind == "row"]
    fed = next((e for e in (Equations(network, rows[:n]) for n in range(1, len(rows) + 1)) if FED * e.count > unknowns), None)
    smooth = CROWDED * own.count > unknowns and _smooth(own, sums)
    return (*([fed] if fed else []), *([own] if smooth else []), equations)


def _smooth(equations: Equations, sums: Tensor, step: float = STEP) -> bool:
    """Whether ∂ℓ/∂z moves as its derivative says, seen on random samples."""
    generator = torch.Generator().manual_seed(0)
    scale = 1 / float(sums.norm()) if bool(sums.any()) else 1 / float(equations.network.right.norm())
    points, toward = (torch.randn((2, 16, len(sums)), generator=generator, dtype=torch.float64) * scale).to(sums).unbind()
    labels = torch.zeros(len(points), dtype=torch.int64, device=sums.device)
    moved = equations.residuals(points + step * toward, labels) - equations.residuals(points - step * toward, labels)
    _, slope = torch.func.jvp(lambda p: equations.residuals(p, labels), (points,), (2 * step * toward,))[:2]
    return float((moved - slope).norm(dim=1).median()) < SMOOTH * float(moved.norm(dim=1).median())


PRECISION = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""What of a residual is rounding in any case, by the update's type. Chosen, as ``evidence.judge.TOLERANCE``. Swept."""


def _factored(observation: Observation, call: LinearCall, generator: Generator) -> Factors:
    gradient = observation.update[call.weight]
    factors = factor(gradient, generator)
    firing = int((gradient != 0).any(dim=1).sum())
    if observation.batch_size and (not factors.clear or factors.rank >= min(firing, gradient.shape[1])):
        factors = factor(gradient, generator, rank=min(observation.batch_size, *gradient.shape))
    if factors.rank >= min(gradient.shape):
        raise Inapplicable(
            f"the gradient of {call.weight} ({gradient.shape[0]} neurons, {gradient.shape[1]} inputs) has full rank {factors.rank}: the"
            " batch is as large, or the update is noisy; if the batch is smaller, give batch_size"
        )
    if not factors.clear and observation.batch_size is None:
        raise Inapplicable(
            f"the singular values of {call.weight} show no clear gap (the largest ratio is {factors.gap:.1f}), so the rank does not"
            " tell the batch size: the update is noisy, or the batch nearly dependent; give batch_size if it is known"
        )
    return factors


def entered(observation: Observation, call: LinearCall) -> list[LinearCall]:
    """The layers that are fed the same as this one: all that see the raw input once a sample, or an inner layer alone."""
    if not call.raw:
        return [call]
    every = observation.layers
    return [other for other in every if other.raw and other.input.ndim == 2 and len(other.input) == TRIAL]


def layers_behind(observation: Observation, first: list[LinearCall]) -> list[LinearCall]:
    """The later layers that are applied once a sample and whose gradient the update holds."""
    every = observation.layers
    counted = [call.weight for call in every]
    names = {call.weight for call in first}
    behind = every if first[0].raw else every[counted.index(first[0].weight) :]
    return [
        call
        for call in behind
        if counted.count(call.weight) == 1
        and call.input.ndim == 2
        and len(call.input) == TRIAL
        and call.weight not in names
        and call.weight in observation.update
    ]


def other_spaces(observation: Observation, first: list[LinearCall], batch: int, resolution: float, clock: Clock = UNLIMITED) -> list[Space]:
    """The spaces of all layers behind the entered ones, where their gradient has the rank of the batch.

    Raises:
        OutOfTime: the clock ran out between two layers, each of which takes a whole factorization.
    """
    spaces: list[Space] = []
    for call in layers_behind(observation, first):
        clock.check()
        bias = observation.update.get(call.bias) if call.bias else None
        spaces += spaces_of_gradient(call.weight, observation.update[call.weight], bias, batch, resolution)
    return spaces
