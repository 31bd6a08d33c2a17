"""A reconstruction held against the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unbatch.schema import Schema
from unbatch.types.batch import Batch
from unbatch.types.counts import Counts
from unbatch.types.lookup import Lookup
from unbatch.types.observation import Knowledge
from unbatch.types.reconstruction import Reconstruction, Status

__all__ = ["Finding", "Measure"]

FAR = 20.0
"""Decibels below which a proved sample is not one of the truth's: then the truth is another batch, or was normalized in another way.
Derived: a proved sample is off by two hundredths at most, 34 dB of its own size; the rest is margin."""


BESIDE = "came out without proof; all together nearly give the update, so look at those too."


@dataclass(frozen=True)
class Measure:
    """How people call a metric, and what its values are in: ``Measure("PSNR", "dB")``."""

    title: str
    unit: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Finding:
    """A reconstruction held against the truth, where the truth is known.

    Attributes:
        reconstruction: what the attack made of the observation.
        knowledge: what the adversary was told.
        schema: how to read inputs.
        input_shape: the shape of one sample.
        seed: of the attack.
        seconds: wall time of the attack.
        truth: the client's batch, or None.
        order: (b,) for every true sample the index of the reconstruction matched to it, −1 where there is none.
        scores: metric name -> (b,) values, by true sample; NaN where undefined.
        notes: metric name -> why it is undefined.
        measures: metric name -> how a report calls it, in the order in which a report shows them.
        exact: (b,) whether the true sample was recovered exactly.
        labels_right: (b,) whether its label was.
        counts: samples of each class, from the samples that the attack proved, the last layer, or both: ``restorer`` says which.
        lookups: which tokens the batch held, an answer a table that the model looks its inputs up in.
        environment: versions and machine.
        upper_bounds: what makes the setting easier than a real client's, a reason each; none where it is realistic, None if nobody looked.
    """

    reconstruction: Reconstruction
    knowledge: Knowledge
    schema: Schema
    input_shape: tuple[int, ...]
    seed: int
    seconds: float
    truth: Batch | None = None
    order: tuple[int, ...] = ()
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    exact: tuple[bool, ...] = ()
    labels_right: tuple[bool, ...] = ()
    counts: Counts | None = None
    lookups: tuple[Lookup, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    upper_bounds: tuple[str, ...] | None = None

    @property
    def verdict(self) -> str:
        """The one sentence that a reader takes away. The truth, where it is known, has the first word.

        Example:
            >>> made = Reconstruction(Status.INCONSISTENT)
            >>> Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=0.25, exact=(True, True)).verdict
            'All 2 samples of this batch were recovered exactly, as the truth shows; the update alone does not prove it.'
        """
        said, told = self._of_samples(), self._of_tokens()
        return f"{told} {said}" if told and self.reconstruction.status.disclosed else told or said

    def _of_tokens(self) -> str:
        """What the lookups name, or nothing."""
        named = max((found for found in self.lookups if found.discloses), key=lambda found: found.proved, default=None)
        if named is None:
            return ""
        what = "names the tokens of its batch" if named.names else "shows what its batch looked up"
        return f"This update {what}: {named.proved:,} of the {named.rows:,} that there are, read off {named.table} and proved."

    def _of_samples(self) -> str:
        """What became of the samples."""
        made = self.reconstruction
        count = 0 if made.inputs is None else len(made.inputs)
        found = (
            f"A batch of {_samples(count)}"
            if made.features is None or count
            else f"What {made.layer} may have seen of {_samples(len(made.features))}"
        )
        least, each = "at least " * (made.missing is None), "each " if count > 1 else "and "
        may = " It may be the client's data all the same." if count or made.features is not None else ""
        beside = " by itself."
        if made.approximate is not None:
            beside += f" {_samples(len(made.approximate))} beside {'them' if count > 1 else 'it'} {BESIDE}"
        head = {
            Status.RECONSTRUCTED: f"This update gives away its whole batch: {_all_were(count)} reconstructed and proved by replay.",
            Status.PARTIAL: f"This update gives away {least}part of its batch: {_were(count)} reconstructed, {each}proved{beside}",
            Status.APPROXIMATE: f"This update gives away an approximation of its batch ({_samples(count)}); nothing was proved exact.",
            Status.INCONSISTENT: f"No reconstruction was proved: what was found does not give the observed update, as it was told.{may}",
            Status.BUDGET_EXHAUSTED: "No reconstruction was proved within the budget; this does not show that the update is safe.",
            Status.CONVERGED: "No reconstruction was proved: the search came to its own end with something that does not give the update.",
            Status.DIVERGED: "No reconstruction was proved: the search left all finite numbers. This says nothing of the update.",
            Status.FEATURES: "This update gives away what an inner layer sees of its batch; the samples themselves were not reconstructed.",
            Status.UNPROVEN: f"{found} was found, but the update neither proves nor refutes it.",
            Status.BROKE_DOWN: "The attack broke down; this says nothing of the update.",
            Status.NOT_APPLICABLE: "This attack does not apply to this update; this does not show that the update is safe.",
        }
        exact, true = sum(self.exact), len(self.exact)
        if exact and not made.status.disclosed:
            told = f"{exact} of the {true} samples of this batch {'was' if exact == 1 else 'were'}"
            if exact == true:
                told = f"All {true} samples of this batch were" if true > 1 else "The one sample of this batch was"
            return f"{told} recovered exactly, as the truth shows; the update alone does not prove it."
        if true and made.status.disclosed and exact < count:
            whole = made.status is Status.RECONSTRUCTED
            near = max((value for value in self.scores.get("psnr", ()) if not math.isnan(value)), default=math.inf)
            asked = ", and none near: is it this update's batch, as the network saw it?" if whole and near < FAR else "."
            return f"{head[made.status]} Held against the truth, {exact} of {true} came out exact{asked}"
        return head[made.status]

    def __repr__(self) -> str:
        """What it is, never a sample: a finding may be printed into a log."""
        return f"Finding({self.summary()})"

    def summary(self) -> str:
        """In one line: status, samples, what was exact, and the time. No number of any sample.

        Example:
            >>> made = Reconstruction(Status.NOT_APPLICABLE, reason="no ReLU", attack="spear")
            >>> Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=0.25)
            Finding(NOT_APPLICABLE by spear, 0 samples, 0.2 s)
        """
        made = self.reconstruction
        parts = [f"{made.status.name} by {made.attack}" if made.attack else made.status.name]
        parts.append(_samples(0 if made.inputs is None else len(made.inputs)))
        if self.exact:
            parts.append(f"{sum(self.exact)} of {len(self.exact)} exact")
        return ", ".join([*parts, f"{self.seconds:.1f} s"])

    def to_dict(self) -> dict[str, Any]:
        """All of it but the samples, in what JSON has; a score that is not finite is None.

        Example:
            >>> made = Reconstruction(Status.NOT_APPLICABLE, reason="no ReLU")
            >>> Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=0.25).to_dict()["reason"]
            'no ReLU'
        """
        made = self.reconstruction
        return {
            "status": made.status.name,
            "verdict": self.verdict,
            "reason": made.reason,
            "residual": made.residual,
            "attack": made.attack,
            "reconstructed": 0 if made.inputs is None else len(made.inputs),
            "seed": self.seed,
            "seconds": self.seconds,
            "knowledge": self.knowledge.sentences(),
            "schema": self.schema.to_dict(),
            "input_shape": list(self.input_shape),
            "order": list(self.order),
            "scores": {name: [value if math.isfinite(value) else None for value in values] for name, values in self.scores.items()},
            "notes": dict(self.notes),
            "exact": list(self.exact),
            "labels_right": list(self.labels_right),
            "counts": None if self.counts is None else self.counts.to_dict(),
            "environment": dict(self.environment),
        }


def _samples(count: int) -> str:
    return f"{count} sample" + "s" * (count != 1)


def _were(count: int) -> str:
    return f"{_samples(count)} {'was' if count == 1 else 'were'}"


def _all_were(count: int) -> str:
    return f"all {_were(count)}" if count > 1 else "its one sample was"
