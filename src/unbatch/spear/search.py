"""The search for all sparse directions of a layer: cheap tools first, until every sign fits.

Each round guesses samples (by independent component analysis of the inputs, or blindly), finds the sparsest direction that goes with each
guess, and rounds it to an exact one. What is found makes the rest easier: guesses stay orthogonal to it, and a sample that is certified by
itself is taken out, which lowers the dimension (a cascade). Combinations of true columns give way to sparser ones (a matroid).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import ENDING, UNLIMITED, Clock, OutOfTime
from unbatch.linalg.complement import complement
from unbatch.spear.dictionary_learning import blind_directions, off_weights, promising, random_samples, sparse_directions
from unbatch.spear.duals import near_duals
from unbatch.spear.ica import guesses
from unbatch.spear.layer import CHANCE, Layer, deflate, unit
from unbatch.spear.led import NOTHING, Led, Sources
from unbatch.spear.next_layer import NextLayer, solve_samples
from unbatch.spear.rounding import SHARES, SHARES_IN_STEPS, null_of_masks, round_directions
from unbatch.spear.sampling import least_zeros, sampled_directions
from unbatch.spear.selection import Solution, agreement, best_matching, finished, independent, misfits, one_a_pattern, scaled

__all__ = ["AGREE", "MANY", "NOISY", "Search"]

CONTRASTS = (0.1, 0.3, 0.03)
"""Softness of the contrast in FastICA, in turn. Chosen. Swept."""

ROUNDED = 5e-11
"""Above this level taking a certified sample out blurs the zeros of the others: only after stalls, and at the end. Chosen. Swept."""

NOISY = 1e-5
"""Above this level of noise no sample is certified by itself: a wrong pattern can be as close. Chosen. Swept."""

DRIFTED, BLURRED = 50, 100
"""One of so many neurons may contradict a sample's signs where weights moved, and where there is noise. Chosen: a true sample contradicts
few; the first one swept."""

PATIENCE, WAITING = 8, 4
"""Rounds that a search that is whole but does not fit waits for something better; and, of sampling, as many more for each that it took."""

TOOLS = 4
"""Rounds after a stall in which every tool has its turn."""

SOME = 40
"""Up to so many samples, guesses of another contrast are tried before any are led, which takes longer. Chosen at m=200, b=20 to 75."""

MANY, SPARSE = 120, 0.13
"""Between so many samples and this share of the neurons blind starts have every other round. Chosen at m=1000, not swept."""

PATIENTLY, ROUGHLY = 100, 30
"""Steps of component analysis at most: of guesses taken as they are, and of those of many samples that are led. Chosen."""

WORK = 4e8
"""Multiplications of one round of sampling, so that the clock is asked in between. Chosen."""

LAST = 6
"""With so few directions missing, random samples are tried beside the guessed ones."""

SIGNS, SIGNS_ALONE, SIGNS_BLIND = 0.3, 0.7, 0.5
"""Share of the neurons that are off by a guessed sample's signs that must be zeros: where a certificate decides later; where nothing else
does; and of random samples, of which the signs are less certain. Chosen; the first one swept."""

AGREE, AGREE_IN_STEPS = 0.8, 0.6
"""Share of the zeros of a direction that must be off by its sample's signs: a true one has all, a wrong one half. Chosen. The first swept.
In many steps a neuron may be off whenever the sample takes part, and on at the end."""

SPARE = 4
"""Zeros beyond the number of samples b that a blind direction must have: one through any b − 1 rows has b − 1 by construction."""

SHARP, BLUR = 1e-6, 100
"""What rounding leaves of a zero in any case; and how many times the noise of the typical entry the worst has. Chosen. Both swept."""

NEARLY, TWICE = 0.2, 1e-2
"""Largest part of a direction beside all others that may be noise; and where rounded weights moved, as some have hardly more zeros than
they need, and are turned by far more than the typical entry. Chosen."""

LIKELY = 0.5
"""Weight from which a neuron is rather off than on for a sample: the middle. Derived."""

STALLED = 4
"""Rounds without a find, one of every tool, after which another method has its turn. Chosen. Swept."""

VERY_FEW, FEW = 9, 18
"""Up to so many samples, sampling subsets of rows is the first tool, or worth a round after a stall."""


@dataclass(eq=False)
class Search:
    """State of a search.

    Args:
        layer: the whole layer.
        following: the next layer, where there is one that certifies.
        generator: of all randomness.
        only_sampling: draw subsets of rows and do nothing else, as SPEAR was published.
        subsets: at most this many are drawn.
        parallel: at most this many at a time.
        false_rejection: accepted probability that a sampled true direction is missed.
        precision: of the sampled null vectors.
        drifting: whether the signs of W x + bias do not tell all: the weights moved while the update came about, or inputs are guessed.
        helped: whether another method goes on where this one stalls, so that it need not use up the budget.
        sources: of what leads guesses, the layers behind and the outputs.
        tools: how many directions each tool found.
        drawn: subsets of rows so far.
        refused: directions that failed their certificate so far.
    """

    layer: Layer
    following: NextLayer | None
    generator: Generator
    only_sampling: bool
    subsets: int
    parallel: int
    false_rejection: float
    precision: torch.dtype
    drifting: bool = False
    helped: bool = False
    sources: Sources = NOTHING
    tools: Counter[str] = field(default_factory=Counter)
    drawn: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self.clock = UNLIMITED
        whole = self.layer
        self.led = Led(whole, self.sources)
        # Neurons that noise alone, or weights that moved, may contradict; a wrong direction contradicts a quarter of them.
        part = CHANCE * whole.batch if self.exact else 1 / BLURRED
        self.allowed = len(whole.left) // DRIFTED if self.drifting else int(part * len(whole.left))
        if self.noisy or self.drifting:
            self.following = None
        self.rest, self.rows = whole, torch.ones_like(whole.bias, dtype=torch.bool)
        self.basis = torch.eye(whole.batch, dtype=whole.left.dtype, device=whole.left.device)
        nothing, no_rows = whole.left.new_zeros((0, whole.batch)), self.rows.new_zeros((0, len(self.rows)))
        self.samples, self.directions, self.off = nothing, nothing, no_rows
        self.open, self.open_off = nothing, no_rows
        self.pool, self.pool_off = nothing, no_rows

    @property
    def noisy(self) -> bool:
        """Whether the update's noise bounds what can be found."""
        return self.layer.noise_level > NOISY

    @property
    def exact(self) -> bool:
        """Whether the update is as good as free of noise."""
        return self.layer.noise_level < ROUNDED

    @property
    def _blurred(self) -> float:
        """What the noise may leave of a zero, relatively, and rounding in any case."""
        return max(SHARP, BLUR * self.layer.noise_level)

    @property
    def found(self) -> int:
        """Directions known, with and without a certificate of their own."""
        return len(self.directions) + len(self.open)

    def run(self, clock: Clock, progress: Callable[[str, float], None]) -> Solution:
        """Search until every sign fits, nothing better turns up, or the budget is spent.

        Args:
            clock: asked in every round and inside the long ones.
            progress: told how many directions are known.
        """
        self.clock = clock.part(1 - ENDING)
        try:
            self._search(progress)
        except OutOfTime:
            self.clock = clock
            with suppress(OutOfTime):
                self._certify()
        self.clock = clock
        return self._solution()

    def _search(self, progress: Callable[[str, float], None]) -> None:
        """Rounds, until there is nothing more to do.

        Raises:
            OutOfTime: in the middle of a round; what was found before it counts.
        """
        stalled, patience = 0, PATIENCE
        for turn in itertools.count():
            before = (self.found, int(self.open_off.sum()))
            self._round(turn, stalled)
            fits = len(self.open) == self.rest.batch and self._repair()
            if not fits and (self.exact or stalled > STALLED):
                self._certify()
            changed = (self.found, int(self.open_off.sum())) != before
            stalled = 0 if changed else stalled + 1
            if changed and self.only_sampling:
                patience = PATIENCE + WAITING * turn  # sampling finds rarely: wait in proportion to what the last success took
            told = f"{self.found} of {self.layer.batch} directions, {self.clock.taken:.1f} s"
            progress(told + (f", {self.drawn:,} subsets" if self.drawn else ""), self.found / self.layer.batch)
            ended = (self.found == self.layer.batch and stalled > patience) or (self.only_sampling and self.drawn >= self.subsets)
            fits &= not self.drifting or self.exact or stalled >= STALLED  # of rounded weights that moved signs tell little
            if fits or ended or len(self.directions) == self.layer.batch:
                break
            if self.helped and stalled >= STALLED:
                self._certify()
                break
            self.clock.check()

    def _round(self, turn: int, stalled: int) -> None:
        """One round of the tool whose turn it is: the guided one, after stalls the blind one, and for few samples the sampled one."""
        if self.rest.batch == 1:
            alone = torch.ones_like(self.rest.left[:1])
            self.add("last", alone, torch.zeros_like(self.rest.left[:, 0], dtype=torch.bool)[None])
        elif self.only_sampling or (self.rest.batch <= FEW and stalled % TOOLS == (0 if self.rest.batch <= VERY_FEW else 2)):
            self._sampled_round()
        elif stalled % TOOLS < TOOLS - 1 and not (turn % 2 and MANY < self.rest.batch <= SPARSE * len(self.rest.left)):
            self._guided_round(CONTRASTS[turn % len(CONTRASTS)], stalled)
        else:
            self._blind_round()

    def _sampled_round(self) -> None:
        """Subsets of rows, as many as it takes to hit a few times."""
        batch = self.rest.batch
        work = max(1, int(WORK) // batch**3)
        count = min(self.parallel, work, max(64, 2 ** min(batch + 2, 30)), max(0, self.subsets - self.drawn))
        if count:
            least = min(least_zeros(len(self.rest.left), batch, self.false_rejection), len(self.rest.left))
            hits = sampled_directions(self.rest, count, least, self.generator, self.precision)
            self.drawn += count
            if self.only_sampling:
                self._pool(*hits)
            else:
                self.add("sampling", *hits)

    def _pool(self, directions: Float[Tensor, "k b"], off: Bool[Tensor, "k m"]) -> None:
        """As published: every different hit stays a candidate, and the sparsity-matching score decides which are kept."""
        before = len(self.pool)
        self.pool, self.pool_off = one_a_pattern(torch.cat([self.pool, directions]), torch.cat([self.pool_off, off]))
        if len(self.pool) == before:
            return
        known = len(self.open)
        kept = best_matching(self.rest, self.pool, self.pool_off, self.clock)
        self.open, self.open_off = self.pool[kept], self.pool_off[kept]
        self.tools["sampling"] += max(0, len(self.open) - known)

    def _guided_round(self, contrast: float, stalled: int) -> None:
        """Guess inputs among what the known directions leave, then the direction of each, for both signs where the first fails.

        After a stall the guesses are loosened from the directions with the fewest zeros: a combination among them would keep
        both of its columns out of reach.
        """
        least = 2 if len(self.open) == self.rest.batch else 0  # all are there, and some of them are wrong
        loosened = max(least, min(2 * stalled, len(self.open)))
        left = complement(self.open[: max(0, len(self.open) - loosened)])
        led = self.following is not None and (self.rest.batch > MANY or stalled % TOOLS == (1 if self.rest.batch > SOME else 2))
        if led and self.led.by_outputs(self.clock):
            self.add("outputs", *self.led.outputs.find(self.rest, self.rows, self.samples, self.directions, self.generator, self.clock))
            return
        many = led and self.rest.batch > MANY
        views, steps = left.T @ self.rest.views, ROUGHLY if many else PATIENTLY
        asked = partial(guesses, views, self.generator, contrast, steps, rough=many, clock=self.clock)
        samples = self.led.some(self.rest, self.basis, lambda: asked() @ left.T) if many else asked() @ left.T
        if left.shape[1] <= LAST:
            samples = torch.cat([samples, random_samples(self.rest, left, self.generator)])
        samples = samples / (samples @ self.rest.sums)[:, None]
        if led and self.following is not None:
            behind = self.led.take_out(self.samples, self.directions, self.clock)
            self.add("next layer", *self.led.directions(self.rest, self.rows, self.following, behind, samples, self.clock))
            return
        margin, share = 0 if left.shape[1] == 1 else 2, SIGNS_ALONE if self.following is None and not self.drifting else SIGNS
        tried = self._from_samples("pictures", samples, margin, share)
        if bool(tried.any()):
            self._from_samples("pictures, other sign", -samples[tried], margin, share)
        if self.drifting and (stalled or 2 * len(self.open) < self.rest.batch):
            self._from_duals(contrast, loosened * (stalled % 2))  # every other time all that is known is trusted

    def _from_duals(self, contrast: float, loosened: int) -> None:
        """Directions near the inverse of all guesses, as long as each find leaves better guesses of the others."""
        whole, found = guesses(self.rest.views, self.generator, contrast, PATIENTLY, clock=self.clock), -1
        while found < len(self.open) < self.rest.batch:
            found = len(self.open)
            near = near_duals(self.rest, whole, self.open[: max(0, found - loosened)], contrast, self.generator, self.clock)
            self.add("subsets", near.exact, near.off)
            self._rounded("duals", near.rough, near.likely, 2, SIGNS, AGREE_IN_STEPS)

    def _blind_round(self, few: int = 4) -> None:
        """Many blind starts; when few directions are missing, random samples among what is left (W and the bias do the work)."""
        rest = self.rest
        directions = blind_directions(rest.left, self.generator, clock=self.clock)
        one = torch.ones((1, 1), device=directions.device)
        directions = sparse_directions(rest.left.float(), directions, one, steps=60, clock=self.clock)
        directions, off = round_directions(rest, directions[promising(rest.left, directions)], clock=self.clock)
        kept = off.sum(dim=1) >= rest.batch + SPARE
        self.add("blind", *one_a_pattern(directions[kept], off[kept]))
        if 0 < rest.batch - len(self.open) <= few:
            left = complement(self.open)
            samples = random_samples(rest, left, self.generator)
            self._from_samples("completion", samples / (samples @ rest.sums)[:, None], 0 if left.shape[1] == 1 else 2, SIGNS_BLIND)

    def _from_samples(
        self, tool: str, samples: Float[Tensor, "k b"], margin: int, share: float, agree: float = AGREE
    ) -> Bool[Tensor, " k"]:
        """Exact directions from approximate samples, added; returns which samples gave none."""
        weights = off_weights(self.rest, samples)
        rough = sparse_directions(self.rest.left.float(), samples.float(), weights.float(), clock=self.clock)
        return self._rounded(tool, rough, weights, margin, share, agree)

    def _rounded(
        self, tool: str, rough: Float[Tensor, "k b"], weights: Float[Tensor, "k m"], margin: int, share: float, agree: float = AGREE
    ) -> Bool[Tensor, " k"]:
        """Rough directions made exact and added, where their zeros fit the ``weights``; returns which are not."""
        rest = self.rest
        hopeful = promising(rest.left, rough).nonzero()[:, 0]
        directions, off = round_directions(rest, rough[hopeful], SHARES_IN_STEPS if self.drifting else SHARES, self.clock)
        zeros, weights = off.sum(dim=1), weights[hopeful]
        good = (zeros >= rest.batch + margin) & (zeros >= share * weights.sum(dim=1))
        good &= (off & (weights > LIKELY)).sum(dim=1) >= agree * zeros
        self.add(tool, directions[good], off[good])
        failed = torch.ones_like(rough[:, 0], dtype=torch.bool)
        failed[hopeful[good]] = False
        return failed

    def add(self, tool: str, directions: Float[Tensor, "k b"], off: Bool[Tensor, "k m"]) -> None:
        """Add exact directions of what is left, and keep the sparsest independent set."""
        known = len(self.open)
        directions, off = torch.cat([self.open, directions]), torch.cat([self.open_off, off])
        # Two finds of one column differ by the noise: they must not pass for two.
        kept = independent(directions, off, smallest=TWICE if self.drifting and not self.exact else min(NEARLY, self._blurred))
        self.open, self.open_off = directions[kept], off[kept]
        self.tools[tool] += max(0, len(self.open) - known)

    def _whole(self) -> tuple[Float[Tensor, "k b"], Bool[Tensor, "k m"]]:
        """The open directions and zero patterns in the whole layer's coordinates."""
        off = self.rows.new_ones((len(self.open), len(self.rows)))
        off[:, self.rows] = self.open_off
        return self.open @ self.basis.T, off

    def _certify(self) -> None:
        """Turn open directions into certified samples, take those out, and drop what clearly fails its certificate."""
        if self.following is None or self.only_sampling or self.rest.batch == 1 or not len(self.open):
            return
        tolerance = self._blurred
        directions, off = self._whole()
        samples, residual = solve_samples(self.layer, self.following, off, clock=self.clock)
        good = residual < tolerance
        undecided = ~good & (off.sum(dim=1) < self.layer.batch + SPARE + 1)
        self.refused += int((~good & ~undecided).sum())
        if not len(self.samples) and not bool(good.any()) and self.refused >= self.layer.batch:
            self.following = None  # it refuses everything: the next layer, or W, is not what it is said to be
            return
        to_one = directions[good] / (samples[good] * directions[good]).sum(dim=1, keepdim=True)
        self.samples, self.directions = torch.cat([self.samples, samples[good]]), torch.cat([self.directions, to_one])
        self.off = torch.cat([self.off, off[good]])
        self.open, self.open_off = self.open[undecided], self.open_off[undecided]
        if bool(good.any()) and len(self.directions) < self.layer.batch:
            self.rest, self.rows, self.basis = deflate(self.layer, self.samples, self.directions)
            self.open = unit(directions[undecided] @ torch.linalg.pinv(self.basis).T)
            self.open_off = self.rest.off(self.open)

    def _repair(self, rounds: int = 5) -> bool:
        """With all directions there, find each anew from its sample's signs; whether every sign fits in the end.

        Where a zero pattern disagrees with W x + bias its direction is a combination of two columns, and the sample is right.
        """
        rest = self.rest
        for _ in range(rounds):
            if len(self.open) < rest.batch:  # a repaired direction depended on the others
                return False
            directions, samples = scaled(rest, self.open)
            if samples is None:
                return False
            if int(misfits(rest, samples, directions).sum(dim=1).max()) <= self.allowed:
                return True
            if self.only_sampling:
                return False
            before = int(self.open_off.sum())
            directions = null_of_masks(rest.left, rest.extremes(samples)[1] <= 0, clock=self.clock)
            self.add("repair", directions, rest.off(directions))
            if int(self.open_off.sum()) <= before:
                return False
        return False

    def _solution(self) -> Solution:
        """Samples and directions on the whole layer. With samples missing, only certified ones are given."""
        layer = self.layer
        directions, off = self._whole()
        certified = Solution(
            self.samples, self.directions, agreement(layer, self.samples, self.directions), layer.batch - len(self.samples)
        )
        if self.found < layer.batch:
            return certified
        whole = torch.cat([self.directions, directions]), torch.cat([self.off, off])
        return finished(layer, *whole, self._blurred, self.clock, tangled=self.drifting) or certified
