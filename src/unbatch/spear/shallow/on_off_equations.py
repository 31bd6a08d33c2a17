"""Two equations a neuron: a dictionary search for the layer that the output layer reads.

For one sample each neuron obeys one of two linear equations in the unknowns t = (q, e): off, u_j = U_j · q = 0, or on,
v_j = w₂_j · e − U_j · q = 0, where U is a basis of the columns of ∂L/∂Z. Neurons that are on for every sample give v_j = 0 outright. So a
column is a t with u_j v_j = 0 for all j: twice the equations of a sparse direction, and up to half of the neurons may be on.

| here       | meaning                                                                                  |
|------------|------------------------------------------------------------------------------------------|
| t          | rows ``(k, d)``, one column of ∂L/∂Z and its e, up to scale                              |
| frame K    | (2m, d) orthonormal columns; ``t @ K.T`` is u beside v, each divided by the row's size   |
| goal       | direction in which a start is drawn                                                      |

A start takes three steps: the cone of all t whose u and v have the signs of w₂ · e for a guessed e, and in it an extreme ray (ADMM);
Douglas-Rachford between the range of K and {u_j v_j = 0}; the null vector of m chosen equations, undecided neurons weighted down.
Other notation: see ``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.linalg.complement import complement
from unbatch.spear.shallow.likely import guessed
from unbatch.spear.shallow.two_layer import Found, Residual, TwoLayer, zero_sum_basis

__all__ = [
    "BLUR",
    "FEW",
    "SHARP",
    "Frame",
    "cone_start",
    "distinct",
    "exact",
    "frame_of",
    "nearer_off",
    "oriented",
    "pair_map",
    "polish",
    "samples_of",
    "search_pairs",
    "unknowns_of",
]

FAINT = 0.03
"""A signal below this share of the largest has no sign. Chosen."""

SOFTNESS = 10.0
"""One over the ratio of its two equations at which a neuron counts half in a polish. Chosen."""

SHARP, BLUR = 1e-6, 10.0
"""Relative error with which a sample is read from its column: this, or so many times the noise. Chosen."""

CHUNK = 16
"""Systems that are polished at a time."""

ABOVE = 100.0
"""A direction of what is left belongs to samples when its singular value, each row divided by its noise, is above this. Chosen. Swept."""

VANISHING = 1e-9
"""Singular values up to this are zero: float64 leaves some 1e-15 of them. Chosen."""

OBEYING, LENGTH = 0.99, 1e-3
"""Share of the neurons that obey one of their equations where a column is exact, and the share of it outside of the t with q = 0 below
which it is one of these. Chosen."""

NEAR, MOST = 0.05, 0.5
"""A start is worth polishing where more than this share (the second) of the neurons obeys an equation up to the first. Chosen. Swept."""

FEW = 16
"""With so many samples left, or fewer, they are guessed in the small space that the known columns leave to them. Chosen: with 6
two of five searches of MNIST at b = 128 ended eight columns short."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The unknowns of one column, the equations of always-on neurons built in.

    Attributes:
        basis: (m, r) basis U of the columns that are sought, orthonormal when every row is divided by its noise.
        coordinates: (r, m) of a column in it.
        pairs: (2m, d) K.
        size: (2m,) by which its rows were divided.
        live: (m,) neurons that say something.
        mixing: (r, d) q = mixing @ t.
        classes: (C, d) e = classes @ t.
        idle: (d, d − r) orthonormal basis of the t with q = 0, which obey every pair and mean nothing.
        noise: relative error of the basis: the largest singular value that is left out, by the smallest that is kept.
    """

    basis: Float[Tensor, "m r"]
    coordinates: Float[Tensor, "r m"]
    pairs: Float[Tensor, "two_m d"]
    size: Float[Tensor, " two_m"]
    live: Bool[Tensor, " m"]
    mixing: Float[Tensor, "r d"]
    classes: Float[Tensor, "C d"]
    idle: Float[Tensor, "d i"]
    noise: float

    @property
    def sought(self) -> int:
        """How many columns there are."""
        return self.basis.shape[1]


def frame_of(problem: TwoLayer, rest: Residual, on: Bool[Tensor, " m"], above: float = ABOVE) -> Frame | None:
    """Set up the unknowns.

    Args:
        problem: the two layers.
        rest: what is left of their gradients.
        on: (m,) neurons that are on for every sample that is left.
        above: a direction is a sample's when it is this many times the noise of all rows; what is below cannot be seen.

    Returns:
        the frame of all that can be seen, or None where nothing can.
    """
    alive = rest.rows.norm(dim=1) > 0
    inverse = torch.where(alive, 1 / rest.noise, 0.0)
    basis, spectrum, _ = torch.linalg.svd(rest.rows * inverse[:, None], full_matrices=False)
    sought = int((spectrum > above).sum())
    if not sought:
        return None
    # In units of a typical row's noise the basis is about as large as the signals.
    unit = rest.noise[alive].median()
    coordinates = basis[:, :sought].T * inverse * unit
    basis = basis[:, :sought] * (rest.noise / unit)[:, None]
    noise = float(spectrum[sought] / spectrum[sought - 1]) if sought < len(spectrum) else 0.0
    zero_sum = zero_sum_basis(problem.outer)
    signal, change = torch.linalg.qr(problem.outer.T @ zero_sum)
    null = torch.eye(sought + zero_sum.shape[1], dtype=basis.dtype, device=basis.device)
    if bool(on.any()):
        _, values, right = torch.linalg.svd(torch.cat([basis[on], -signal[on]], dim=1), full_matrices=True)
        null = right[int((values > VANISHING).sum()) :].T
    u, s = basis @ null[:sought], signal @ null[sought:]
    rows = torch.cat([u, s - u])
    size = rows.norm(dim=1)
    live = (size > VANISHING * size.max()).view(2, -1).all(dim=0)
    pairs, triangle = torch.linalg.qr(torch.where(live.repeat(2)[:, None], rows / size.clamp_min(1e-30)[:, None], 0.0))
    white = torch.linalg.pinv(triangle)
    mixing = null[:sought] @ white
    classes = zero_sum @ torch.linalg.solve(change, null[sought:] @ white)
    idle = torch.linalg.svd(mixing, full_matrices=True)[2][sought:].T
    return Frame(basis, coordinates, pairs, size, live, mixing, classes, idle, noise)


def cone_start(
    pairs: Float[Tensor, "two_m d"],
    signs: Float[Tensor, "k two_m"],
    goals: Float[Tensor, "k d"],
    steps: int = 100,
    pull: float = 0.2,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "k d"]:
    """Towards max goal · t over the t whose equations have the given signs, their mean fixed, by ADMM.

    Extreme rays of that cone are single columns; what lies inside is a mixture.

    Args:
        pairs: (2m, d) orthonormal columns.
        signs: (k, 2m) of −1, 0, 1; 0 leaves an equation free.
        goals: (k, d).
        steps: iterations.
        pull: strength of the goal.
        clock: when to give up.
    """
    mean = F.normalize(signs @ pairs, dim=1)
    drift = pull * F.normalize(goals - mean * (mean * goals).sum(dim=1, keepdim=True), dim=1)
    t = mean
    inside, dual = t @ pairs.T, torch.zeros_like(signs)
    for _ in range(steps):
        clock.check()
        t = (inside - dual) @ pairs + drift
        t = t + mean * (1 - (mean * t).sum(dim=1, keepdim=True))
        target = t @ pairs.T + dual
        inside = torch.where(signs == 0, target, signs * (signs * target).relu())
        dual = target - inside
    return t


def pair_map(
    pairs: Float[Tensor, "two_m d"], t: Float[Tensor, "k d"], live: Bool[Tensor, " m"], steps: int = 100, clock: Clock = UNLIMITED
) -> Float[Tensor, "k d"]:
    """Douglas-Rachford between the range of ``pairs`` and the set where each neuron obeys one of its two equations."""
    obeyed = t @ pairs.T
    dual = torch.zeros_like(obeyed)
    for _ in range(steps):
        clock.check()
        t = F.normalize((obeyed - dual) @ pairs, dim=1)
        target = t @ pairs.T + dual
        off = nearer_off(target)
        obeyed = torch.where(torch.cat([off | ~live, ~off | ~live], dim=1), 0.0, target)
        dual = target - obeyed
    return t


def nearer_off(values: Float[Tensor, "k two_m"]) -> Bool[Tensor, "k m"]:
    """Which neurons come nearer to the equation of one that is off than to that of one that is on."""
    u, v = values.abs().chunk(2, dim=1)
    return u < v


def _ratio(values: Float[Tensor, "k two_m"], live: Bool[Tensor, " m"]) -> Float[Tensor, "k m"]:
    """min / max of |u_j| and |v_j|: zero for every neuron at a true column; 1 for neurons that say nothing."""
    u, v = values.abs().chunk(2, dim=1)
    return torch.where(live, torch.minimum(u, v) / torch.maximum(u, v).clamp_min(1e-30), 1.0)


def polish(frame: Frame, t: Float[Tensor, "k d"], steps: int = 1, clock: Clock = UNLIMITED) -> Float[Tensor, "k d"]:
    """Null vector of m equations, the nearer one of each pair, undecided neurons weighted down."""
    height = len(frame.live)
    unit = torch.arange(height, device=t.device)
    for _ in range(steps):
        polished = []
        for part in torch.split(t, CHUNK):
            clock.check()
            values = part @ frame.pairs.T
            weight = frame.live / (1 + (SOFTNESS * _ratio(values, frame.live)) ** 2)
            chosen = unit + height * (~nearer_off(values)).long()
            polished.append(_null_vectors(frame.pairs[chosen] * weight[..., None], part))
        t = torch.cat(polished) if polished else t
    return t


def _null_vectors(rows: Float[Tensor, "k m d"], start: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Inverse iteration on the Gram matrix, then corrections by the rows themselves, which do not square their condition."""
    gram = rows.mT @ rows
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram + 1e-14 * identity)
    t = start[..., None]
    for _ in range(3):
        t = F.normalize(torch.cholesky_solve(t, factor), dim=1)
    for _ in range(2):
        step = torch.cholesky_solve(rows.mT @ (rows @ t), factor)
        t = F.normalize(t - step + t * (t * step).sum(dim=1, keepdim=True), dim=1)
    return t[..., 0]


