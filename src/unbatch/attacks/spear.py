"""SPEAR: exact inversion of whole batches from the gradient of a Linear + ReLU layer.

Dimitrov, Baader, Müller, Vechev, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS 2024. Labels, certificates,
the proof by replay and the search ``auto`` go beyond the paper.

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

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar, Literal

import torch
from torch import Generator

from unbatch.clock import Clock, OutOfTime
from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Inapplicable, Misuse
from unbatch.linalg.completion import Completion
from unbatch.linalg.lowrank import Factors
from unbatch.span.dependent import dependent_samples, some_by_least_squares
from unbatch.span.inversion import complete
from unbatch.spear.alone import SAME, merged, those_alone
from unbatch.spear.beyond_rank import Some, some_by_walks, with_others
from unbatch.spear.candidate import Attempt, read_out
from unbatch.spear.entrance import layer_to_invert
from unbatch.spear.evened import found_again, known_directions
from unbatch.spear.layer import CHANCE
from unbatch.spear.patterns import exact_by_patterns
from unbatch.spear.problem import Problem, factored, noiseless, pose, sources_of, too_few
from unbatch.spear.refinement import is_uneven, misfit, polished, refined
from unbatch.spear.sampling import expected_subsets
from unbatch.spear.search import MANY, NOISY, Search
from unbatch.spear.selection import Solution
from unbatch.spear.shallow.setting import invert_shallow
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Inverted, Observation, Progress

__all__ = ["Spear"]

SMALL = 40
"""Up to so many samples the ordinary search has its turn where the shallow one leaves some out."""

NOISE_FITS, DRIFT_FITS, ROUNDING_FITS = 0.98, 0.9, 0.99
"""Share of the zeros that the signs of W X + bias must fit: on average under noise; for every sample where weights moved, or where numbers
are rounded. Chosen between all of them, which a true sample fits but for noise, and the three quarters that a wrong one fits. Swept."""

JUDGED, A_NUMBER, A_TERM, A_FACTOR = 0.4, 4e-10, 1e-8, 5e-9
"""The judge of a large batch wants a part of the budget, this share at most: so many seconds for each number of each sample's derivatives,
rank³ x width of them, for each sample's share of each number of the gradient, and for width³ in factoring. Measured, on one core: 25 s for
390 of 400 samples of MNIST at width 1000, six layers; 9 to 16 s for 250 to 254 of 256 in two layers, Fashion-MNIST and CIFAR-10."""

SEARCH, LARGE = 0.5, 0.9
"""Share of the budget after which what is found so far is handed to ``span``, which needs no zeros for the samples that are missing; and of
so many samples that ``span`` proves one in seconds (``MANY``). Chosen. The first swept."""

HOPELESS = 0.05
"""Share of the budget for the sparse directions of inputs that depend on each other, where the layers behind do not tell them apart: only
samples that are in no dependence can be found. Chosen."""

TRIES, LEFT = 4, 1e4
"""Where strong samples leave a million times what weak ones do, a search that leaves more of the gradient than so many roundings is begun
again, so often in all, while there is time: the next goes another way. Chosen: of 40 batches of MNIST, after 20 epochs, nine left more."""

TRUSTED = 0.25
"""Share of a whole batch that does not fit, above which samples that are proved one by one are preferred to it. Chosen,
not swept."""


@dataclass(frozen=True)
class Spear(Attack):
    """Exact inversion of a batch from one Linear + ReLU layer.

    Attributes:
        search: how the sparse directions are found; ``sampling`` is the paper's.
        layer: name of the layer's weight; the first one that sees the raw input and can be inverted if None. Of a deeper layer the
            input features are recovered, certified by its weights and zeros.
        seconds: budget of all that it does, wall time.
        subsets: budget of sampling, subsets of rows.
        parallel: subsets evaluated at a time, at most.
        false_rejection: accepted probability that the zero threshold of sampling misses a true direction.
        precision: of the sampled null vectors; what is found is refined in float64 in any case.

    Example:
        >>> import torch, unbatch
        >>> net = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5)).double()
        >>> secret, labels = torch.rand(6, 30, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (30,))
        >>> found = Spear()(seen).or_raise()
        >>> bool((torch.cdist(secret, found.inputs).amin(dim=1) < 1e-9).all()), sorted(found.labels.tolist())
        (True, [0, 0, 1, 2, 3, 4])
    """

    needs: ClassVar[Needs] = Needs(entrance="Linear + ReLU")
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PROOF, Yield.FEATURES, Yield.COUNTS})
    cost: ClassVar[str] = "seconds up to its budget of 60; most of it where few neurons are off for each sample"
    rank: ClassVar[int] = 20

    search: Literal["auto", "sampling"] = "auto"
    layer: str | None = None
    seconds: float = 60.0
    subsets: int = 100_000_000
    parallel: int = 10_000
    false_rejection: float = 1e-5
    precision: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        Clock.of(self.seconds)
        if self.subsets < 1 or self.parallel < 1:
            raise Misuse("a positive budget", f"subsets={self.subsets}, parallel={self.parallel}", "raise it")
        if not 0 < self.false_rejection < 1:
            raise Misuse("a probability between 0 and 1", f"false_rejection={self.false_rejection}", "1e-5 is the usual choice")

    @property
    def needed(self) -> Needs:
        """A layer that is named need not be fed the raw input."""
        return self.needs if self.layer is None else replace(self.needs, entrance="")

    def unsupported(self, observation: Observation) -> str | None:
        """No Linear layer with a bias, followed by ReLU, sees the raw inputs."""
        found = layer_to_invert(observation, self.layer)
        return found if isinstance(found, str) else None

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """Factor, search, scale, label: see the module's notation."""
        found = layer_to_invert(observation, self.layer)
        if isinstance(found, str):
            raise Inapplicable(found)
        clock = Clock.of(self.seconds)
        try:
            made = self._inverted(observation, *found, generator, clock, progress)
        except OutOfTime:
            return Candidate(reason=f"{self.seconds:g} seconds were spent before the search could begin", exhausted=True)
        return replace(made, inverted=Inverted(found[0].weight, len(observation.update[found[0].weight])))

    def _inverted(
        self, observation: Observation, call: LinearCall, reader: LinearCall | None, generator: Generator, clock: Clock, progress: Progress
    ) -> Candidate:
        progress("factor", float("nan"))
        factors, completion = factored(observation, call, generator, clock)
        clock = _before_the_judge(clock, factors)
        shallow = self._of_two_layers(observation, call, reader, factors, completion, generator, clock, progress)
        if shallow is not None and _enough(shallow, factors, clock):
            return shallow
        again = partial(self._attempt, observation, generator=generator, clock=clock, progress=progress, helped=True)
        alike = observation.one_gradient and call.raw and completion is None and self.search == "auto"
        alone = cache(partial(those_alone, observation, call))
        uneven = observation.one_gradient and call.raw and is_uneven(factors)
        best, least, tries = Candidate(), math.inf, TRIES if uneven and self.search == "auto" and factors.rank <= SMALL else 1
        for turn in range(tries):
            before, made = clock.left, None
            if turn % 2:  # what is right of the best is taken out
                made = _completed(observation, best, call.weight, generator, clock, progress, certified=False)
            made = made or self._searched(observation, call, reader, factors, completion, shallow, generator, clock, progress)
            made = merged(made, alone(), observation.batch_size) if alike and not clock.over else made
            if alike and (whole := found_again(observation, call, made, again, generator, clock, progress, uneven=uneven)):
                return merged(whole, alone(), observation.batch_size, exact=SAME)
            taken_out = alike and not made.exhausted and made.samples is not None and len(made.samples) > factors.rank
            made = refined(observation, call, made) if uneven else polished(observation, call, made) if taken_out else made
            left = misfit(observation, call, made) if tries > 1 else 0.0
            if best.samples is None or left < least:
                best, least = made, left
            if least < LEFT * torch.finfo(observation.rounding).eps or clock.left < before - clock.left:
                break
        return best

    def _of_two_layers(
        self,
        observation: Observation,
        call: LinearCall,
        reader: LinearCall | None,
        factors: Factors,
        completion: Completion | None,
        generator: Generator,
        clock: Clock,
        progress: Progress,
    ) -> Candidate | None:
        """What both layers say together; None of other networks."""
        if self.search != "auto" or not observation.one_gradient or completion is not None:
            return None
        return invert_shallow(observation, call, reader, factors, generator, clock, progress)

    def _searched(
        self,
        observation: Observation,
        call: LinearCall,
        reader: LinearCall | None,
        factors: Factors,
        completion: Completion | None,
        shallow: Candidate | None,
        generator: Generator,
        clock: Clock,
        progress: Progress,
    ) -> Candidate:
        if shallow is not None and _enough(shallow, factors, clock):
            return shallow
        told = reader is not None and observation.one_gradient and completion is None
        samples = dependent_samples(observation, call, factors, generator, clock) if told else None
        if samples is not None and call.raw and self.search == "auto":
            found = self._dependent(observation, call, reader, factors, samples, generator, clock, progress)
            if found.inputs is not None:
                return found
        helped = self.search == "auto" and observation.one_gradient and shallow is None and completion is None and samples is None
        problems = pose(observation, call, reader, factors, completion, generator, clock, samples)
        share = LARGE if factors.rank > MANY else SEARCH
        part = clock.part(share) if helped else clock if samples is None else clock.part(HOPELESS)
        best = self._best(observation, problems, generator, part, progress, helped=helped)
        if best is None:
            raise Inapplicable(too_few(observation, call, factors))
        if not best.whole and shallow is not None:
            return shallow
        more = None
        if helped and _unfinished(best, factors.rank, clean=noiseless(factors)):
            made = read_out(observation, best, factors.rank, progress)
            certified = best.fits or not best.whole
            more = _completed(observation, made, call.weight, generator, clock, progress, certified=certified)
            more = more and exact_by_patterns(observation, best.problem, more, generator, clock, progress)
            if more is None and not clock.over:
                best = self._best(observation, problems, generator, clock, progress) or best
        if samples is not None and not best.whole:
            best = replace(best, reason=f"{samples} samples whose inputs depend on each other, being of rank {factors.rank}: {best.reason}")
        return more or read_out(observation, best, factors.rank, progress)

    def _dependent(
        self,
        observation: Observation,
        call: LinearCall,
        reader: LinearCall | None,
        factors: Factors,
        samples: int,
        generator: Generator,
        clock: Clock,
        progress: Progress,
    ) -> Candidate:
        """More samples than the rank: by walks until the others are independent; few of them else by least squares for each."""

        def others(rest: Observation) -> Candidate:
            posed = (rest, call, reader, *factored(rest, call, generator, clock))
            shallow = self._of_two_layers(*posed, generator, clock, progress)
            return self._searched(*posed, shallow, generator, clock, progress)

        some = Some.none(factors.right)
        if not observation.coupled:
            some = some_by_walks(observation, call, factors, samples, generator, clock, progress)
        if not len(some) and factors.rank <= MANY:
            some = some_by_least_squares(observation, call, factors, samples, generator, clock.part(1 - HOPELESS))
        return with_others(observation, some, samples, factors.rank, others)

    def _best(
        self,
        observation: Observation,
        problems: list[Problem],
        generator: Generator,
        clock: Clock,
        progress: Progress,
        *,
        helped: bool = False,
    ) -> Attempt | None:
        """What came nearest to the whole batch, problem by problem until one fits."""
        best: Attempt | None = None
        for turn, problem in enumerate(problems):
            part = clock.part(1 / (len(problems) - turn))
            attempt = self._attempt(observation, problem, generator=generator, clock=part, progress=progress, helped=helped)
            if best is None or (attempt.fits, attempt.samples) > (best.fits, best.samples):
                best = attempt
            if best.fits:
                break
        return best

    def _attempt(
        self,
        observation: Observation,
        problem: Problem,
        known: Candidate | None = None,
        *,
        generator: Generator,
        clock: Clock,
        progress: Progress,
        helped: bool,
    ) -> Attempt:
        """Search one problem, from what is known on."""
        search = Search(
            problem.layer,
            problem.following,
            generator,
            self.search == "sampling",
            self.subsets,
            self.parallel,
            self.false_rejection,
            torch.float32 if self.precision == "float32" else torch.float64,
            drifting=not observation.one_gradient or problem.columns is not None,
            helped=helped,
            sources=sources_of(observation, problem),
        )
        if known is not None and known.inputs is not None:
            search.add("known", *known_directions(observation, problem, known.inputs))
        solution = search.run(clock, progress)
        score = float(solution.agreement.mean()) if len(solution.agreement) else 0.0
        fits = _fits(search, solution)
        return Attempt(problem, solution, fits, _shortfall(search, solution.missing, score, fits), _stats(problem, search, score))


