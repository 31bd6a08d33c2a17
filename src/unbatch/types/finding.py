"""A reconstruction held against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unbatch.schema import Schema
from unbatch.types.batch import Batch
from unbatch.types.counts import Counts
from unbatch.types.observation import Knowledge
from unbatch.types.reconstruction import Reconstruction, Status

__all__ = ["Finding"]


@dataclass(frozen=True, eq=False)
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
        exact: (b,) whether the true sample was recovered exactly.
        labels_right: (b,) whether its label was.
        counts: samples of each class, from the samples that the attack proved, the last layer, or both: ``restorer`` says which.
        environment: versions and machine.
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
    exact: tuple[bool, ...] = ()
    labels_right: tuple[bool, ...] = ()
    counts: Counts | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The one sentence that a reader takes away."""
        made = self.reconstruction
        count = 0 if made.inputs is None else len(made.inputs)
        head = {
            Status.RECONSTRUCTED: f"This update gives away its whole batch: all {count} samples were reconstructed and proved by replay.",
            Status.PARTIAL: f"This update gives away part of its batch: {count} samples were reconstructed, each with a certificate.",
            Status.APPROXIMATE: f"This update gives away an approximation of its batch ({count} samples); nothing was proved exact.",
            Status.INCONSISTENT: "No reconstruction was proved: what was found does not give the observed update.",
            Status.BUDGET_EXHAUSTED: "No reconstruction was proved within the budget; this does not show that the update is safe.",
            Status.FEATURES: "This update gives away what an inner layer sees of its batch; the samples themselves were not reconstructed.",
            Status.UNPROVEN: f"A batch of {count} samples was found, but it cannot be proved without labels.",
            Status.BROKE_DOWN: "The attack broke down; this says nothing of the update.",
            Status.NOT_APPLICABLE: "This attack does not apply to this update; this does not show that the update is safe.",
        }
        return head[made.status]
