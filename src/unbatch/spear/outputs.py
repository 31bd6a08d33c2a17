"""Samples found from the outputs' side: at the last hidden layer a column is known but for which neurons are on.

Where a network is not trained its scores hardly differ from sample to sample, so that ∂ℓ/∂scores is nearly the same for all samples of a
label: the mean softmax less the label. What it leaves in front of the last layer, v, is then known, and a sample's column there is v where
its neurons are on and zero elsewhere. It lies in a space of b dimensions, and only which neurons are on is open: walks between the
two find it where the rays of ``reflections``, which leave every neuron's number open, do not.

What is found there is brought to the searched layer in three steps: the neurons that are on, known without an error, lead a walk
between the two last spaces; least squares make it exact (``descent``); and layer by layer downward, a sample's activations where it is on
are its pre-activations, m/2 equations for b numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.errors import Inapplicable
from unbatch.last_layer import last_layer
from unbatch.spear.behind import DEEP, Behind, Left, Link, Stage
from unbatch.spear.descent import descend
from unbatch.spear.layer import Layer
from unbatch.spear.reflections import reflected
from unbatch.spear.rounding import fitted, null_of_masks
from unbatch.types import Observation

__all__ = ["Known", "Outputs", "known_slopes", "nothing_known"]

ALIKE = 0.1
"""How far ∂ℓ/∂scores may be from its mean, as a share, to be called known. Chosen: through six layers that are not trained it is .001."""

STEPS, RELAX = 300, 0.5
"""Steps of a walk, and the share of a full one that each is. Measured on Gaussian vectors at m=1000, b=300: of 200 walks 17 had nine tenths
of the neurons right after 100 steps, 49 after 200, 106 after 400."""

NEAR = 0.1
"""What a walk's end may leave, as a share, to be looked at. Measured as above: ends beyond .13 were of no sample."""

HALF = 0.5
"""An entry nearer to v than to zero is of a neuron that is on. Derived."""

CLEAR, LARGE = 0.4, 0.15
"""Entries below this share of v are taken for zeros, where v is at least this share of its median. Chosen: what is unclear is left out."""

ROUNDS = 2
"""How often the zeros are read again from the direction that they gave. Chosen."""

EXACT = 1e-6
"""An entry below this share of its row's length is zero. Chosen: rounding leaves 1e-12."""

BEYOND = 4
"""Zeros beyond as many as there are dimensions that a direction must have. Chosen."""

SIGNED = 100
"""Steps of the walk that is led by the neurons that are on. Measured as above: with one layer before it 11 of 28 came to a sample, with two
28, after 100 steps as after 400."""

PAYING, FIRST = 0.02, 96
"""Share of its walks that must find a sample for the next round to start here (of the first of 300 samples a tenth did); and so many walks
at most in the first round, a trial. Chosen."""

FITS = 1e-5
"""Share of its activations that a sample may leave unexplained in the layer below. Chosen: rounding leaves 1e-9."""


@dataclass(frozen=True, eq=False)
class Known:
    """What the outputs tell.

    Attributes:
        stages: of all layers behind, the last one being the last hidden layer.
        slopes: (c, m) v of every label that may be there.
    """

    stages: Sequence[Stage]
    slopes: Float[Tensor, "c m"]


def nothing_known(_: Clock) -> Known | None:
    """Of no network."""
    return None


def known_slopes(observation: Observation, weight: str, batch: int) -> Float[Tensor, "c m"] | None:
    """v of every label that the batch may have.

    Args:
        observation: what the server saw.
        weight: name of the weight of the layer that makes the scores.
        batch: number of samples.

    Returns:
        None where the scores tell samples apart, or are not those of that layer under cross-entropy.
    """
    try:
        last = last_layer(observation)
    except Inapplicable:
        return None
    if not torch.equal(last.weight, dict(observation.model.named_parameters())[weight].detach().double()):
        return None
    likely = torch.softmax(last.features @ last.weight.T + last.bias, dim=1)
    mean = likely.mean(dim=0)
    slopes = mean - torch.eye(last.classes, dtype=mean.dtype, device=mean.device)
    if float((likely - mean).norm(dim=1).max()) > ALIKE * float(slopes.norm(dim=1).min()):
        return None
    there = torch.ones_like(mean, dtype=torch.bool) if last.shift is None else batch * (mean - last.shift) > HALF
    return slopes[there] @ last.weight if bool(there.any()) else None


class Outputs:
    """The search from the outputs' side.

    Args:
        whole: the layer with all its samples.
        known: what the outputs tell; asked once, as late as it is needed.
    """

    def __init__(self, whole: Layer, known: Callable[[Clock], Known | None]) -> None:
        self.whole, self.ask = whole, known
        self.told: tuple[Behind, Tensor] | None = None
        self.pays, self.most = True, FIRST

    def lead(self, clock: Clock) -> bool:
        """Whether the outputs tell anything, and led to enough when they were asked last."""
        if self.pays and self.told is None:
            known = self.ask(clock)
            self.told = None if known is None else (Behind(known.stages), known.slopes)
            self.pays = self.told is not None
        return self.pays

    def find(
        self,
        rest: Layer,
        rows: Bool[Tensor, " m"],
        samples: Float[Tensor, "k b"],
        directions: Float[Tensor, "k b"],
        generator: Generator,
        clock: Clock,
    ) -> tuple[Float[Tensor, "j r"], Bool[Tensor, "j left"]]:
        """Exact directions of what is left, and which of the neurons that are left are off.

        Args:
            rest: the layer, without what is certified.
            rows: its neurons among those of the whole.
            samples: (k, b) certified, of the whole layer; those that were there before come first.
            directions: (k, b) theirs.
            generator: of the starts.
            clock: when to give up.
        """
        if self.told is None:
            return rest.left.new_zeros((0, rest.batch)), rows.new_zeros((0, len(rest.left)))
        behind, slopes = self.told
        behind.take_out_certified(self.whole, samples, directions, clock)
        walks = min(self.most, rest.batch)
        on = _neurons_on(behind.columns(), slopes, walks, generator, clock)
        found = _brought_down(rest, behind.left(rows), on, clock)
        null = null_of_masks(rest.left, rest.pre_activations(found) <= 0, clock=clock)
        off = rest.off(null)
        kept = off.sum(dim=1) >= rest.batch + BEYOND
        self.pays, self.most = int(kept.sum()) >= PAYING * walks, self.whole.batch
        return null[kept], off[kept]


