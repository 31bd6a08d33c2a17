"""From an observation to what is searched: the gradient's factors, and the layer in their coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.errors import Inapplicable
from unbatch.linalg.blocks import firing, length
from unbatch.linalg.completion import COMPLETE, Completion, complete, is_pruned, rank_of_pruned
from unbatch.linalg.ica import views_of
from unbatch.linalg.lowrank import NOISELESS, Factors, factor, multiply
from unbatch.spear.behind import DEEP, Stage, readers_of, stages_behind
from unbatch.spear.layer import Layer, layer_in_factors
from unbatch.spear.led import Sources
from unbatch.spear.next_layer import NextLayer, next_layer
from unbatch.spear.outputs import Known, known_slopes
from unbatch.spear.refinement import is_uneven
from unbatch.spear.search import NOISY
from unbatch.trace import LinearCall
from unbatch.types import Observation

__all__ = ["ZERO", "Problem", "factored", "noiseless", "pose", "sources_of", "too_few"]

ZERO = 1e-7
"""What counts as zero in L q, as a share of its largest entry, in an update without noise. Chosen. Swept."""


TINY = 1e-12
"""The same where the rows of the gradient were brought to one length: weak samples leave so little beside strong ones. Chosen."""

ROUGH = 1e-6
"""What a gradient with zeros leaves unexplained, as a share of its size, above which the zeros are taken for pruned entries. Chosen."""


COMPLETING = 0.5
"""Share of the budget for the completion of what looks pruned: where there is another way, it needs the rest. Chosen."""

ROUNDINGS = 40.0
"""Roundings of the largest singular value above which one is a sample's, where a gap does not tell. Chosen, as the judge has it."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer whose sparse directions are sought.

    Attributes:
        call: the layer.
        factors: of its gradient.
        layer: the layer in the coordinates of its factors.
        change: (b, b) T such that x = rightᵀ Tᵀ p.
        seen: (m, b) W rightᵀ: what the layer makes of x = rightᵀ c is seen @ c + bias.
        following: the next layer, where it certifies samples.
        alive: (m,) neurons that some sample fires: the layer's.
        samples: how many there are: more than the layer has dimensions, where their inputs depend on each other.
        columns: (n,) which inputs are determined, where some are not.
    """

    call: LinearCall
    factors: Factors
    layer: Layer
    change: Float[Tensor, "b b"]
    seen: Float[Tensor, "m b"]
    following: NextLayer | None
    alive: Bool[Tensor, " m"]
    samples: int
    columns: Bool[Tensor, " n"] | None = None

    def inputs(self, samples: Float[Tensor, "k b"]) -> Float[Tensor, "k n"]:
        """x of samples p."""
        return (samples @ self.change) @ self.factors.right

    def samples_of(self, inputs: Float[Tensor, "k n"]) -> Float[Tensor, "k b"]:
        """p of what lies nearest to inputs."""
        return torch.linalg.lstsq((self.change @ self.factors.right).T, inputs.T).solution.T


def factored(observation: Observation, call: LinearCall, generator: Generator, clock: Clock) -> tuple[Factors, Completion | None]:
    """The gradient's factors, of the rank that it shows, or else of the batch size that the server knows.

    Of a pruned gradient, whose rank shows nothing, the factors that go through what is left of it, and what is known of the rest.

    Raises:
        Inapplicable: the rank says that the batch is too large, or says nothing.
        OutOfTime: the clock ran out.
    """
    gradient = observation.update[call.weight]
    factors = factor(gradient, generator, clock=clock)
    alive = int(firing(gradient).sum())
    if fading := _fading(gradient, factors, alive):
        factors = factor(gradient, generator, rank=min(observation.batch_size or fading, *gradient.shape), clock=clock)
    hidden = not (factors.clear or fading) or factors.rank >= min(alive, gradient.shape[1])
    size = (length(factors.right) ** 2 / gradient.numel() + factors.noise**2) ** 0.5  # of the gradient's numbers, without a pass over them
    rough = factors.noise > ROUGH * size or (len(factors.ranks) > 1 and _cut(gradient, size))
    if (hidden or rough) and is_pruned(gradient):
        try:
            return _completed(observation, call, factors.ranks, clock.part(COMPLETING))
        except (Inapplicable, OutOfTime):
            if hidden and not observation.batch_size:
                raise
    if hidden and observation.batch_size:  # of full rank, because noise has it
        factors = factor(gradient, generator, rank=min(observation.batch_size, *gradient.shape), clock=clock)
    _check_rank(observation, call, factors, fading=bool(fading))
    if (seen := _seen(gradient, factors, alive)) > factors.rank and is_uneven(factors):  # a gap between strong samples and weak ones
        factors = replace(factors, ranks=(seen, *factors.ranks))
    return factors, None


def _fading(gradient: Float[Tensor, "m n"], factors: Factors, alive: int) -> int:
    """The rank of a gradient whose weakest samples come down to the rounding of float64, so that no gap is left there; 0 of any other.

    A gap after which most of it follows, as of inputs that have a mean, is none between samples and noise.
    """
    seen = _seen(gradient, factors, alive)
    return 0 if factors.clear and seen <= 2 * factors.rank else seen


def _seen(gradient: Float[Tensor, "m n"], factors: Factors, alive: int) -> int:
    """How many directions of the gradient are above the rounding of float64, where all of these are the samples'; 0 where they need not be.

    Noise, and pruning, leave nearly full rank: far less of it means that nothing is added to the samples but rounding.
    """
    spectrum = factors.singular_values
    seen = int((spectrum > ROUNDINGS * torch.finfo(spectrum.dtype).eps * spectrum[0]).sum())
    return seen if gradient.dtype == torch.float64 and 2 * seen < min(alive, gradient.shape[1]) else 0


def noiseless(factors: Factors) -> bool:
    """Whether what the factors do not explain is the rounding of float64."""
    return factors.clear and factors.noise < NOISELESS * float(factors.singular_values[0])


def _cut(gradient: Float[Tensor, "m n"], size: float, low: float = 1e-3) -> bool:
    """Whether all small entries are zero, as pruning leaves them.

    Where several gaps come from samples of which the network is nearly sure, rows of one sample are zero at its black pixels, and their
    other entries are tiny.
    """
    there = gradient[gradient != 0].abs()
    return bool(len(there)) and float(there.min()) > low * size


def _completed(observation: Observation, call: LinearCall, hints: tuple[int, ...], clock: Clock) -> tuple[Factors, Completion]:
    gradient = observation.update[call.weight]
    rank = observation.batch_size or rank_of_pruned(gradient, min(gradient.shape) // 2, hints, clock)
    left = float((gradient != 0).double().mean())
    told = f"the gradient of {call.weight} was pruned to {left:.0%} of its entries"
    if rank is None or rank >= min(gradient.shape):
        raise Inapplicable(f"{told}, too few to complete it at any rank: the batch is too large, or the rest is noisy; more may be known")
    completion = complete(gradient, rank, clock=clock)
    if not completion.residual < COMPLETE:
        raise Inapplicable(f"{told}, and no completion of rank {rank} explains them (the nearest leaves {completion.residual:.0e})")
    values = torch.linalg.svdvals(completion.right)
    noise = completion.residual * length(gradient) / gradient.numel() ** 0.5
    return Factors(completion.left, completion.right, values, 1 / max(completion.residual, 1e-16), noise, (rank,)), completion


def pose(
    observation: Observation,
    call: LinearCall,
    reader: LinearCall | None,
    factors: Factors,
    completion: Completion | None,
    generator: Generator,
    clock: Clock,
    samples: int | None = None,
) -> list[Problem]:
    """The layer in the coordinates of its factors, for every rank that the gradient may have: first those with little noise, then large.

    ``samples`` is how many there are, where that is more than the rank.

    With several clear gaps, the samples after the last ones have gradients so small that rounding may hide their zeros.
    """
    parameters, problems = dict(observation.model.named_parameters()), []
    for rank in factors.ranks if factors.clear else (factors.rank,):
        part = factors if rank == factors.rank else factor(observation.update[call.weight], generator, rank=rank, clock=clock)
        seen = multiply(parameters[call.weight].detach(), part.right, clock)
        found = layer_in_factors(
            part.left,
            _bias_gradient(observation, call, part, completion),
            seen,
            parameters[str(call.bias)].detach().double(),
            views_of(part.right, observation.input_shape if call.raw else tuple(call.input.shape[1:]), generator),
            part.noise_map,
            ZERO if part.lengths is None else TINY,
            _moved(observation, call, part),
            part.lengths,
        )
        if found is None or len(found[0].left) <= found[0].batch:
            continue
        layer, change, alive = found
        read = None if reader is None or completion is not None else observation.update[reader.weight]
        columns = None if completion is None or bool(completion.columns.all()) else completion.columns
        count = samples or layer.batch
        problems.append(Problem(call, part, layer, change, seen, next_layer(read, alive, count), alive, count, columns))
    return sorted(problems, key=lambda problem: problem.layer.noise_level > NOISY)


def sources_of(observation: Observation, problem: Problem) -> Sources:
    """What leads guesses of a problem's samples: the layers behind its own, as far as each reads the one before, and the outputs."""
    readers, parameters = readers_of(observation, problem.call), dict(observation.model.named_parameters())

    def stages(clock: Clock, deep: int = DEEP) -> list[Stage]:
        return stages_behind(readers, parameters, observation.update, problem.alive, problem.samples, clock, deep)

    def known(clock: Clock) -> Known | None:
        slopes = known_slopes(observation, readers[-1].weight, problem.layer.batch) if len(readers) > 1 else None
        if slopes is None:
            return None
        made = stages(clock, len(readers) - 1)  # all layers up to the last hidden one
        return Known(made, slopes) if len(made) == len(readers) - 1 else None

    return Sources(stages, known)


