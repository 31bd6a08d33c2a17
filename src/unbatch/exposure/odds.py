"""How likely it is that a batch of b samples is determined: zeros enough by counting, and independent enough by trying."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import gamma
from torch import Generator

from unbatch.exposure.columns import Columns, Trials, first_dependent, try_zeros
from unbatch.exposure.firing import Firing

__all__ = ["Odds", "odds_of"]

WORK = 2e10
"""Multiplications that all trials of a model's layers together may cost: some seconds on one core. Chosen."""

SOUGHT = 500
"""Samples that are sought at a time, for each sample of a batch: one loss among them is a fifth of the accepted failures. Chosen."""

REFINED = 3
"""Times that samples are sought near the limit as it stands. Chosen."""

CAUTION = 0.9
"""Confidence with which no more samples are lost than is reckoned with (Garwood's bound of a count). Chosen."""

EACH = 10
"""Times that one given input counts as sought, however often it was: it stays the same input. Chosen."""

CURVE = 200
"""Samples that are sought beside as many others as any can bear. Chosen."""

FEWEST = 4
"""Samples sought below which trials say nothing. Chosen."""

ORDERS = 2, 1000
"""Orders in which inputs are looked at for linear dependence, at least and at most. Chosen."""


@dataclass(frozen=True, eq=False)
class Odds:
    """What is known of a layer.

    Attributes:
        firing: which of the neurons that have a gradient fire.
        columns: of real inputs; None where only zeros are counted.
        trials: how many others each of some samples bears.
        dependent: (o,) the batch sizes at which what the layer is fed first depended linearly, sorted, in so many orders; past all sizes
            where it was not seen to.
    """

    firing: Firing
    columns: Columns | None = None
    trials: tuple[Trials, ...] = ()
    dependent: npt.NDArray[np.int64] | None = None

    @cached_property
    def untraced(self) -> float:
        """Share of samples that leave no trace, for the labels with which it is largest."""
        return 0.0 if self.columns is None else max(self.columns.untraced.values())

    def checks(self, batch: int) -> int:
        """How many samples were sought in batches at least this large."""
        return sum(len(each.zeros) for each in self.trials if each.most >= batch - 1)

    def lost(self, batch: int) -> float:
        """Share of samples that have zeros enough in a batch of this size, and are not given by them all the same.

        As many as nine in ten such counts stand for at most, where batches a tenth larger lose any: what is rare may have been missed.
        """
        if not (tried := self.checks(batch)):
            return 0.0
        within = [each for each in self.trials if each.most >= batch - 1]
        seen = sum(each.lost(batch - 1) for each in within)
        more = sum(each.lost(min(each.most, batch + batch // 10)) for each in within)
        given = None if self.columns is None else self.columns.most
        count = tried if given is None else min(tried, EACH * given)
        return min(1.0, float(gamma.ppf(CAUTION, seen * count / tried + 1)) / count) if more else 0.0

    def undetermined(self, batch: int) -> float:
        """Probability that a sample of a batch of this size is not given by its zeros."""
        return min(1.0, self.untraced + self.firing.undetermined(batch) + self.lost(batch))

    def flat(self, batch: int) -> float:
        """Probability that what the layer is fed of a batch of this size depends linearly."""
        return 0.0 if self.dependent is None else float(np.searchsorted(self.dependent, batch, side="right")) / len(self.dependent)

    def failure(self, batch: int) -> float:
        """Probability that any of the samples is not determined."""
        every = batch * math.log1p(-min(self.undetermined(batch), 1 - 1e-16))
        return 1 - math.exp(every) * (1 - self.flat(batch))

    def largest(self, failure: float, most: int) -> int:
        """The largest batch up to ``most`` before the first that fails with this probability or more; 0 where one sample does."""
        return next((batch - 1 for batch in range(1, most + 1) if self.failure(batch) >= failure), most)


def odds_of(firing: Firing, columns: Columns | None, most: int, failure: float, work: float = WORK) -> Odds:
    """Try samples and orders as far as the work allows, most of them near the batch size that fails with this probability.

    Args:
        firing: which neurons fire.
        columns: of real inputs, if there are any.
        most: the largest batch that matters.
        failure: the accepted probability.
        work: multiplications.
    """
    if columns is None:
        return Odds(firing)
    living = Firing(firing.on[:, columns.alive])
    odds, generator = Odds(living, columns), Generator().manual_seed(0)
    if not living.alive.shape[1] or most < 1:
        return odds
    limit = min(most, int(columns.traced.sum(dim=1).min())) - 1
    middle = int(living.zeros[len(living.zeros) // 2])
    odds = Odds(living, columns, dependent=_orders(columns, min(limit, middle) + 1, work / 8, generator))
    odds = _with_trials(odds, min(limit, int(living.zeros[-1])), CURVE, work / 4, generator)
    counted = living.largest(failure, limit + 1)
    odds = _with_trials(odds, min(limit, counted), SOUGHT * counted, work / 4, generator)
    for _ in range(REFINED):
        sure = odds.largest(failure, limit + 1)
        if odds.checks(sure + 1) < REFINED * SOUGHT * sure:
            odds = _with_trials(odds, min(limit, sure + max(1, sure // 10)), SOUGHT * sure, work / 6, generator)
    return odds


def _with_trials(odds: Odds, most: int, count: int, work: float, generator: Generator) -> Odds:
    """More trials, of fewer samples where that many would be too much work."""
    if odds.columns is None or most < 1:
        return odds
    each = 2.0 * most * most * max(most, float(odds.firing.zeros.mean())) + 5e4
    affordable = min(count, int(work / each))
    if affordable < FEWEST:
        return odds
    trials = try_zeros(odds.columns, most, affordable, generator)
    return Odds(odds.firing, odds.columns, (*odds.trials, trials), odds.dependent)


def _orders(columns: Columns, most: int, work: float, generator: Generator) -> npt.NDArray[np.int64] | None:
    """At which sizes inputs depend linearly."""
    if most < 1:
        return None
    least, many = ORDERS
    affordable = int(work / (2.0 * most * most * columns.seen.shape[1] + 1e5))
    found = first_dependent(columns, most, max(least, min(many, affordable)), generator)
    return np.sort(found.where(found <= most, torch.iinfo(torch.int64).max).numpy())
