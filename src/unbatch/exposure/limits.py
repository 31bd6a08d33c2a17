"""Up to which batch size a Linear + ReLU layer can be inverted: by algebra, by probability, and as far as our own search was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unbatch.exposure.columns import Columns
from unbatch.exposure.findings import Limits, Point
from unbatch.exposure.firing import Firing
from unbatch.exposure.odds import WORK, Odds, odds_of

__all__ = ["FAILURE", "PICTURES", "VECTORS", "limits", "searched"]

FAILURE = 0.01
"""Accepted probability that some sample of the batch is not determined by its zeros. Chosen."""

GIVEN = 5
"""Inputs that must be given for each sample of a batch: of 30, batches of 11 and 30 failed more often than they seemed to. Chosen."""

HALF = 0.5
"""Share of samples that are determined in a batch that a typical sample bears. Derived: the median."""

STEPS = 40
"""Batch sizes between 1 and the rank's limit at which the probabilities are given."""

PICTURES: dict[int, int] = {60: 20, 100: 36, 200: 90, 400: 180, 1000: 200}
"""Width -> largest batch of CIFAR-10 of which the default search of ``attacks.spear`` recovered at least 9 of 10 wholly in a minute: six
layers, untrained, half of the neurons off. From benchmarks/results/frontier.json and exposure.json. Not all larger batches of these
widths were tried ten times (at 1000 four of four of 400 were found): the search may reach further, and no promise is meant."""

VECTORS: dict[int, int] = {60: 22, 100: 28, 200: 80, 400: 100, 1000: 300}
"""The same for Gaussian inputs, which have nothing of pictures that the search could use, in three minutes at 1000; from the same files.
At 400 four of four of 130 were found, too."""


def limits(firing: Firing, inputs: int, *, columns: Columns | None = None, pictures: bool = False, work: float = WORK) -> Limits:
    """All limits of a layer.

    Args:
        firing: which neurons fire.
        inputs: n, numbers that it is fed.
        columns: what real inputs leave in its gradient; where none are known, zeros are only counted.
        pictures: whether it is fed pictures.
        work: multiplications that trials may cost.
    """
    rank = max(0, min(firing.alive.shape[1], inputs) - 1)
    odds = odds_of(firing, columns, rank, FAILURE, work)
    most = rank if columns is None or columns.most is None else min(rank, max(1, columns.most // GIVEN))
    typical = max((batch for batch in range(1, rank + 1) if odds.undetermined(batch) <= HALF), default=min(rank, 1))
    sure = odds.largest(FAILURE, most)
    reach, measured = searched(firing.neurons.switching, PICTURES if pictures else VECTORS)
    steps = {1 + round(i * (rank - 1) / STEPS) for i in range(STEPS + 1)}
    batches = sorted({max(1, batch) for batch in (*steps, 1, sure, rank, typical)})
    curve = tuple(Point(batch=b, all_determined=1 - odds.failure(b), share_determined=1 - odds.undetermined(b)) for b in batches)
    return Limits(
        rank=rank,
        information=typical,
        sure=sure,
        searched=min(sure, reach),
        extrapolated=not measured,
        rank_checks=odds.checks(sure),
        curve=curve,
        remark=_remark(odds, sure, most, rank),
    )


def _remark(odds: Odds, sure: int, most: int, rank: int) -> str:
    """Why no larger batch is sure, where it is not for lack of zeros; or that zeros were only counted."""
    if odds.columns is None or (sure > 1 and not odds.checks(sure)):
        return "zeros were only counted: to try them in batches would take too long"
    if sure == rank:
        return ""
    if sure == most:
        return f"larger batches are more than a fifth of the {odds.columns.most:,} inputs that were given"
    batch = sure + 1
    found = {
        "zeros": odds.firing.undetermined(batch) * batch,
        "untraced": odds.untraced * batch,
        "lost": odds.lost(batch) * batch,
        "flat": odds.flat(batch),
    }
    way, share = max(odds.columns.untraced.items(), key=lambda pair: pair[1])
    labeled = f" if they are labeled {way}" if share > 1.5 * min(odds.columns.untraced.values()) else ""
    return {
        "zeros": "",
        "untraced": f"{share:.1%} of the samples leave no trace in it{labeled}",
        "lost": "samples with zeros enough depend on each other there: the layers behind leave them too few directions",
        "flat": "what it is fed depends linearly in larger batches",
    }[max(found, key=lambda name: found[name])]


def searched(neurons: int, measured: Mapping[int, int] = PICTURES) -> tuple[int, bool]:
    """The batch size up to which our search is expected to work, and whether the width lies among those that were measured.

    A straight line between the measured points in logarithms of width and batch; below the smallest width in proportion to it, above the
    largest with the last slope, or with the same batch where one width alone was measured. Both ends are extrapolations.

    Example:
        >>> searched(200), searched(1000), searched(30), searched(1)
        ((90, True), (200, True), (10, False), (1, False))
    """
    widths = sorted(measured)
    low, high = widths[0], widths[-1]
    if neurons < low:
        return max(1, measured[low] * neurons // low), False
    if low == high:
        return measured[low], neurons == low
    after = max(1, next((i for i, width in enumerate(widths) if width >= neurons), len(widths) - 1))
    left, right = widths[after - 1], widths[after]
    slope = math.log(measured[right] / measured[left]) / math.log(right / left)
    return int(measured[left] * (neurons / left) ** slope + 1e-9), neurons <= high
