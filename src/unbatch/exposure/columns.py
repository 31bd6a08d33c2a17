"""Which samples of a batch are given by their zeros: tried on the columns that real inputs make, with all that lies behind the layer.

G = Σ dᵢ xᵢᵀ. A sample's column dᵢ is given where the rows that it leaves zero have rank b − 1 in the columns of all others. How many
others that may be is found by adding them one by one until one of them depends, in those rows, on those before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn

from unbatch.errors import Misuse
from unbatch.exposure.tracing import precision
from unbatch.gradients import Loss, loss_function
from unbatch.trace import LinearCall, Run, run, tensors_in

__all__ = ["WAYS", "Columns", "Trials", "columns_of", "first_dependent", "inputs_for", "try_zeros"]

MOST = 4000
"""Inputs whose columns are kept. Chosen."""

FEWEST = 16
"""Inputs below which their columns are not computed at all. Chosen."""

PASSES = 4_000_000_000
"""Multiplications of one pass over all inputs whose columns are kept, by a rough count: some seconds with the way back. Chosen."""

FORWARD = 50
"""Multiplications that a number costs that is computed on the way, beside one for every parameter: of convolutions. Chosen."""

NUMBERS = 24_000_000
"""Numbers that all kept columns may have together: 200 MB. Chosen."""

WAYS = "at random", "all of one class", "as the network answers"
"""In which the inputs are labeled, for their labels are not known. Chosen."""

DOUBTFUL = 1e-5
"""Sine of the angle to those before it below which a column is looked at again by a slower and more exact factorization. Chosen."""

DEPENDENT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Sine of the angle below which a column depends on those before it, by the precision that it was computed in. Chosen."""

FAINT = {torch.float64: 1e-13, torch.float32: 1e-6}
"""Share of the longest column of the same labeling below which a column is rounding, and its sample leaves no trace. Chosen."""

AT_ONCE = 500_000
"""Numbers in the matrices of the trials that are factored together. Chosen."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What a layer's gradient is made of, for s inputs, labeled in v ways.

    Attributes:
        slopes: (v, s, m) ∂ℓ/∂z, each of length one; zero where the sample leaves no trace.
        seen: (s, p) what the layer is fed, of length one; mixed down to p numbers, which are enough to tell any rank that matters.
        precision: that they were computed in.
        most: how many inputs there are for a batch, where they were given; None where more can be made up.
    """

    slopes: Float[Tensor, "v s m"]
    seen: Float[Tensor, "s p"]
    precision: torch.dtype
    most: int | None = None

    @cached_property
    def alive(self) -> Bool[Tensor, " m"]:
        """Neurons that have a gradient for any of them."""
        return self.slopes.flatten(0, 1).any(dim=0)

    @cached_property
    def traced(self) -> Bool[Tensor, "v s"]:
        """Which samples leave a trace: something to multiply, on both sides."""
        return self.slopes.any(dim=2) & self.seen.any(dim=1)

    @cached_property
    def untraced(self) -> dict[str, float]:
        """Share of samples that leave none, for each of the ways in which they were labeled."""
        return {way: 1 - float(traced.double().mean()) for way, traced in zip(WAYS, self.traced, strict=False)}

    @cached_property
    def same(self) -> Int64[Tensor, " s"] | None:
        """(s,) a number for what the layer is fed, where some of them are fed the same: those are one sample to it."""
        distinct, group = torch.unique(self.seen, dim=0, return_inverse=True)
        return None if len(distinct) == len(self.seen) else group


@dataclass(frozen=True)
class Trials:
    """What adding others one by one showed of each sought sample.

    Attributes:
        most: others that were added at most.
        zeros: (t,) neurons that the sample leaves zero while any other has a gradient there.
        tolerated: (t,) others up to which its column is given by its zeros.
    """

    most: int
    zeros: Int64[Tensor, " t"]
    tolerated: Int64[Tensor, " t"]

    def lost(self, others: int) -> int:
        """How many of the samples are not given beside so many others although they have zeros enough."""
        return int(((self.tolerated < others) & (self.zeros >= others)).sum())


