"""SPEAR: exact inversion of whole batches from the gradient of a Linear + ReLU layer.

Dimitrov, Baader, Müller, Vechev, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS 2024. The labels and
the proof by replay go beyond the paper.

| paper | here          | meaning                                          |
|-------|---------------|--------------------------------------------------|
| W, b  | weight, bias  | of the layer, m neurons, n inputs                |
| X     | inputs        | (b, n) the layer's inputs, one row a sample      |
| Z     |               | W X + bias                                       |
| L, R  | left, right   | ∂L/∂W = L R, of rank b                           |
| Q     | mixing        | ∂L/∂Z = L Q and Xᵀ = Q⁻¹ R                       |
| q     | directions    | columns of Q up to scale: L q is zero wherever its sample leaves a neuron off |
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.contracts import Attack, Candidate, Inapplicable, Progress
from unbatch.errors import Misuse
from unbatch.gradients import sensitivities
from unbatch.linalg.lowrank import Factors, factor, multiply
from unbatch.linalg.sampling import draw_rows, least_zeros, null_directions, zeros
from unbatch.linalg.selection import Layer, Selection, distinct, refine, select, sparsest
from unbatch.trace import LinearCall, linear_layers
from unbatch.types import Observation

__all__ = ["Spear"]

_ZERO: dict[torch.dtype, float] = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""What counts as zero in L q, as a share of its largest entry, by the update's dtype."""

PATIENCE = 4
"""A set of directions that does not fit every sign is given up when this many times the subsets that led to it brought no better one."""


