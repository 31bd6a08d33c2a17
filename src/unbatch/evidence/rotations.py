r"""Members that could be turned together within their own span, so that hardly anything of the update would change.

Where a network is linear about several members and the slope of the loss is, too (a square of errors; scores so small that a softmax is a
line), d(x) = A x + c for each of them, and for members of one label X' = X Q with Q orthogonal and Q 1 = 1 leaves what X leaves:

    Σ d(x') x'ᵀ = A X Q Qᵀ Xᵀ + c (Q 1)ᵀ Xᵀ,    Σ d(x') = A X Q 1 + …

Three members about their mean have such a Q. Counting does not see it: these equations say the same thing twice (``regions``). So what
is left in the gradient by moves of these members within their span is written down,

    δG = Σ wᵢ (Jᵢ δxᵢ xᵢᵀ + dᵢ δxᵢᵀ) + δwᵢ dᵢ xᵢᵀ,    δg = Σ wᵢ Jᵢ δxᵢ + δwᵢ dᵢ,    J = ∂d/∂x,

and what hides behind the misfit of the update follows from its singular values. Asked of members whose columns turn alike, a few at a time:
whatever moves is free to, be the others as they may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import normalize

from unbatch.evidence.accuracy import SAFETY, STEP
from unbatch.evidence.certificate import FINEST, Entrance
from unbatch.evidence.mixtures import columns_of
from unbatch.evidence.regions import random_slopes
from unbatch.evidence.replay import Use, entrance_of
from unbatch.evidence.slopes import pulled_back
from unbatch.evidence.tail import Tail, tail_of
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import multiply
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["Turning", "hidden_beside_others", "hidden_from_certificates", "hidden_from_replay"]

REGION = 0.3
"""Columns of the same slopes that differ by less than this share of their length belong to samples that may share a region. Chosen: larger
differences show."""

BENT = 0.1
"""Columns that change along a straight line from one sample to another but for this share of their length are as good as linear there, how
far apart the samples may be, as behind a product of two layers. Chosen: what bends more shows."""

MOST = 12
"""Samples that are moved at a time; the next few share half of them, so that any three neighbors are moved together somewhere. Chosen: all
their mixtures are 144 numbers."""

SPANNED = 1e-9
"""A direction of which samples have less than this share, beside the first, is none in which they are moved. Chosen."""

STILL, FREE = 1e-13, 1e6
"""A singular value below the first, beside the largest, is zero in float64, and what it belongs to is free to move by the second. Derived:
450 roundings."""

STEPPED = 1e-9
"""The same where columns are turned by finite differences: ten times what rounding is over ``STEP``. Derived."""

SEEN = 1e-7
"""A column that turns by less than this share of itself turns by nothing that finite differences see. Chosen above rounding over
``STEP``."""


@dataclass(frozen=True, eq=False)
class Turning:
    """What is known of k samples at the layer that sees them.

    Attributes:
        inputs: (k, n) x, or its coordinates in an orthonormal basis.
        columns: (k, m) w d.
        turned: indices (q,) of samples and ways (a, n), orthonormal -> (q, a, m) w J of each sample along each way, and the share of the
            largest below which a singular value of it is zero.
        noise: (m,) or (1,) what a row of the gradient may be off by, as the replay leaves it.
        bias_noise: (m,) or (1,) the same of the bias gradient; None where it has none.
        rest: ways (a, n) -> (m, a) what the samples leave of the gradient along the ways; None where that is
            not known.
        free: (k,) whether what a sample counts is tuned, too.
    """

    inputs: Float[Tensor, "k n"]
    columns: Float[Tensor, "k m"]
    turned: Callable[[Int64[Tensor, " q"], Float[Tensor, "a n"]], tuple[Float[Tensor, "q a m"], float]]
    noise: Float[Tensor, " r"]
    bias_noise: Float[Tensor, " r"] | None
    rest: Callable[[Float[Tensor, "a n"]], Float[Tensor, "m a"]] | None
    free: Bool[Tensor, " k"]


def hidden_from_replay(
    observation: Observation,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    columns: Float[Tensor, "m k"],
    row_errors: Float[Tensor, " m"],
    entered: Use,
    free: Bool[Tensor, " k"],
    *,
    sent: bool = True,
) -> Float[Tensor, " k"]:
    """See ``_hidden_by_turning``, of a batch that was replayed.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        columns: (m, k) w d.
        row_errors: (m,) what the replay leaves of the rows of the layer's gradient, or their rounding.
        entered: how the layer was used by these inputs.
        free: (k,) whether what a sample counts is tuned, too.
        sent: whether all of the gradient was sent, as one of the weights at the start, so that what is left of it tells.
    """
    flat, count = inputs.double().flatten(1), len(inputs)
    tail, slopes = tail_of(observation, entered.weight), random_slopes(observation, 1).expand(-1, count, -1)
    z = entered.output.reshape(count, -1)
    pulled = _pulled(observation, inputs, slopes) if tail is None else tail.pulled(z, slopes)
    if pulled is None:
        return torch.zeros_like(flat[:, 0])
    weight, update = dict(observation.model.named_parameters())[entered.weight].detach(), observation.update

    def turned(group: Tensor, ways: Tensor) -> tuple[Tensor, float]:
        given, named = inputs[group], labels[group]
        if tail is None:
            here, found, still = _by_steps(
                lambda moves: columns_of(observation, given + moves.reshape(given.shape), named), flat[group], ways
            )
        else:
            here, found, still = _turned(tail, z[group], named, multiply(weight, ways).T)
        size = here.square().sum(dim=1).clamp_min(torch.finfo(here.dtype).tiny)
        return ((columns.T[group] * here).sum(dim=1) / size)[:, None, None] * found.transpose(0, 1), still

    def rest(ways: Tensor) -> Tensor:
        return multiply(update[entered.weight], ways) - columns @ (flat @ ways.T)

    noise, sums = row_errors.maximum(row_errors.square().mean().sqrt()), None
    bias = next((call.bias for call in observation.layers if call.weight == entered.weight), None)
    if bias is not None and bias in update:
        sums = torch.finfo(observation.rounding).eps * columns.abs().sum(dim=1)
        sums = sums.maximum((update[bias].double() - columns.sum(dim=1)).abs() if sent else noise / flat.norm(dim=1).mean())
        sums = sums.maximum(sums.square().mean().sqrt()).clamp_min(torch.finfo(flat.dtype).tiny)

    def between(one: Tensor, other: Tensor) -> Tensor | None:
        if tail is None:
            return _pulled(observation, (inputs[one] + inputs[other]) / 2, slopes[:, : len(one)])
        return tail.pulled((z[one] + z[other]) / 2, slopes[:, : len(one)])

    known = Turning(flat, columns.T, turned, noise.clamp_min(torch.finfo(flat.dtype).tiny), sums, rest if sent else None, free)
    return _hidden_by_turning(known, _groups_of(pulled, labels, between))


def hidden_beside_others(
    observation: Observation,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    columns: Float[Tensor, "m k"],
    row_errors: Float[Tensor, " m"],
) -> Float[Tensor, " k"]:
    """The same of a batch that its statistics couple: a turn leaves mean and variance of a batch as they are, and can hide there, too.

    What moves one column may move all others, so all members that could be turned are, once around a random axis, and replayed.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        columns: (m, k) w d.
        row_errors: (m,) what the replay leaves of the rows of the layer's gradient, or their rounding.
    """
    flat, found = inputs.double().flatten(1), torch.zeros_like(columns[0])
    pulled = _pulled(observation, inputs, random_slopes(observation, 1).expand(-1, len(inputs), -1))
    here = columns_of(observation, inputs, labels)
    if pulled is None or here is None:
        return found
    count, gradient, length = columns.norm() / here.norm(), columns @ flat, flat.norm(dim=1)
    parts, noise = columns.norm(dim=0) @ length, float(row_errors.norm())
    for group in _groups_of(pulled, labels):
        for members in (group, *(group[labels[group] == label] for label in set(labels[group].tolist()))):
            moved = flat.index_copy(0, members, _turn(labels[members]) @ flat[members])
            move = (moved - flat).norm(dim=1)
            there = columns_of(observation, moved.reshape(inputs.shape), labels)
            if there is None or not bool(move.any()):
                continue
            left = (count * there.T @ moved - gradient).norm() / STEP
            free = SAFETY * noise / left if left > SEEN * parts else torch.inf
            found = found.maximum((free * move / STEP / length).nan_to_num(0.0, torch.inf))
    return found


def _turn(labels: Int64[Tensor, " q"]) -> Float[Tensor, "q q"]:
    """Turns members by a little around a random axis that leaves the mean of every label where it is; not at all where there is none."""
    marks = F.one_hot(labels).double()
    marks = marks[:, marks.any(dim=0)]
    basis = complement(marks.T)
    spin = torch.randn((basis.shape[1],) * 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(basis)
    return torch.linalg.matrix_exp(STEP * basis @ (spin - spin.T) @ basis.T)


def hidden_from_certificates(
    entrance: Entrance,
    coordinates: Float[Tensor, "k r"],
    labels: Int64[Tensor, " k"],
    misfit: Float[Tensor, " k"],
    weights: Float[Tensor, " k"],
    free: Bool[Tensor, " k"],
) -> Float[Tensor, " k"]:
    """See ``_hidden_by_turning``, of samples that met the conditions of members, each by itself.

    Args:
        entrance: the layer that sees them.
        coordinates: (k, r) in its row space.
        labels: (k,).
        misfit: (k,) relative violation of the conditions.
        weights: (k,) what each counts.
        free: (k,) whether that is tuned, too.
    """
    z, tail = entrance.at(coordinates), entrance.tail
    columns = tail(z, labels)[tail.start].columns
    if columns is None:
        return torch.full_like(misfit, torch.inf)
    columns = columns * weights[:, None]

    def turned(group: Tensor, ways: Tensor) -> tuple[Tensor, float]:
        _, found, still = _turned(tail, z[group], labels[group], ways @ entrance.weight_in_rows.T)
        return weights[group, None, None] * found.transpose(0, 1), still

    slopes = random_slopes(tail.observation, 1).expand(-1, len(z), -1)

    def between(one: Tensor, other: Tensor) -> Tensor:
        return tail.pulled((z[one] + z[other]) / 2, slopes[:, : len(one)])

    found = torch.zeros_like(misfit)
    for group in _groups_of(tail.pulled(z, slopes), labels, between):
        size = columns[group].norm(dim=1)
        # All of the group are moved; how far each went is asked by what is known of itself: a vague one does not make the others vague.
        digits = misfit[group].clamp_min(FINEST).log10().ceil()
        for alike in (digits == level for level in sorted(set(digits.tolist()))):
            off = (misfit[group] * size)[alike].max().clamp_min(torch.finfo(size.dtype).tiny)
            noise = (misfit[group] * size * coordinates[group].norm(dim=1))[alike].max().clamp_min(torch.finfo(size.dtype).tiny)
            sums = None if entrance.first.bias_gradient is None else off.expand(columns.shape[1])
            known = Turning(coordinates, columns, turned, noise.expand(columns.shape[1]), sums, None, free)
            found[group[alike]] = found[group[alike]].maximum(_hidden(known, group)[alike])
    return found


def _groups_of(
    pulled: Float[Tensor, "s k m"],
    labels: Int64[Tensor, " k"],
    between: Callable[[Int64[Tensor, " p"], Int64[Tensor, " p"]], Tensor | None] | None = None,
) -> Iterator[Int64[Tensor, " q"]]:
    """Samples whose columns turn alike, those of one label side by side, at most ``MOST`` at a time.

    Three of one label can be turned, and so can two of one with two of another: labels that are there once come last, so that such pairs
    are neighbors.

    Args:
        pulled: columns of the same slopes at every sample.
        labels: (k,).
        between: indices (p,) of samples and of others -> (s, p, m) the columns halfway between each two, where those are to be asked, too:
            of neighbors by label.
    """
    flat = pulled.transpose(0, 1).flatten(1).nan_to_num(0.0)
    every = normalize(flat, dim=1)
    near = torch.cdist(every, every) < REGION
    order = labels.argsort(stable=True)
    one, other = order[:-1], order[1:]
    if between is not None and len(one) and (halfway := between(one, other)) is not None:
        mean = (flat[one] + flat[other]) / 2
        straight = (halfway.transpose(0, 1).flatten(1).nan_to_num(0.0) - mean).norm(dim=1) < BENT * mean.norm(dim=1)
        near[one, other] |= straight
        near[other, one] |= straight
    left = set(range(len(every)))
    while left:
        found = {left.pop()}
        edge = set(found)
        while edge:
            edge = {j for i in edge for j in near[i].nonzero()[:, 0].tolist()} & left
            left -= edge
            found |= edge
        if len(found) > 1:
            members = torch.tensor(sorted(found), device=labels.device)
            named, there = labels[members], labels[members].bincount()
            members = members[(named + len(there) * (there[named] == 1)).argsort(stable=True)]
            for start in range(0, max(1, len(members) - MOST // 2), MOST // 2):
                yield members[start : start + MOST]


def _hidden_by_turning(known: Turning, groups: Iterator[Int64[Tensor, " q"]]) -> Float[Tensor, " k"]:
    """(k,) how far, relatively, each sample may be from a member's if those of its group are turned together; 0 where it has no group.

    Args:
        known: see ``Turning``.
        groups: see ``_groups_of``.
    """
    found = torch.zeros_like(known.inputs[:, 0])
    for group in groups:
        found[group] = found[group].maximum(_hidden(known, group))
    return found


def _hidden(known: Turning, group: Int64[Tensor, " q"]) -> Float[Tensor, " q"]:
    inputs, columns, count = known.inputs[group], known.columns[group], len(group)
    length, free = inputs.norm(dim=1), known.free[group]
    nothing = torch.full_like(length, torch.inf)
    if not bool((length > 0).all()):
        return nothing
    unit = inputs / length[:, None]
    _, sizes, basis = torch.linalg.svd(unit, full_matrices=False)
    ways = basis[sizes > SPANNED * sizes[0]].T
    own, span = ways.T @ unit.T, ways.shape[1]  # x_l = ‖x_l‖ ways own_l
    turned, still = known.turned(group, ways.T)
    turned = turned * length[:, None, None]
    every = torch.eye(span, dtype=turned.dtype, device=turned.device)
    # Rows (m, c) of the gradient along the ways, by what moves: sample l along way a; then what it counts.
    moved = length[:, None] * (torch.einsum("lam,cl->mcla", turned, own) + torch.einsum("lm,ca->mcla", columns, every))
    counted = length * torch.einsum("lm,cl->mcl", columns, own)
    noise = known.noise[:, None, None]
    made = [torch.cat([moved.flatten(2), counted[:, :, free]], dim=2).div(noise).flatten(0, 1)]
    if known.bias_noise is not None:
        made.append(torch.cat([turned.permute(2, 0, 1).flatten(1), columns.T[:, free]], dim=1) / known.bias_noise[:, None])
    system = torch.cat(made)
    if len(system) < system.shape[1] or not bool(system.isfinite().all()):
        return nothing
    scale = system.norm(dim=0).clamp_min(torch.finfo(system.dtype).tiny)
    left, values, right = torch.linalg.svd(system / scale, full_matrices=False)
    held = values > still * values[0]
    loose = right[~held] / scale
    spread = (right[held] / values[held, None] / scale)[:, : count * span]
    loose = (FREE * loose / loose.norm(dim=1, keepdim=True))[:, : count * span]
    hidden = _lengths(SAFETY * spread, count).square().sum(dim=0).sqrt() + _lengths(loose, count).square().sum(dim=0).sqrt()
    if known.rest is not None:
        seen = left[: len(made[0]), held].T @ (known.rest(ways.T) / known.noise[:, None]).flatten()
        hidden = hidden + _lengths((seen @ spread)[None], count)[0]
    return hidden


def _lengths(moves: Float[Tensor, "v p"], count: int) -> Float[Tensor, "v q"]:
    """By how much each sample moves."""
    return moves.reshape(len(moves), count, moves.shape[1] // count).norm(dim=2)


def _pulled(observation: Observation, inputs: Tensor, slopes: Tensor) -> Tensor | None:
    ran = run(observation.model, inputs)
    call = entrance_of(ran.linears, observation, len(inputs))
    if call is None:
        return None
    pulled = [pulled_back(ran.outputs, [call.output], slope.to(ran.outputs), again=True)[0] for slope in slopes]
    return torch.stack([torch.zeros_like(call.output) if found is None else found for found in pulled]).double()


def _turned(
    tail: Tail, z: Float[Tensor, "q m"], labels: Int64[Tensor, " q"], ways: Float[Tensor, "a m"]
) -> tuple[Float[Tensor, "q m"], Float[Tensor, "a q m"], float]:
    """Columns, how they turn as z moves along each way, and what of that is rounding: by steps where a part of the network cannot be
    differentiated twice.
    """
    try:
        return *tail.turned(z, labels, ways), STILL
    except (RuntimeError, NotImplementedError):
        return _by_steps(lambda moves: tail(z + moves, labels)[tail.start].columns, z, ways)


def _by_steps(
    columns: Callable[[Float[Tensor, "q n"]], Float[Tensor, "q m"] | None], given: Float[Tensor, "q n"], ways: Float[Tensor, "a n"]
) -> tuple[Float[Tensor, "q m"], Float[Tensor, "a q m"], float]:
    """The same by finite differences, of what moves may be added to; what is no more than their rounding is nothing."""
    here, step = columns(torch.zeros_like(given)), STEP * given.norm(dim=1, keepdim=True)
    if here is None:
        return given[:, :1], torch.full((len(ways), len(given), 1), torch.inf, dtype=given.dtype, device=given.device), STEPPED
    found = []
    for way in ways:
        there = columns(step * way / way.norm().clamp_min(torch.finfo(way.dtype).tiny))
        slope = torch.full_like(here, torch.inf) if there is None else (there - here) / step * way.norm()
        seen = slope.norm(dim=1) / way.norm() * step[:, 0] / STEP > SEEN * here.norm(dim=1)
        found.append(slope.where(seen[:, None], 0.0))
    return here, torch.stack(found), STEPPED
