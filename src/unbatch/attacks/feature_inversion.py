"""From what an inner layer sees back to pictures, with any attack that yields features as the first stage.

Kariyappa et al., "Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning using Independent Component Analysis",
ICML 2023, and SPEAR's union with it: Dimitrov et al., "SPEAR", NeurIPS 2024. Features by an attack, pictures by feature inversion, then
gradients and features matched together. Where proved features determine the pictures, those are solved for; that goes beyond the papers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Inapplicable, Misuse
from unbatch.inversion import features as engine
from unbatch.inversion.descent import Descended, Descent
from unbatch.inversion.label_guess import assuming, batch_size, fixed_labels, label_obstacle
from unbatch.inversion.label_order import columns_of, labels_by_columns, without
from unbatch.inversion.layers import inner_layer, named_layer
from unbatch.inversion.matching import check_budget
from unbatch.inversion.unmixing import Terms, Unmixing
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Inverted, Observation, Progress, Status

__all__ = ["PRESETS", "FeatureInversion"]

STAGES = 3
"""A budget is shared evenly by features, pictures from them, and pictures from them and the gradient."""


@dataclass(frozen=True)
class FeatureInversion(Attack):
    """Features of the samples by another attack, then pictures that have these features and cause the update.

    Attributes:
        source: the attack that yields features, pointed at the layer; independent components with published settings if None.
        layer: name of the weight of the layer whose input is recovered; the first that does not see the raw input if None.
        steps: of Adam in each stage.
        restarts: starts side by side of the pictures; the best of each sample is taken.
        learning_rate: before it falls to zero as a cosine.
        total_variation: weight of this prior; of pictures only.
        gradient: weight of the gradient's distance after the features; 0 ends with the features.
        features: weight of the features beside it.
        solve: steps of Gauss-Newton at most, towards pictures with exactly these features, where they were proved; 0 for none.
        batch_size: assumed where the server was not told it.
        seconds: budget of all stages, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> from torch import nn
        >>> from unbatch.attacks.spear import Spear
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(216, 60), nn.ReLU(), nn.Linear(60, 9)).double()
        >>> secret, labels = torch.rand(3, 1, 8, 8).double(), torch.tensor([0, 1, 2])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (1, 8, 8), batch_size=3)
        >>> found = FeatureInversion(Spear(), steps=100)(seen)
        >>> bool((torch.cdist(secret.flatten(1), found.inputs.flatten(1)).amin(dim=1) < 1e-7).all())
        True
    """

    needs: ClassVar[Needs] = Needs(one_gradient=True, second_order=True, uncoupled=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PICTURE, Yield.COUNTS})
    cost: ClassVar[str] = "minutes to hours: its source, then up to 25000 steps through the first layers and 25000 of gradient matching"
    rank: ClassVar[int] = 60

    source: Attack | None = None
    layer: str | None = None
    steps: int = 25000
    restarts: int = 1
    learning_rate: float = 0.1
    total_variation: float = 0.1
    gradient: float = 1.0
    features: float = 1.0
    solve: int = 200
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.restarts, self.batch_size, self.seconds)
        if min(self.total_variation, self.gradient, self.features, self.solve) < 0:
            raise Misuse("weights and steps of at least zero", "a negative one", "zero leaves a stage out")
        if self.source is not None and not ({"layer"} <= _settings(self.source) and Yield.FEATURES in self.source.yields):
            raise Misuse("a source that yields features", self.source.spec, "use spear, span, one_sample or cocktail_party")
        _ = self._descent

    @property
    def _descent(self) -> Descent:
        return Descent("adam", self.steps, self.learning_rate, "cosine")

    @property
    def needed(self) -> Needs:
        """Without the gradient once is enough."""
        return replace(self.needs, second_order=self.gradient > 0)

    def unsupported(self, observation: Observation) -> str | None:
        """No Linear layer lies behind others, or the source cannot be pointed at it."""
        call = self._find_layer(observation)
        if isinstance(call, str):
            return call
        return None if self.source is None else self._pointed(self.source, call).obstacle(observation)

    def _find_layer(self, observation: Observation) -> LinearCall | str:
        return inner_layer(observation) if self.layer is None else named_layer(observation, self.layer)

    def _pointed(self, source: Attack, call: LinearCall) -> Attack:
        """The source at the layer, within its share of the budget."""
        changes: dict[str, Any] = {"layer": call.weight}
        if self.seconds is not None and "seconds" in _settings(source):
            own = getattr(source, "seconds", None)
            changes["seconds"] = self.seconds / STAGES if own is None else min(own, self.seconds / STAGES)
        if self.batch_size is not None and "batch_size" in _settings(source):
            changes["batch_size"] = self.batch_size
        return replace(source, **changes)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """Features, pictures from them, an exact solution where there is one, and the gradient."""
        end = math.inf if self.seconds is None else time.monotonic() + self.seconds
        call = self._find_layer(observation)
        if isinstance(call, str):
            raise Inapplicable(call)
        known = assuming(observation, self.batch_size)
        seen = self._features(known, call, generator, progress)
        stage = engine.FeatureInversion(known, call.weight, seen.rows, self.total_variation)
        found = stage.descend(self._descent, self.restarts, generator, _next(end, 2), progress)
        if found.failed:
            return Candidate(reason=f"the descent from features found no numbers to go by: {found.sentence}", diverged=True)
        inputs = found.variables["inputs"][:, 0]
        solved = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        determined = stage.determined(inputs, generator, _next(end, 3))
        if seen.proved and self.solve and found.ending != "interrupted" and determined.may_suffice:
            progress("solving for pictures with these features", math.nan)
            nearer = stage.solve(found, self.solve, _next(end, 2), generator)
            solved, inputs = nearer.errors <= engine.EXACT, nearer.point.view_as(inputs)
        exact = bool(solved.all())
        told = f"{seen.told}; {determined.sentence}"
        stats = {"layer": call.weight, "features": len(seen.rows), "determined": list(determined.counts), "solved": int(solved.sum())}
        labels = seen.labels if seen.labels is not None else _labels(known, call.weight, inputs, seen.rows)
        whole = exact and len(inputs) == (batch_size(known) or len(inputs))
        inverted = Inverted(call.weight, len(known.update[call.weight]))
        if not whole and self.gradient and found.ending != "interrupted":
            refined = self._refined(known, stage, inputs, labels, end, generator, progress, told, stats, solved)
            return replace(refined, inverted=inverted)
        reason = told if exact else f"{told}; the descent ended because {found.sentence}"
        ended = stats | _ended(found)
        return Candidate(inputs, labels, reason=reason, exhausted=not exact, converged=exact, inverted=inverted, stats=ended)

    def _refined(
        self,
        observation: Observation,
        stage: engine.FeatureInversion,
        inputs: Tensor,
        labels: Tensor,
        end: float,
        generator: Generator,
        progress: Progress,
        told: str,
        stats: dict[str, Any],
        solved: Tensor,
    ) -> Candidate:
        """Over the whole batch, those that were solved as they are; samples without features start from noise, with the labels left."""
        missing = (batch_size(observation) or len(labels)) - len(labels)
        if missing > 0 and label_obstacle(observation, "restored") is None:
            every = fixed_labels(observation, "restored")
            rest = without(every if every is not None else labels, labels)[:missing]
            shape = (len(rest), *observation.input_shape)
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64).to(inputs)
            inputs, labels = torch.cat([inputs, noise]), torch.cat([labels, rest])
        made, found = stage.refine(
            self._descent, inputs, labels, (self.gradient, self.features), fixed=solved, deadline=end, progress=progress
        )
        merged = {**made.stats, **stats, **_ended(found), "labels": "by their columns or the source"}
        return replace(made, reason=f"{told}; {made.reason}", stats=merged)

    def _features(self, observation: Observation, call: LinearCall, generator: Generator, progress: Progress) -> _Features:
        """What the source makes of it."""
        if self.source is None:
            return self._unmixed(observation, call, generator, progress)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        made = self._pointed(self.source, call)(observation, seed=seed, progress=progress)
        if made.features is None or not len(made.features):
            raise Inapplicable(f"{made.attack} found no features ({made.status.name}: {made.reason})")
        proved = made.status is Status.FEATURES
        told = f"features of {len(made.features)} samples by {made.attack}, {'proved' if proved else 'not proved'}"
        return _Features(made.features, made.labels if proved else None, proved, told)

    def _unmixed(self, observation: Observation, call: LinearCall, generator: Generator, progress: Progress) -> _Features:
        """Independent components, as published for features."""
        deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds / STAGES
        positive = bool((call.input >= 0).all())
        terms = Terms(decorrelation=5.3, temperature=7.7, sign=0.13 if positive else 0.0, sparsity=5.0)
        unmixing = Unmixing(observation, call, terms, generator)
        start = unmixing.start("identity", 1, generator)
        found = Descent("adam", self.steps, 1e-3).run(unmixing.objective, start, unmixing.project, deadline, progress)
        if found.failed:
            raise Inapplicable(f"the search for components found no numbers to go by: {found.sentence}")
        rows = unmixing.sources(found, non_negative=positive).inputs
        told = f"features of {len(rows)} samples by independent components, not proved"
        return _Features(rows.clamp_min(0) if positive else rows, None, False, told)


@dataclass(frozen=True, eq=False)
class _Features:
    rows: Tensor
    labels: Tensor | None
    proved: bool
    told: str


def _settings(attack: Attack) -> set[str]:
    return {field.name for field in fields(attack)}


def _next(end: float, stages: int) -> float:
    """When the next of so many stages must end."""
    return end if math.isinf(end) else time.monotonic() + max(0.0, end - time.monotonic()) / stages


def _labels(observation: Observation, layer: str, inputs: Tensor, rows: Tensor) -> Tensor:
    return labels_by_columns(observation, layer, inputs, columns_of(observation, layer, rows))


def _ended(found: Descended) -> dict[str, Any]:
    return {"steps": found.steps, "ended": found.ending}


PRESETS: Mapping[str, FeatureInversion] = {
    "small": FeatureInversion(steps=600),
    "features": FeatureInversion(gradient=0.0),
}
"""Settings by name: a scale for two cores; and feature inversion alone."""