@dataclass(frozen=True)
class Spear(Attack):
    """Exact inversion of a batch from one Linear + ReLU layer.

    Attributes:
        search: how the sparse directions are found; ``sampling`` is the paper's.
        layer: name of the layer's weight; the first one that can be inverted if None.
        seconds: budget of the search, wall time.
        subsets: budget of the search, subsets of rows.
        parallel: subsets evaluated at a time, at most.
        false_rejection: accepted probability that the zero threshold misses a true direction.
        precision: of the search; what it finds is refined in float64 in any case.

    Example:
        >>> import torch, unbatch
        >>> net = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5)).double()
        >>> secret, labels = torch.rand(6, 30, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (30,))
        >>> found = Spear()(seen).or_raise()
        >>> bool((torch.cdist(secret, found.inputs).amin(dim=1) < 1e-9).all()), sorted(found.labels.tolist())
        (True, [0, 0, 1, 2, 3, 4])
    """

    search: Literal["sampling"] = "sampling"
    layer: str | None = None
    seconds: float = 300.0
    subsets: int = 100_000_000
    parallel: int = 10_000
    false_rejection: float = 1e-5
    precision: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.seconds <= 0 or self.subsets < 1 or self.parallel < 1:
            raise Misuse("a positive budget", f"seconds={self.seconds}, subsets={self.subsets}, parallel={self.parallel}", "raise it")
        if not 0 < self.false_rejection < 1:
            raise Misuse("a probability between 0 and 1", f"false_rejection={self.false_rejection}", "1e-5 is the usual choice")

    def unsupported(self, observation: Observation) -> str | None:
        """No Linear layer with a bias, followed by ReLU, sees the raw inputs."""
        found = self._find_layer(observation)
        return found if isinstance(found, str) else None

    def _find_layer(self, observation: Observation) -> LinearCall | str:
        """The layer to invert, or why there is none."""
        calls = linear_layers(observation.model, observation.input_shape)
        if self.layer is not None:
            calls = [call for call in calls if self.layer in (call.weight, call.weight.removesuffix(".weight"))]
            if not calls:
                return f"the model runs no Linear layer named {self.layer!r}"
        obstacles = [_obstacle(call, observation) for call in calls]
        for call, obstacle in zip(calls, obstacles, strict=True):
            if obstacle is None:
                return call
        told = "; ".join(f"{call.weight} {obstacle}" for call, obstacle in zip(calls[:4], obstacles, strict=False))
        return "the model has no Linear + ReLU layer with a bias that sees its raw input: " + (told or "it runs no Linear layer at all")

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """Factor, search, scale, label: see the module's notation."""
        call = self._find_layer(observation)
        if isinstance(call, str):
            raise Inapplicable(call)
        progress("factor", float("nan"))
        factors = factor(observation.update[call.weight])
        layer = _in_factors(observation, call, factors)
        stats = {"layer": call.weight, "width": len(factors.left), "rank": factors.rank, "gap": factors.gap}
        selection, counts, reason = self._sample(layer, generator, progress)
        stats |= counts
        if selection is None:
            return Candidate(reason=reason, exhausted=True, stats=stats)
        stats["agreement"] = float(selection.agreement.mean())
        inputs = torch.linalg.solve(selection.mixing, factors.right).reshape(-1, *observation.input_shape)
        progress("labels", float("nan"))
        labels, shares = _labels(observation, call.weight, inputs, layer.left @ selection.mixing)
        copies = _multiplicities(shares, observation.batch_size)
        if not reason and bool((copies > 1).any()):
            reason = f"{int(copies.sum())} samples, of which only {len(inputs)} differ"
        return Candidate(inputs.repeat_interleave(copies, dim=0), labels.repeat_interleave(copies), reason, stats=stats)

    def _sample(self, layer: Layer, generator: Generator, progress: Progress) -> tuple[Selection | None, dict[str, int], str]:
        """Draw subsets of rows until b directions fit every sign, no better ones turn up, or the budget is spent."""
        b, start = layer.batch, time.monotonic()
        live = (layer.left.abs().amax(dim=1) > layer.tolerance * layer.left.abs().max()).nonzero()[:, 0]
        if len(live) <= b:
            raise Inapplicable(f"only {len(live)} neurons fire for any sample, and {b} samples need more than {b}")
        least = least_zeros(len(live), b, self.false_rejection)
        working = layer.left.to(getattr(torch, self.precision))
        pool = layer.left.new_ones((1, 1)) if b == 1 else layer.left.new_zeros((0, b))
        chosen = select(layer, pool) if b == 1 else None
        block = max(64, min(self.parallel, 2 ** min(b + 2, 30)))
        drawn = settled = 0
        while not (chosen and chosen.consistent):
            if chosen and drawn > PATIENCE * settled:
                chosen = select(layer, pool, swaps=200)
                break
            if drawn >= self.subsets or time.monotonic() - start > self.seconds:
                return None, {"subsets": drawn, "directions": len(pool)}, _why_not(len(pool), b, drawn, time.monotonic() - start)
            count = min(block, self.subsets - drawn)
            fresh = _draw(layer, working, live, count, least, pool, generator)
            drawn += count
            if len(fresh):
                pool = sparsest(layer.left, torch.cat([pool, fresh]), layer.tolerance, most=4 * b)
                best = select(layer, pool, swaps=0)
                if best and (chosen is None or best.sparsity > chosen.sparsity):
                    chosen, settled = best, drawn
            progress(f"{min(len(pool), b)} of {b} directions, {drawn:,} subsets", min(len(pool) / b, 1.0))
        fits = chosen is not None and chosen.consistent
        reason = "" if fits or not chosen else f"the signs of W X + bias fit only {float(chosen.agreement.mean()):.1%} of the zeros found"
        return chosen, {"subsets": drawn, "directions": len(pool)}, reason