def _completed(
    observation: Observation, made: Candidate, weight: str, generator: Generator, clock: Clock, progress: Progress, *, certified: bool
) -> Candidate | None:
    """The samples that were found and those that ``span`` finds once these are taken out; None where it finds no more.

    Of a whole that does not fit, none is certified: what ``span`` keeps of it is.
    """
    if clock.over:
        return None
    try:
        more = complete(observation, made, generator, weight, clock, progress)
    except (Inapplicable, OutOfTime):
        return None
    known, found = (0 if c.samples is None else len(c.samples) for c in (made, more))
    better = found > known or (found == known and not more.exhausted) or (not certified and found > TRUSTED * known)
    return replace(more, stats={**made.stats, **more.stats, "found by zeros": known}) if better else None


def _enough(shallow: Candidate, factors: Factors, clock: Clock) -> bool:
    """Whether nothing is left to look for that two layers did not say."""
    return not shallow.exhausted or clock.over or (shallow.inputs is not None and factors.rank > SMALL)


def _unfinished(best: Attempt, rank: int, *, clean: bool) -> bool:
    """Whether samples are missing: of the batch, or of a rank that was cut where a few samples outweigh all others.

    Samples of which the network is nearly sure drown in the noise of the zeros, although the update as a whole has none.
    """
    if not best.whole:
        return True
    return not best.fits and (best.problem.layer.batch < rank or best.problem.layer.noise_level < NOISY or clean)


