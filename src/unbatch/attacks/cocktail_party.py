"""The Cocktail Party Attack: a layer's gradient is a mixture of what the layer is fed, and this unmixes it, whatever the activation.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee, "Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning using
Independent Component Analysis", ICML 2023. Signs and scales from the bias gradient, the Gaussian's constant, restarts and labels go beyond
the paper, which takes signs and order from the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Inapplicable, Misuse
from unbatch.inversion import priors
from unbatch.inversion.descent import Descended, Descent
from unbatch.inversion.label_guess import assuming
from unbatch.inversion.label_order import labels_by_columns
from unbatch.inversion.layers import named_layer, raw_layer
from unbatch.inversion.matching import check_budget
from unbatch.inversion.unmixing import Sources, Terms, Turning, Unmixing
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Inverted, Observation, Progress

__all__ = ["PRESETS", "CocktailParty"]


@dataclass(frozen=True)
class CocktailParty(Attack):
    """Independent component analysis of one Linear layer's gradient, by descent, with what is known of pictures or of activations.

    Attributes:
        steps: of Adam.
        restarts: starts side by side; all but the first are random rotations.
        learning_rate: constant.
        layer: name of the layer's weight; the first one that sees the raw input if None. Of a deeper one its input features are unmixed.
        contrast: weight of how far sources are from Gaussian (the released code leaves it out: 0).
        corrected: whether that is measured from a Gaussian's value, or from zero as coded by the authors.
        sharpness: of log cosh.
        decorrelation: weight of sources that point the same way; 1.47 for inputs and 5.3 for features if None, as published.
        temperature: of that; 12.4 for inputs and 7.7 for features if None.
        total_variation: weight of this prior, for sources of variance 1 that are pictures.
        sign: weight of features that are of both signs; it is left out where the layer before gives negative numbers.
        sparsity: weight of the mean absolute feature.
        orthogonal: keep sources at right angles instead of weighing their decorrelation: textbook component analysis. With the published
            weights that penalty holds sources where they start unless another term moves them.
        start: at the principal axes (``identity``), or where differences of neighboring numbers are sparsest (``differences``).
        batch_size: assumed where the server was not told it and the gradient's rank does not show it.
        seconds: budget, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> generator = torch.Generator().manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(900, 40), torch.nn.GELU(), torch.nn.Linear(40, 4)).double()
        >>> secret = -torch.rand((3, 900), generator=generator, dtype=torch.float64).log()
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, torch.tensor([0, 1, 2])), (900,), batch_size=3)
        >>> found = CocktailParty(steps=500, learning_rate=0.01, orthogonal=True)(seen)
        >>> bool(((secret[:, None] - found.inputs).norm(dim=2).amin(dim=1) / secret.norm(dim=1) < 0.2).all())
        True
    """

    needs: ClassVar[Needs] = Needs(entrance="Linear")
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PICTURE, Yield.FEATURES, Yield.COUNTS})
    cost: ClassVar[str] = "minutes: 25000 steps, each one product of the batch's mixing and its gradient's factor"
    rank: ClassVar[int] = 50

    steps: int = 25000
    restarts: int = 1
    learning_rate: float = 1e-3
    layer: str | None = None
    contrast: float = 1.0
    corrected: bool = True
    sharpness: float = 1.0
    decorrelation: float | None = None
    temperature: float | None = None
    total_variation: float = 3.1
    sign: float = 0.13
    sparsity: float = 5.0
    orthogonal: bool = False
    start: Turning = "identity"
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.restarts, self.batch_size, self.seconds)
        weights = (self.contrast, self.decorrelation or 0, self.total_variation, self.sign, self.sparsity, self.temperature or 0)
        if min(weights) < 0 or not self.sharpness > 0:
            raise Misuse("weights of at least zero and a sharpness above zero", f"{self.spec}", "zero leaves a term out")
        _ = self._descent

    @property
    def _descent(self) -> Descent:
        return Descent("adam", self.steps, self.learning_rate)

    @property
    def needed(self) -> Needs:
        """A layer that is named need not be fed the raw input."""
        return self.needs if self.layer is None else replace(self.needs, entrance="")

    def unsupported(self, observation: Observation) -> str | None:
        """No Linear layer sees the raw input once a sample, or none of the name that was given."""
        found = self._find_layer(observation)
        return found if isinstance(found, str) else None

    def _find_layer(self, observation: Observation) -> LinearCall | str:
        return raw_layer(observation) if self.layer is None else named_layer(observation, self.layer)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """Whiten, turn, scale, label."""
        deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds
        call = self._find_layer(observation)
        if isinstance(call, str):
            raise Inapplicable(call)
        known = assuming(observation, self.batch_size)
        fed = call.input.detach()
        non_negative = not call.raw and bool((fed >= 0).all())
        unmixing = Unmixing(known, call, self._terms(call, non_negative=non_negative), generator)
        start = unmixing.start(self.start, self.restarts, generator)
        found = self._descent.run(unmixing.objective, start, unmixing.project, deadline, progress)
        if found.failed:
            return Candidate(reason=f"the search for components found no numbers to go by: {found.sentence}", diverged=True)
        return _candidate(known, call, unmixing, unmixing.sources(found, non_negative=non_negative), found)

    def _terms(self, call: LinearCall, *, non_negative: bool) -> Terms:
        """As published for inputs and for features."""
        decorrelation, temperature = (1.47, 12.4) if call.raw else (5.3, 7.7)
        return Terms(
            self.contrast,
            self.corrected,
            self.sharpness,
            decorrelation if self.decorrelation is None else self.decorrelation,
            temperature if self.temperature is None else self.temperature,
            self.total_variation if call.raw else 0.0,
            self.sign if non_negative else 0.0,
            0.0 if call.raw else self.sparsity,
            self.orthogonal,
        )


def _candidate(observation: Observation, call: LinearCall, unmixing: Unmixing, sources: Sources, found: Descended) -> Candidate:
    stats = {
        "layer": call.weight,
        "components": unmixing.count,
        "steps": found.steps,
        "ended": found.ending,
        "objective": float(found.values.min()),
        "scaled": "by the bias gradient" if sources.scaled else "not known",
    }
    inverted = Inverted(call.weight, len(observation.update[call.weight]))
    reason = f"components of {call.weight}: the descent ended because {found.sentence}, and nothing shows that they are the samples"
    if not call.raw:
        features = sources.inputs.clamp_min(0) if bool((call.input >= 0).all()) else sources.inputs
        return Candidate(features=features, layer=call.weight, reason=reason, exhausted=True, inverted=inverted, stats=stats)
    inputs = sources.inputs.view(-1, *observation.input_shape)
    box = None if observation.schema is None else priors.box(observation.schema, observation.input_shape, inputs.new_zeros(()))
    if box is not None:
        inputs = inputs.clamp(box[0][0], box[1][0])
    labels = labels_by_columns(observation, call.weight, inputs, sources.columns)
    return Candidate(inputs, labels, reason=reason, exhausted=True, inverted=inverted, stats=stats)


PRESETS: Mapping[str, CocktailParty] = {
    "small": CocktailParty(steps=3000, learning_rate=1e-2),
    "differences": CocktailParty(steps=1000, learning_rate=1e-3, start="differences"),
    "orthogonal": CocktailParty(steps=3000, learning_rate=1e-2, orthogonal=True),
    "released": CocktailParty(contrast=0.0),
    "as_coded": CocktailParty(corrected=False),
}
"""Settings by name: a scale for two cores; from a better start; with textbook orthogonality; the release as it runs, and as written."""