def exact(frame: Frame, t: Float[Tensor, "k d"], tolerance: float) -> Bool[Tensor, " k"]:
    """Whether all but 1 % of the neurons obey one of their equations to ``tolerance``, and q is not zero."""
    fits = (_ratio(t @ frame.pairs.T, frame.live)[:, frame.live] < tolerance).double().mean(dim=1)
    return (fits > OBEYING) & ((t - (t @ frame.idle) @ frame.idle.T).norm(dim=1) > LENGTH)


def search_pairs(
    problem: TwoLayer,
    rest: Residual,
    frame: Frame,
    generator: Generator,
    tolerance: float,
    more: Callable[[int], bool],
    starts: int = 128,
    patience: int = 12,
    clock: Clock = UNLIMITED,
    known: Float[Tensor, "f d"] | None = None,
    like: Float[Tensor, "s r"] | None = None,
) -> Float[Tensor, "k d"]:
    """Rounds of starts until all columns but one are known, ``patience`` rounds bring nothing, or ``more`` says stop.

    Args:
        problem: the two layers.
        rest: what is left of their gradients.
        frame: of ``rest``.
        generator: of the starts.
        tolerance: see ``exact``.
        more: told how many columns are known; whether to go on.
        starts: at most so many a round.
        patience: rounds without a new column.
        clock: what is known counts when it runs out.
        known: columns to begin with, which are given back first.
        like: (s, r) samples that are known: the last few are guessed to be like these.
    """
    found = frame.pairs.new_zeros((0, frame.pairs.shape[1])) if known is None else known
    like, idle = problem.seen[:0] if like is None else like, 0
    while len(found) < frame.sought - 1 and idle < patience and more(len(found)):
        count = min(starts, 48 + 2 * (frame.sought - len(found)))
        few = (idle > 0 or known is not None) and frame.sought - len(found) <= FEW
        try:
            new = _round(problem, rest, frame, found, count, generator, tolerance, clock, like, few=few)
        except OutOfTime:
            break
        idle = 0 if len(new) else idle + 1
        found = torch.cat([found, new])
    return found