def _draw(layer: Layer, working: Tensor, live: Tensor, count: int, least: int, pool: Tensor, generator: Generator) -> Float[Tensor, "k b"]:
    """New directions from ``count`` subsets of b−1 rows."""
    directions = null_directions(working, draw_rows(live, count, layer.batch - 1, generator))
    loose = layer.tolerance if working.dtype == torch.float64 else max(layer.tolerance, 1e-3)
    off = zeros(working[live], directions, loose)
    hits = (off.sum(dim=1) >= least).nonzero()[:, 0]
    hits = hits[distinct(directions[hits].double(), pool)]
    if not len(hits):
        return pool[:0]
    refined = refine(layer.left[live], directions[hits].double(), least, layer.tolerance)
    kept = zeros(layer.left[live], refined, layer.tolerance).sum(dim=1) >= least
    refined = refined[kept]
    return refined[distinct(refined, pool)]


def _why_not(found: int, batch: int, drawn: int, seconds: float) -> str:
    harmonic = sum(1 / k for k in range(1, batch + 1))
    return (
        f"{min(found, batch)} of {batch} directions after {drawn:,} subsets in {seconds:.0f} s;"
        f" with half of the neurons off, {batch} samples take about {2.0 ** (batch - 1) * harmonic:.0e} subsets"
    )


def _obstacle(call: LinearCall, observation: Observation) -> str | None:
    if call.activation != "relu":
        return f"is followed by {call.activation or 'nothing'} instead of ReLU"
    if call.bias is None:
        return "has no bias, whose gradient gives the scale"
    if call.input.ndim != 2:
        return f"is applied {call.input[0].numel() // call.input.shape[-1]} times a sample"
    if call.weight not in observation.update or call.bias not in observation.update:
        return "is frozen: the update holds no gradient of it"
    if not call.raw:
        return "does not see the raw input"
    return None


def _in_factors(observation: Observation, call: LinearCall, factors: Factors) -> Layer:
    """Gather what is known of the layer.

    Raises:
        Inapplicable: the rank says that the batch is too large, or says nothing.
    """
    height, width = observation.update[call.weight].shape
    if factors.rank >= min(height, width):
        raise Inapplicable(
            f"the gradient of {call.weight} ({height} neurons, {width} inputs) has full rank {factors.rank}: SPEAR needs a batch smaller"
            f" than min({height}, {width}), and an update without noise"
        )
    if not factors.clear:
        raise Inapplicable(
            f"the singular values of {call.weight} show no clear gap (the largest ratio is {factors.gap:.1f}), so the rank does not"
            " tell the batch size: the update is noisy, or the batch nearly dependent"
        )
    parameters = dict(observation.model.named_parameters())
    bias = parameters[str(call.bias)].detach().double()
    seen = multiply(parameters[call.weight].detach(), factors.right)
    tolerance = _ZERO[observation.dtype]
    return Layer(factors.left, observation.update[str(call.bias)].double(), seen, bias, tolerance)


def _labels(observation: Observation, weight: str, inputs: Tensor, columns: Float[Tensor, "m b"]) -> tuple[Tensor, Tensor]:
    """The label of every sample, and its share of the batch.

    Column i of ∂L/∂Z must be ∂ℓ(x_i, y)/∂z times that share (1/b, or more for a repeated sample); the class that leaves the
    smallest rest wins.
    """
    expected = sensitivities(observation.model, inputs, weight, observation.loss)
    shares = torch.einsum("cbm,mb->cb", expected, columns) / expected.square().sum(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    rest = (columns.T - shares[..., None] * expected).norm(dim=-1).where(shares > 0, torch.inf)
    labels = rest.argmin(dim=0)
    return labels, shares.gather(0, labels[None])[0]


def _multiplicities(shares: Tensor, batch_size: int | None, most: int = 8) -> Tensor:
    """How often every distinct sample was in the batch: the smallest whole numbers in proportion to its share."""
    distinct_samples = len(shares)
    for size in [batch_size] if batch_size else range(distinct_samples, most * distinct_samples + 1):
        copies = (shares * size).round()
        if int(copies.sum()) == size and bool(((shares * size - copies).abs() < 0.02).all()) and bool((copies > 0).all()):
            return copies.to(torch.int64)
    return torch.ones(distinct_samples, dtype=torch.int64, device=shares.device)