def _bias_gradient(observation: Observation, call: LinearCall, factors: Factors, completion: Completion | None) -> Float[Tensor, " m"]:
    """∂L/∂bias; where it was pruned, what the factors and the rest of it say."""
    gradient = observation.update[str(call.bias)].double()
    if completion is None:
        return factors.evened(gradient)
    known = (gradient != 0) & completion.rows
    if int(known.sum()) < factors.rank:
        raise Inapplicable(f"{call.bias} was pruned to {int(known.sum())} entries, too few for the scale of {factors.rank} samples")
    return factors.left @ torch.linalg.lstsq(factors.left[known], gradient[known, None]).solution[:, 0]


def too_few(observation: Observation, call: LinearCall, factors: Factors) -> str:
    """Why no rank left a layer that tells samples apart."""
    alive = int(firing(observation.update[call.weight]).sum())
    if alive > factors.rank:
        return f"the noise of the update buries all but a few of the {alive} neurons that fire: {factors.rank} samples cannot be told apart"
    return f"only {alive} neurons fire for any sample, too few to tell {factors.rank} samples apart"


def _moved(observation: Observation, call: LinearCall, factors: Factors) -> tuple[Tensor, Tensor] | None:
    """By how much W rightᵀ and the bias fell while the client trained, where that is known."""
    factor = None if observation.training is None else observation.training.factor(observation.batch_size)
    if observation.one_gradient or factor is None or not observation.factor_known:
        return None
    return factor * factors.left @ (factors.right @ factors.right.T), factor * observation.update[str(call.bias)].double()


def _check_rank(observation: Observation, call: LinearCall, factors: Factors, *, fading: bool) -> None:
    """Refuse a gradient whose rank says that the batch is too large, or says nothing.

    Raises:
        Inapplicable: with the reason.
    """
    height, width = observation.update[call.weight].shape
    if factors.rank >= min(height, width):
        raise Inapplicable(
            f"the gradient of {call.weight} ({height} neurons, {width} inputs) has full rank {factors.rank}: SPEAR needs a batch smaller"
            f" than min({height}, {width}), or an update without noise; if the batch is smaller, give batch_size"
        )
    if not (factors.clear or fading) and observation.batch_size is None:
        raise Inapplicable(
            f"the singular values of {call.weight} show no clear gap (the largest ratio is {factors.gap:.1f}), so the rank does not"
            " tell the batch size: the update is noisy, or the batch nearly dependent; give batch_size if it is known"
        )