def _stats(problem: Problem, search: Search, score: float) -> dict[str, Any]:
    factors = problem.factors
    return {
        "layer": problem.call.weight,
        "width": len(factors.left),
        "alive": len(search.layer.left),
        "rank": factors.rank,
        "gap": factors.gap,
        "noise": search.layer.noise_level,
        "certificates": search.following is not None,
        "found by": {tool: count for tool, count in search.tools.items() if count},
        "subsets": search.drawn,
        "agreement": score,
    }


def _fits(search: Search, solution: Solution) -> bool:
    """Whether the signs of W X + bias fit the zeros: all of them, or nearly where rounding, noise or moving weights may contradict some.

    The mean tells where noise blurs all samples alike; otherwise every sample must fit by itself, which makes the signs, one a neuron,
    its certificate.
    """
    if solution.missing:
        return False
    if search.noisy:
        return float(solution.agreement.mean()) >= NOISE_FITS
    if search.exact and not search.drifting and search.layer.evened is None:  # the noise of rows of one length is not the same in all
        return float((1 - solution.agreement).mean()) <= CHANCE
    return float(solution.agreement.min()) >= (DRIFT_FITS if search.drifting else ROUNDING_FITS)


def _shortfall(search: Search, missing: int, agreement: float, fits: bool) -> str:
    """Why the search ended without an answer that fits, or nothing."""
    batch = search.layer.batch
    if missing:
        told = f"{search.found} of {batch} directions found, {batch - missing} of them certified"
        if search.only_sampling:
            told += f", after {search.drawn:,} subsets; {batch} samples take about {expected_subsets(batch):.0e}"
        return told
    if not fits:
        return f"the signs of W X + bias fit only {agreement:.1%} of the zeros found"
    if search.noisy:
        return f"the update carries noise, {search.layer.noise_level:.0e} of a column's largest entry, which bounds the accuracy"
    return ""


def _before_the_judge(clock: Clock, factors: Factors) -> Clock:
    """What the search may use: samples that are proved one by one take their time after it."""
    width = len(factors.left)
    wanted = A_NUMBER * width * factors.rank**3 + A_TERM * width * factors.right.numel() + A_FACTOR * width**3
    return clock.part(1 - min(JUDGED, wanted / max(clock.left, wanted, 1.0)))