def _round(
    problem: TwoLayer,
    rest: Residual,
    frame: Frame,
    found: Float[Tensor, "f d"],
    count: int,
    generator: Generator,
    tolerance: float,
    clock: Clock,
    like: Float[Tensor, "s r"],
    *,
    few: bool,
) -> Float[Tensor, "k d"]:
    """New exact columns, from starts whose goals lie away from what is known, or from guesses of the ``few`` samples that are left."""
    pairs = frame.pairs.float()
    if few:
        t = _completions(problem, rest, frame, found, 2 * count, generator, like).float()
    else:
        signal = _prototypes(rest, problem.batch, frame, found, count, generator) @ problem.outer
        signs = signal.sign() * (signal.abs() > FAINT * signal.abs().amax(dim=1, keepdim=True)) * frame.live
        goals = torch.randn((count, pairs.shape[1]), generator=generator, dtype=frame.pairs.dtype, device=frame.pairs.device)
        known = torch.linalg.qr(torch.cat([found.T, frame.idle], dim=1))[0]
        goals = goals - goals @ known @ known.T
        t = cone_start(pairs, signs.repeat(1, 2).float(), goals.float(), clock=clock)
    t = pair_map(pairs, t, frame.live, clock=clock).to(frame.pairs.dtype)
    near = (_ratio(t @ frame.pairs.T, frame.live)[:, frame.live] < NEAR).double().mean(dim=1) > MOST
    t = distinct(t[near], found)
    done = [t[:0]]
    for _ in range(3):
        t = polish(frame, t, clock=clock)
        right = exact(frame, t, tolerance)
        done.append(t[right])
        t = t[~right]
    return distinct(torch.cat(done), found)