def inputs_for(given: int, neurons: int, footprint: int, parameters: int, *, zeros: bool) -> int:
    """How many of the given inputs keep their columns; 0 where that would take too long.

    Args:
        given: there are.
        neurons: of the layers together.
        footprint: numbers that the model computes for an input.
        parameters: of the model.
        zeros: whether zeros matter, and not only whether a sample leaves a trace.

    Example:
        >>> [inputs_for(10_000, n, 5 * n, 1000 * n, zeros=True) for n in (50, 1000, 5000)], inputs_for(64, 100, 10**8, 10**8, zeros=True)
        ([4000, 3200, 640], 0)
    """
    affordable = (PASSES if zeros else PASSES // 10) // (parameters + FORWARD * footprint)
    count = min(given, MOST, affordable, NUMBERS // (len(WAYS) * max(1, neurons)))
    return count if count >= min(given, FEWEST) else 0


def columns_of(
    model: nn.Module,
    chunks: Iterable[Tensor],
    weights: Sequence[str],
    loss: Loss,
    generator: Generator,
    most: int | None = None,
) -> dict[str, Columns]:
    """The columns of the layers of these weights for chunks (s, *shape) of inputs, in float64 where the model runs in it.

    Labels are not known, so there are three ways: each at random, all of one class, and the model's own answer. A model whose outputs the
    loss does not take is differentiated in random directions instead. The global random state is left as it was. ``most`` is handed on.
    """
    slopes: dict[str, list[Tensor]] = {weight: [] for weight in weights}
    seen: dict[str, list[Tensor]] = {weight: [] for weight in weights}
    dtype = torch.float64
    for chunk in chunks if weights else ():
        with torch.random.fork_rng(devices=[chunk.device] if chunk.device.type == "cuda" else []):
            torch.manual_seed(0)
            try:
                ran = run(model, chunk, dtype=dtype)
            except Misuse:  # its code insists on its own precision
                dtype = precision(model)
                ran = run(model, chunk, dtype=dtype)
        calls = {call.weight: call for call in ran.linears if call.weight in slopes}
        ways = [_slopes(ran, list(calls.values()), loss, way, generator) for way in WAYS]
        for index, (weight, call) in enumerate(calls.items()):
            slopes[weight].append(torch.stack([way[index] for way in ways]).double().cpu())
            seen[weight].append(_mixed(call.input.detach(), call.output.shape[-1]))
    found = {}
    for weight in (weight for weight in weights if slopes[weight]):
        found[weight] = _columns(torch.cat(slopes[weight], dim=1), torch.cat(seen[weight]), dtype, most)
    return found


def _columns(slopes: Tensor, seen: Tensor, dtype: torch.dtype, most: int | None) -> Columns:
    sizes = slopes.norm(dim=2, keepdim=True)
    kept = sizes > FAINT[dtype] * sizes.amax(dim=1, keepdim=True)
    lengths = seen.norm(dim=1, keepdim=True)
    return Columns(torch.where(kept, slopes / sizes, 0.0), torch.where(lengths > 0, seen / lengths, 0.0), dtype, most)


def _slopes(ran: Run, calls: list[LinearCall], loss: Loss, way: str, generator: Generator) -> list[Tensor]:
    """∂ℓ/∂z (s, m) of every call, for labels that are made up in this way."""
    value = torch.zeros(())
    if isinstance(ran.outputs, Tensor) and ran.outputs.ndim == 2:
        with suppress(Misuse):  # where it is not what this loss takes
            value = loss_function(loss)(ran.outputs, _labels(ran.outputs.detach(), loss, way, generator))
    if not value.requires_grad:
        outputs = [tensor for tensor in tensors_in([ran.outputs]) if tensor.requires_grad]
        directions = [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in outputs]
        value = sum(((one * along).sum() for one, along in zip(outputs, directions, strict=True)), torch.zeros(()))
    if not value.requires_grad:
        return [torch.zeros_like(call.output) for call in calls]
    gradients = torch.autograd.grad(value, [call.output for call in calls], retain_graph=True, allow_unused=True)
    return [torch.zeros_like(call.output) if g is None else g for call, g in zip(calls, gradients, strict=True)]


def _labels(outputs: Tensor, loss: Loss, way: str, generator: Generator) -> Tensor:
    classes = 2 if outputs.shape[1] == 1 and loss in ("bce", "mse") else outputs.shape[1]
    if way == "as the network answers":
        return outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
    if way == "all of one class":
        return torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
    return torch.randint(classes, (len(outputs),), generator=generator).to(outputs.device)


def _mixed(fed: Float[Tensor, "s n"], neurons: int) -> Float[Tensor, "s p"]:
    """Random mixtures of what a layer is fed, one for each neuron and a few more: their rank is the rank of that, up to so many."""
    inputs, count = fed.shape[1], neurons + 8
    if inputs <= count:
        return fed.double().cpu()
    generator, mixed = torch.Generator().manual_seed(0), torch.zeros((len(fed), count), dtype=torch.float64)
    for part in torch.split(fed.double().cpu(), 4096, dim=1):
        mixed += part @ torch.randn((part.shape[1], count), generator=generator, dtype=torch.float64)
    return mixed


def try_zeros(columns: Columns, most: int, count: int, generator: Generator) -> Trials:
    """Seek about ``count`` samples beside up to ``most`` others, drawn from those that leave a trace."""
    zeros, tolerated = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    at_once = max(1, min(256, AT_ONCE // max(1, most * columns.slopes.shape[2])))
    for step in range(math.ceil(count / at_once)):
        way = step % len(columns.slopes)
        there = columns.traced[way].nonzero()[:, 0]
        if len(there) <= most:
            continue
        order = there[torch.randperm(len(there), generator=generator)]
        starts = torch.randint(len(there), (at_once, 1), generator=generator)
        drawn = order[(starts + torch.arange(most + 1)) % len(there)]
        found = _tolerated(columns, columns.slopes[way], drawn)
        zeros.append(found[0])
        tolerated.append(found[1])
    return Trials(most, torch.cat(zeros), torch.cat(tolerated))


def _tolerated(columns: Columns, slopes: Float[Tensor, "s m"], drawn: Int64[Tensor, "t k"]) -> tuple[Tensor, Tensor]:
    """Of the first of each row: how many zeros it has, and beside how many of the others, in their order, these give its column."""
    off = (slopes[drawn[:, 0]] == 0) & columns.alive
    zeros, most = off.sum(dim=1), drawn.shape[1] - 1
    new = _new(columns.same, drawn)[:, 1:]
    places = torch.cat([(~new).byte().argsort(dim=1, stable=True), torch.full((len(drawn), 1), most)], dim=1)
    others, distinct = drawn[:, 1:].gather(1, places[:, :-1]), new.sum(dim=1)
    counted = torch.arange(most) < torch.minimum(zeros, distinct)[:, None]
    block = slopes[others].mul_(off.double()[:, None, :]).mul_(counted.double()[:, :, None])
    gram = block @ block.mT
    gram.diagonal(dim1=1, dim2=2).add_(~counted)
    factor, info = torch.linalg.cholesky_ex(gram)
    doubtful = (info > 0) | (factor.diagonal(dim1=1, dim2=2).amin(dim=1) < DOUBTFUL)
    first = torch.where(distinct > zeros, zeros, most)  # the first that is one too many, or none
    if bool(doubtful.any()):
        pivots = torch.linalg.qr(block[doubtful].mT, mode="r").R.diagonal(dim1=1, dim2=2).abs()
        bad = (pivots < DEPENDENT[columns.precision]) & counted[doubtful][:, : pivots.shape[1]]
        first[doubtful] = torch.where(bad.any(dim=1), bad.byte().argmax(dim=1), first[doubtful])
    return zeros, places.gather(1, first[:, None])[:, 0]


def _new(same: Int64[Tensor, " s"] | None, drawn: Int64[Tensor, "t k"]) -> Bool[Tensor, "t k"]:
    """Which of each row are fed what nobody before them in the row is."""
    if same is None:
        return torch.ones(drawn.shape, dtype=torch.bool)
    groups = same[drawn]
    return ~(groups[:, :, None] == groups[:, None, :]).tril(-1).any(dim=2)


def first_dependent(columns: Columns, most: int, count: int, generator: Generator) -> Int64[Tensor, " count"]:
    """In so many random orders, the number of samples from which on what the layer is fed depends linearly; ``most`` + 1 if never."""
    found = []
    for _ in range(count):
        order = torch.randperm(len(columns.seen), generator=generator)[:most]
        places = _new(columns.same, order[None])[0].nonzero()[:, 0]
        pivots = torch.linalg.qr(columns.seen[order[places]].mT, mode="r").R.diagonal().abs()
        bad = (pivots < DEPENDENT[columns.precision]).nonzero()[:, 0]
        index = int(bad[0]) if len(bad) else len(pivots)
        found.append(int(places[index]) + 1 if index < len(places) else most + 1)
    return torch.tensor(found)
