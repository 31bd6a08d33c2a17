"""Anchored label restoration: unbatch's own. The mean feature read from the gradient, anchored where that says little on made-up inputs.

In the notation of ``last_layer``, and with ē the mean feature and ē_j that of class j:

    n = K (mean p − g) exactly, so that only the mean probability has to be found, which nearly is softmax(W ē + c);
    G_j = g_j ē − (n_j/K)(ē_j − ē) + a term of second order.

So ē is a weighted least-squares fit of G by g ēᵀ, with the weights 1/(n_j/K)²: the classes that are hardly there tell most, and what
the classes differ by is the noise. Where the batch is even, g is small and the fit says little; populations of made-up inputs then say what
scores the model gives to anything, and the spread between populations how far to believe that. Counts, weights and fit take turns.
The two variances give the error to expect of a count. Where that is no longer small, as in trained networks, the answer falls back on an
even batch, bent by the signs and sizes of the gradient. After local training mean p is the average along the way of the weights
(``_local_training``); a factor that the server does not know is the one that makes whole counts (``_scale``). Counts are determined where
they come out whole more closely than anything else would make them (``_whole``), for a batch size that was told or that the rank of a
gradient shows (``_batch_size``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.contracts import NEEDS_BATCH_SIZE, Estimate, LabelRestorer
from unbatch.errors import Inapplicable, Misuse
from unbatch.labels._batch_size import ANY_SIZE, check_told, shown, size_is_shown
from unbatch.labels._local_training import along, steps, told, unevenness, way_average
from unbatch.labels._prior import Anchors, anchors, fallback
from unbatch.labels._scale import UNKNOWN, factors_of, likeliest
from unbatch.labels._whole import expected_error
from unbatch.last_layer import LastLayer, last_layer, obstacle
from unbatch.linalg.simplex import onto_simplex
from unbatch.types import Observation

__all__ = ["Anchored"]

TIMES, OFF, OFF_STEPS = 5.0, 0.02, 0.2
"""Counts contradict what was told when they are off whole numbers by more than this many times the expected error, and more samples than
the second, or after local steps the third. Chosen. The first two swept."""

STEADY, PRESENT = 16.0, 1e-3
"""What made-up inputs count beside the fit, over C³: they decide where C is 2, and fade beyond. And the share of an even class from which
on one is there. Chosen. The first one swept."""

FLOOR = 0.05
"""Share of an even class that a class without samples is still taken to deviate by, in the weights of the fit. Chosen. Swept."""

SURE, LOST = 0.15, 0.35
"""Expected error of a count, as a share of K/C: below the first the fit alone is believed, above the second the fallback alone. Chosen.
Both swept."""

BEND = 2.0
"""How much further real inputs bend the softmax than made-up ones do. Chosen. Swept."""

DRIFT = 0.6
"""Error of the mean probability along a way, as a share of how far it went. Chosen. Swept."""

WHOLE = 0.1
"""Expected error of a count, in samples, below which counts that are not whole mean something. Chosen. Swept."""


READ = 0.02
"""Share of the mean scores that may come from made-up inputs where what is read narrows the range of a class. Measured: of 126 ranges
below it one missed the truth, of 245 above it 29 (885 settings of small batches, networks fresh and trained, inputs of all scales)."""

SATURATED = 0.9
"""Mean probability of a class from which on whole counts confirm nothing: they then come out whole whatever the labels are of samples that
the model is sure of, since these leave next to nothing. Chosen, as ``ilrg.OWN``."""

SURE_OF_ITSELF = (
    "the model is sure of one class, and samples of which it is sure and right leave next to nothing: other counts come out whole as well"
)


@dataclass(frozen=True, eq=False)
class Fit:
    """The mean probability and how well it is known.

    Attributes:
        shares: (C,) mean p − g, the share of every class.
        error: (C,) deviation to expect of a share.
        single: (C,) the same if the batch is one sample, or copies of it: it has no spread, and its features and softmax are exact.
        anchored: how much of the mean scores came from made-up inputs, 0 to 1.
        drift: deviation to expect of a share beyond these, because the weights moved.
    """

    shares: Float[Tensor, " c"]
    error: Float[Tensor, " c"]
    single: Float[Tensor, " c"]
    anchored: float
    drift: float = 0.0


BALANCE = 0.1
"""Share of its numbers by which the gradient of the last bias may fail to add up to nothing, as it does under any softmax. Chosen: where
rounding, pruning and noise leave counts determined, it fails by less."""

UNBALANCED = (
    "the gradient of the last bias does not add up to nothing, as under a softmax: its numbers were cut off or changed,"
    " or the loss is another"
)


@dataclass(frozen=True)
class Anchored(LabelRestorer):
    """Counts without any data: mean feature by weighted least squares, anchored on made-up inputs, whole numbers with the right sum.

    Attributes:
        populations: of made-up inputs.
        inputs: in each of them.
        rounds: of counts, weights and fit.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 5)).double()
        >>> secret, labels = torch.rand(8, 20, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 0, 1, 1, 4])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (20,), batch_size=8)
        >>> Anchored()(seen).counts.tolist()
        [5, 2, 0, 0, 1]
    """

    populations: int = 12
    inputs: int = 128
    rounds: int = 12

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.populations < 2 or min(self.inputs, self.rounds) < 1:
            raise Misuse("at least 2 populations of at least 1 input, and 1 round", self.spec, "raise the settings")

    def unsupported(self, observation: Observation) -> str | None:
        """No bias, or not the cross-entropy of a softmax."""
        return obstacle(observation, bias=True)

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        places = [(last_layer(seen), anchors(seen, self.populations, self.inputs, generator)) for seen in along(observation)]
        check_told(observation, places[0][0])
        factor = 1.0 if observation.factor_known else self._factor(observation, places)
        layer, made = _scaled(places[0][0], factor), self._read(observation, places, factor)
        total = observation.batch_size or shown(observation).samples
        error, deviation = made.single if total == 1 else made.error, _deviation(observation, layer, made, total)
        if factor != 1.0:  # samples that were clipped one by one count unevenly
            deviation = deviation.clamp_min(_off(total * made.shares) / total)
        if observation.batch_size is not None:
            _check_whole(observation, layer, total * made.shares, total * _rms(deviation))
        whole = expected_error(total * made.shares, total * deviation, total, int(factor != 1.0)) if total else None
        doubt = "" if size_is_shown(observation, total * made.shares) else ANY_SIZE
        doubt = SURE_OF_ITSELF if float((made.shares + layer.bias_gradient).max()) > SATURATED else doubt
        doubt = UNBALANCED if abs(float(layer.bias_gradient.sum())) > BALANCE * float(layer.bias_gradient.abs().sum()) else doubt
        determined = None if doubt else whole
        about = told(observation)
        # Of made-up inputs no error can be given: real ones may be a thousand times as large.
        ranges = layer.ranges(made.shares, deviation) if made.anchored < READ else layer.bounds
        stats = {"anchored": made.anchored, "noise": layer.noise} | ({"factor": factor} if factor != 1.0 else {}) | about.get("stats", {})
        if observation.batch_size is None and determined is None:
            reason = SURE_OF_ITSELF if whole is not None and doubt == SURE_OF_ITSELF else NEEDS_BATCH_SIZE
            return Estimate(presence=layer.there, reason=reason, stats=stats, ranges=ranges)
        # Noise and drift are left out of what is believed: they harm the fallback no less.
        believed = trust = 1.0
        counts = onto_simplex(total * made.shares, float(total))
        if whole is None:
            believed = _trust(_rms(error) * layer.classes)
            trust = min(believed, _trust(math.hypot(_rms(error), made.drift) * layer.classes))
        if believed < 1:
            counts = believed * counts + (1 - believed) * fallback(layer, total)
        return Estimate(
            counts,
            batch_size=total,
            reason="; ".join(filter(None, [about.get("reason", ""), doubt if whole is not None else ""])),
            stats=stats,
            expected_error=determined,
            deviation=total * _rms(deviation) if trust == 1 else None,
            ranges=ranges,
            trust=trust,
        )

    def _read(self, observation: Observation, places: Sequence[tuple[LastLayer, Anchors]], factor: float) -> Fit:
        """The fit at the broadcast weights, or the average along the way from these."""
        fits = [fit(_scaled(layer, factor), known_scores, self.rounds) for layer, known_scores in places]
        if len(fits) == 1:
            return fits[0]
        shift, middle = places[0][0].bias_gradient / factor, fits[len(fits) // 2]
        means = torch.stack([made.shares + shift for made in fits])
        drift = DRIFT * float((means[-1] - means[0]).square().mean().sqrt())
        return replace(middle, shares=way_average(means, shift, steps(observation)) - shift, drift=drift)

    def _factor(self, observation: Observation, places: Sequence[tuple[LastLayer, Anchors]], most: int = 40) -> float:
        """The unknown factor of the update, see ``_scale``: a fit for every number of samples that the rarest class may have."""
        total = observation.batch_size
        if total is None:
            raise Inapplicable(f"{UNKNOWN}, nor does it know the batch size")
        shift = places[0][0].bias_gradient
        start = torch.softmax(places[0][1].scores, dim=1).mean(dim=0)
        factors, off, errors = factors_of(start, shift, total)[:most].tolist(), [], []
        for samples, factor in enumerate(factors):
            for _ in range(2):
                made = self._read(observation, places, factor)
                mean = (made.shares + shift / factor).clamp_min(1e-9)
                found = factors_of(mean, shift, total)
                factor = float(found[min(samples, len(found) - 1)])  # noqa: PLW2901 -- by turns with the fit
            factors[samples] = factor
            counts = total * (mean - shift / factor)
            off.append(float((counts - counts.round()).square().mean().sqrt()))
            noise = _scaled(places[0][0], factor).noise
            errors.append(total * math.hypot(float(made.error.square().mean().sqrt()), made.drift, noise))
        measured = shift.new_tensor(off)
        return float(factors[likeliest(measured, errors[int(measured.argmin())], len(shift))])


def _deviation(observation: Observation, layer: LastLayer, made: Fit, total: int) -> Float[Tensor, " c"]:
    """(C,) to expect of a share: of the fit, by noise, by the way of the weights, and because samples count unevenly along it."""
    fitted = made.single if total == 1 else made.error
    uneven = unevenness(observation) ** 2 * made.shares.clamp(1 / max(total, 1), 1) / max(total, 1)
    return (fitted.square() + layer.noise**2 + made.drift**2 + uneven).sqrt()


def _check_whole(observation: Observation, layer: LastLayer, counts: Float[Tensor, " c"], error: float) -> None:
    off = _off(counts)
    if layer.noise == 0 and error < WHOLE and off > max(TIMES * error, OFF if observation.one_gradient else OFF_STEPS):
        raise Inapplicable(
            f"the counts of {observation.batch_size} samples come out {off:.2f} off whole numbers where {error:.3f} is expected: the labels"
            " are soft (smoothing, mixup), the loss weights its classes or is another one, the scale or the batch size is wrong"
        )


def _off(counts: Float[Tensor, " c"]) -> float:
    """How far counts are from whole numbers, root mean square."""
    return _rms(counts - counts.round())


def _rms(values: Float[Tensor, " c"]) -> float:
    return float(values.square().mean().sqrt())


def _trust(relative: float) -> float:
    """How far a fit with this error of a count, as a share of K/C, is to be believed."""
    return min(1.0, max(0.0, (LOST - relative) / (LOST - SURE)))


def _scaled(layer: LastLayer, factor: float) -> LastLayer:
    """The layer with its gradients divided by a factor."""
    return layer if factor == 1.0 else replace(layer, gradient=layer.gradient / factor, shift=layer.bias_gradient / factor)


def fit(layer: LastLayer, known_scores: Anchors, rounds: int) -> Fit:
    """The mean probability of the batch, by turns with the weights; see the module.

    Args:
        layer: the last layer.
        known_scores: of made-up inputs.
        rounds: of taking turns.
    """
    classes, shift = layer.classes, layer.bias_gradient
    weight, bias = layer.weight - layer.weight.mean(dim=0), layer.bias - layer.bias.mean()
    anchor = known_scores.scores.mean(dim=0)
    spread, typical = float(known_scores.scores.var(dim=0).mean()), max(known_scores.within, torch.finfo(shift.dtype).tiny)
    tiny, instead = torch.finfo(shift.dtype).tiny, STEADY / classes**3
    observed = layer.gradient @ weight.T
    sizes = observed.square().sum(dim=1)
    scores, precision = anchor, 0.0
    for _ in range(rounds):
        shares = onto_simplex(torch.softmax(scores, dim=0) - shift, 1.0)
        weights = 1 / (shares.square() + (FLOOR / classes) ** 2)
        strength = max(float(weights @ shift.square()), tiny)
        pulled, current = (weights * shift) @ observed, scores - bias
        # Σ weights (observed − shift currentᵀ)², multiplied out: no matrix is formed in a round.
        rest = weights @ sizes - 2 * pulled @ current + strength * current.square().sum()
        # What the classes differ by: C − 2 rows are free of the fit and of their sum; where these are few, made-up inputs stand in.
        variance = max((max(float(rest), 0.0) / classes + instead * typical) / (classes - 2 + instead), tiny)
        fitted = bias + pulled / strength
        precision = strength / variance
        known = precision * spread / (1 + precision * spread) if math.isfinite(precision * spread) else 1.0
        scores = known * fitted + (1 - known) * anchor
        scores = scores - scores.mean()
    mean = torch.softmax(scores, dim=0)
    uncertain = mean.square() * (1 - known) * spread * (1 - 1 / classes)
    structure = _mixture(observed, shift, scores, bias, onto_simplex(mean - shift, 1.0)) - mean
    single = uncertain + structure.square() + (layer.rounding * shift.abs().max()) ** 2
    error = single + (BEND * known_scores.curvature) ** 2
    return Fit(mean - shift, error.sqrt(), single.sqrt(), 1 - known)


def _mixture(observed: Tensor, shift: Tensor, scores: Tensor, bias: Tensor, shares: Tensor) -> Float[Tensor, " c"]:
    """The mean softmax if every class has the mean scores that G leaves for it; its distance from the softmax of the mean is an error."""
    there = shares > PRESENT / len(shares)
    own = (torch.outer(shift, scores - bias) - observed)[there] / shares[there][:, None]
    return (shares[there] / shares[there].sum()) @ torch.softmax(scores + own, dim=1)