def _completions(
    problem: TwoLayer, rest: Residual, frame: Frame, found: Float[Tensor, "f d"], count: int, generator: Generator, like: Tensor
) -> Float[Tensor, "k d"]:
    """Columns of guessed samples with random labels, where the samples are orthogonal to all known columns, as those that are left are."""
    left = complement(found @ frame.mixing.T)
    samples = guessed(
        left.T @ (frame.coordinates @ rest.rows), left.T @ (frame.coordinates @ rest.sums), problem.seen, like, count, generator
    )
    labels = torch.randint(len(problem.outer), (count,), generator=generator, device=left.device)
    guess = problem.columns(samples, labels)
    return unknowns_of(frame, guess.columns, guess.signals)


def unknowns_of(frame: Frame, columns: Float[Tensor, "k m"], signals: Float[Tensor, "k m"]) -> Float[Tensor, "k d"]:
    """t of columns d and their signals W₂ᵀ e, as near as the frame comes to them."""
    equations = torch.cat([columns, signals - columns], dim=1) / frame.size.clamp_min(1e-30)
    return F.normalize((equations * frame.live.repeat(2)) @ frame.pairs, dim=1)


def _prototypes(
    rest: Residual, batch: float, frame: Frame, found: Float[Tensor, "f d"], count: int, generator: Generator
) -> Float[Tensor, "k C"]:
    """Guesses of e up to scale: the mean softmax (from g₂), or the positive part of a known e, less a random label."""
    classes = len(rest.outer_sums)
    share = frame.sought / batch
    mean = (rest.outer_sums + share / classes).clamp_min(1e-3 * share)
    likely = (mean / mean.sum()).repeat(count, 1)
    if len(found):
        errors = oriented(found @ frame.classes.T)
        pick = torch.randint(len(found), (count,), generator=generator, device=found.device)
        known = F.normalize(errors[pick].clamp_min(0), p=1, dim=1)
        likely = torch.where((torch.arange(count, device=found.device) % 2 == 0)[:, None], likely, known)
    labels = torch.randint(classes, (count,), generator=generator, device=likely.device)
    return likely - F.one_hot(labels, classes).to(likely)


def distinct(t: Float[Tensor, "k d"], found: Float[Tensor, "f d"], apart: float = 0.05) -> Float[Tensor, "j d"]:
    """One a direction, up to sign, and none that is known."""
    together = torch.cat([found, t])
    cosine = (together @ together.T).abs().tril(-1)
    return t[(cosine < 1 - apart**2 / 2).all(dim=1)[len(found) :]]


def samples_of(problem: TwoLayer, rest: Residual, frame: Frame, t: Float[Tensor, "f d"]) -> Found:
    """All columns known, or all but one: their scale from ∂L/∂b₁, the samples from the inverse, the labels from e.

    A missing last sample is orthogonal to the columns of the others, which leaves its p no freedom; its label is tried.
    """
    mixing, sums = t @ frame.mixing.T, frame.coordinates @ rest.sums
    label = None
    if len(t) == frame.sought - 1:
        alone = complement(mixing)[:, 0]
        last = (alone / (alone @ sums) @ frame.coordinates @ rest.rows)[None]
        classes = torch.arange(len(problem.outer), device=t.device)
        columns = problem.columns(last.expand(len(classes), -1), classes).columns
        inside = columns @ frame.coordinates.T
        label = ((columns - inside @ frame.basis.T).norm(dim=1) / columns.norm(dim=1)).argmin()
        mixing = torch.cat([mixing, inside[label, None]])
    scale = torch.linalg.solve_ex(mixing.T, sums)[0]  # dependent columns give what no certificate lets pass
    # The label's entry is negative; where one other class takes all, both are as large, and only the scale tells which it is.
    labels = ((t @ frame.classes.T) * scale[: len(t), None].sign()).argmin(dim=1)
    labels = labels if label is None else torch.cat([labels, label[None]])
    samples = torch.linalg.solve_ex((mixing * scale[:, None]).T, frame.coordinates @ rest.rows)[0]
    return Found.read(samples, labels, max(SHARP, BLUR * frame.noise) * samples.norm(dim=1))


def oriented(errors: Float[Tensor, "k C"]) -> Float[Tensor, "k C"]:
    """Errors e with the sign at which the entry that is largest in size, the label's, is negative."""
    return -errors * errors.gather(1, errors.abs().argmax(dim=1, keepdim=True)).sign()
