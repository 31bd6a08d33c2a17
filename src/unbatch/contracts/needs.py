"""What an attack cannot do without, and what it can end with: declared once, read by the program, the base class and the tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from unbatch.schema import Kind
from unbatch.types import Observation

__all__ = ["Needs", "Yield"]


class Yield(Enum):
    """What an attack can end with, if all goes well."""

    PROOF = "samples that the update itself proves"
    PICTURE = "samples that come near, not exact"
    FEATURES = "what an inner layer sees of the samples"
    COUNTS = "the label of every sample"
    ROWS = "rows of a table, cell by cell"


@dataclass(frozen=True)
class Needs:
    """What an attack cannot do without. All that is declared here is checked before the attack is asked.

    Attributes:
        entrance: the layer that must be fed the raw input, or empty where none must.
        kinds: of samples that it is made for; empty for all.
        samples: the largest batch that it can take, or None.
        batch_size: that the server knows the number of samples.
        labels: that the server was told the labels.
        one_gradient: an update that is a gradient at the broadcast weights, not a sum over weights that moved.
        scale: that no unknown factor is on the update.
        second_order: that the model's gradient can be differentiated once more.
        uncoupled: that every sample has a gradient of its own: no statistics of the batch.
        auxiliary: which data like the client's it has to be given, in words; every report says that the adversary had it.

    Example:
        >>> Needs(entrance="Linear", samples=1).words
        ('a Linear layer fed the raw input', 'a batch of 1')
    """

    entrance: Literal["", "Linear", "Linear + ReLU"] = ""
    kinds: frozenset[Kind] = field(default_factory=frozenset)
    samples: int | None = None
    batch_size: bool = False
    labels: bool = False
    one_gradient: bool = False
    scale: bool = False
    second_order: bool = False
    uncoupled: bool = False
    auxiliary: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """For people, one need each."""
        said = {
            f"a {self.entrance} layer fed the raw input": bool(self.entrance),
            f"samples of kind {' or '.join(sorted(self.kinds))}": bool(self.kinds),
            f"a batch of {'1' if self.samples == 1 else f'at most {self.samples}'}": self.samples is not None,
            "the batch size": self.batch_size,
            "the labels": self.labels,
            "a gradient at the broadcast weights": self.one_gradient,
            "the scale of the update": self.scale,
            "a twice differentiable model": self.second_order,
            "no statistics of the batch": self.uncoupled,
            self.auxiliary: bool(self.auxiliary),
        }
        return tuple(words for words, needed in said.items() if needed)

    def unmet(self, observation: Observation, settings: Collection[str] = ()) -> str | None:
        """The first need that an observation does not meet, as the reason why, or None. Statistics of the batch are not looked for here.

        Args:
            observation: what the server saw.
            settings: names of the attack's own, for advice.
        """
        return next(self._unmet(observation, settings), None)

    def _unmet(self, observation: Observation, settings: Collection[str]) -> Iterator[str]:
        """Cheap ones first."""
        kind = observation.schema.kind if observation.schema else "vector"
        count = observation.batch_size if observation.labels is None else len(observation.labels)
        if self.kinds and kind not in self.kinds:
            yield f"samples are of kind {kind!r}, and this attack is made for {' and '.join(sorted(self.kinds))}"
        if self.samples is not None and count is not None and count > self.samples:
            yield f"the batch holds {count} samples, and this attack takes {self.samples} at most"
        if self.batch_size and count is None:
            advice = "tell it, or assume one with batch_size=" if "batch_size" in settings else "tell it"
            yield f"the batch size is not known, and every sample has to be laid out from the start: {advice}"
        if self.labels and observation.labels is None:
            yield "the labels are not known, and this attack does not look for them: tell them"
        if self.one_gradient and not observation.one_gradient:
            yield "the update is a sum over weights that moved, and this attack needs a gradient at the broadcast weights"
        if self.scale and not observation.factor_known:
            yield "the update is multiplied by a factor that the server does not know, and this attack compares sizes"
        calls = observation.layers if self.entrance else ()
        if self.entrance and not calls:
            yield "the model runs no Linear layer at all"
        if self.entrance and not any(call.raw for call in calls):
            advice = ": name one with layer= to recover what it sees" if "layer" in settings else ""
            yield f"no Linear layer of the model sees its raw input{advice}"
        if self.second_order:
            yield from _not_twice_differentiable(observation)


def _not_twice_differentiable(observation: Observation) -> Iterator[str]:
    from unbatch.inversion.replay import not_twice_differentiable

    if (reason := not_twice_differentiable(observation)) is not None:
        yield reason