def _neurons_on(
    columns: Float[Tensor, "m r"], slopes: Float[Tensor, "c m"], count: int, generator: Generator, clock: Clock
) -> Bool[Tensor, "k m"]:
    """Which neurons of the last hidden layer are on, of the samples that walks from random starts end at."""
    space = torch.linalg.qr(columns)[0]
    wanted = slopes[torch.arange(max(count, len(slopes)), device=slopes.device) % len(slopes)]
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    start = torch.randn((len(wanted), space.shape[1]), generator=generator, device=space.device, dtype=torch.float32)
    inside, left = _walked(space.float(), wanted.float(), start, clock)
    near = left < NEAR
    return _exact(space, wanted[near], inside[near].to(space.dtype), clock)


def _walked(
    space: Float[Tensor, "m r"], wanted: Float[Tensor, "k m"], start: Float[Tensor, "k r"], clock: Clock
) -> tuple[Float[Tensor, "k r"], Float[Tensor, " k"]]:
    """Where every walk was nearest to a column, and the share that it left there."""
    turned, size = space.T.contiguous(), HALF**0.5
    state = size * torch.nn.functional.normalize(start @ turned, dim=1)
    left, best = torch.full_like(start[:, 0], torch.inf), start
    half = HALF * wanted.square()
    for _ in range(STEPS):
        clock.check()
        inside = torch.nn.functional.normalize(state @ space, dim=1) * size
        linear = inside @ turned
        other = 2 * linear - state
        apart = wanted * (other * wanted > half) - linear
        share = apart.norm(dim=1) / size
        best, left = torch.where((share < left)[:, None], inside, best), torch.minimum(share, left)
        state = state + RELAX * apart
    return best, left


def _exact(space: Float[Tensor, "m r"], wanted: Float[Tensor, "k m"], inside: Float[Tensor, "k r"], clock: Clock) -> Bool[Tensor, "j m"]:
    """The neurons that are on, of the ends that are columns."""
    length = space.norm(dim=1)
    large = wanted.abs() > LARGE * wanted.abs().median(dim=1, keepdim=True).values
    for _ in range(ROUNDS):
        columns = inside @ space.T
        columns = columns * ((columns * wanted).sum(dim=1) / columns.square().sum(dim=1))[:, None]
        off = (columns.abs() < CLEAR * wanted.abs()) & large
        inside = null_of_masks(space, off, clock=clock)
    off = (inside @ space.T).abs() < EXACT * length.clamp_min(EXACT * length.max())  # rows of rounding alone are zero
    kept = (off & large).sum(dim=1) >= space.shape[1] + BEYOND
    return torch.unique(~off[kept], dim=0)


def _brought_down(rest: Layer, behind: Sequence[Left], on: Bool[Tensor, "k m"], clock: Clock) -> Float[Tensor, "j b"]:
    """The samples of which it is known which neurons are on in the last hidden layer, in the searched one."""
    if not len(on):
        return rest.left.new_zeros((0, rest.batch))
    layers = [rest, *(_as_layer(left) for left in behind)]
    signs = on.to(rest.left.dtype) * 2 - 1
    guess = torch.linalg.lstsq(layers[-1].made, signs.T).solution.T
    deep = min(DEEP, len(behind))
    for above, below in zip(behind[: -deep - 1 : -1], layers[-2 : -deep - 2 : -1], strict=True):
        guess = torch.linalg.lstsq(below.made, above.fed @ guess.T).solution.T
    start = layers[-deep - 1]
    links = [Link(left.fed, left.made) for left in behind[-deep:]]
    guess = reflected(start, links, guess, clock, SIGNED, signs)
    points = descend(start, behind[-deep].fed, guess / (guess @ start.sums)[:, None], clock)
    for above, below in zip(behind[-deep - 1 :: -1], layers[-deep - 2 :: -1], strict=True):
        h = points @ above.fed.T
        active = h > FITS * h.amax(dim=1, keepdim=True)
        points = fitted(below.made, active, h, clock)
        left = ((points @ below.made.T - h) * active).norm(dim=1) / h.norm(dim=1)
        points = points[left < FITS]
    return points / (points @ rest.sums)[:, None]


def _as_layer(left: Left) -> Layer:
    """What a layer behind makes, in the form of a layer whose bias is already in what is made."""
    nothing = left.made.new_zeros(len(left.made))
    empty = left.made.new_zeros((left.made.shape[1], 0))
    return Layer(left.made, left.made, nothing, left.sums, empty, nothing + 1, empty.T, EXACT)
