"""TabLeak: an ensemble of descents over relaxed rows of a table, pooled cell by cell.

Vero, Balunović, Dimitrov, Vechev, "TabLeak: Tabular Data Leakage in Federated Learning", ICML 2023. All members share one graph. Rows of
different known classes are never taken for one another; the paper aligns rows alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from unbatch.contracts import Attack, Needs, Yield
from unbatch.inversion.descent import Descended, Descent
from unbatch.inversion.label_guess import Labels, assuming
from unbatch.inversion.matching import GradientMatching, Local, check_budget, matching_obstacle
from unbatch.inversion.tables import Relaxation, aligned, certainty, hard
from unbatch.types import Candidate, Observation, Progress, Schema

__all__ = ["PRESETS", "TabLeak"]

CERTAIN = 0.9
"""A cell on which the members agree so far is called certain. Chosen."""


@dataclass(frozen=True)
class TabLeak(Attack):
    """One minus the cosine of gradients over relaxed rows, lowered by Adam on the gradient's sign, for many starts at once.

    The member whose nearest true rows of the table have the nearest gradient is the reference. The others are brought beside it, and
    every cell is pooled: the median of the relaxed rows, then the likeliest level or the nearest number.

    Attributes:
        steps: of Adam.
        members: of the ensemble, side by side in one graph.
        labels: where they were not told: ``restored`` from the last layer, or ``searched`` with the rows.
        learning_rate: constant.
        softmax: whether the numbers of a level column go through a softmax.
        bounded: whether numbers with a range go through a sigmoid.
        pooling: how members become one: ``median`` or ``mean`` of each number, or ``none`` for the reference alone.
        local: local training is unrolled, with the same rows in every epoch, or taken for one gradient.
        batch_size: assumed where the server was not told it.
        seconds: budget, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> from unbatch.schema import Categorical, Continuous
        >>> from unbatch.types import Schema
        >>> table = Schema("table", (40.0, 0.5, 0.5), (15.0, 0.5, 0.5), columns=(Continuous("age", 0, 99), Categorical("sex", ("f", "m"))))
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 40), torch.nn.ReLU(), torch.nn.Linear(40, 2))
        >>> secret, label = table.encode(table.cells([(30, "m")])).float(), torch.tensor([1])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, label), (3,), batch_size=1, schema=table)
        >>> found = TabLeak(steps=200, members=4)(seen)
        >>> [(round(age), sex) for age, sex in table.rows(table.decode(found.inputs))]
        [(30, 'm')]
    """

    needs: ClassVar[Needs] = Needs(kinds=frozenset({"table"}), batch_size=True, second_order=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.ROWS, Yield.COUNTS})
    cost: ClassVar[str] = "half a minute to minutes: two backward passes a step, 1500 steps, all 30 members in one graph"
    rank: ClassVar[int] = 60

    steps: int = 1500
    members: int = 30
    labels: Labels = "restored"
    learning_rate: float = 0.06
    softmax: bool = True
    bounded: bool = True
    pooling: Literal["median", "mean", "none"] = "median"
    local: Local = "unroll"
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.members, self.batch_size, self.seconds)
        _ = self._descent

    @property
    def _descent(self) -> Descent:
        return Descent("adam", self.steps, self.learning_rate, sign="hard")

    @property
    def needed(self) -> Needs:
        """A batch size may be assumed."""
        return replace(self.needs, batch_size=self.batch_size is None)

    def unsupported(self, observation: Observation) -> str | None:
        """Local steps cannot be unrolled, or labels cannot be had."""
        return matching_obstacle(assuming(observation, self.batch_size), self.labels, self.local)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See the class."""
        deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds
        schema = observation.schema or Schema("table")
        matching = GradientMatching(assuming(observation, self.batch_size), "cosine", labels=self.labels, local=self.local)
        relax = Relaxation(schema, self.softmax, self.bounded)
        start = matching.start("uniform", self.members, generator)
        found = self._descent.run(
            lambda v: matching.objective({**v, "inputs": relax(v["inputs"])}), start, deadline=deadline, progress=progress
        )
        if found.failed:
            return matching.candidate(found)
        with torch.no_grad():
            return self._pooled(schema, matching, relax, found)

    def _pooled(self, schema: Schema, matching: GradientMatching, relax: Relaxation, found: Descended) -> Candidate:
        """One batch of all members that have an objective."""
        alive = found.values.isfinite()
        variables = {name: tensor[alive] for name, tensor in found.variables.items()}
        rows, targets = relax(variables["inputs"]), matching.targets(variables)
        soft = matching.labels is None
        labels = targets.argmax(dim=-1) if soft else targets
        scores = _distances(matching, hard(schema, rows), labels)
        best = int(scores.nan_to_num(torch.inf).argmin())
        order = aligned(schema, rows, labels, best, told=not soft)
        beside = rows.gather(1, order[..., None].expand_as(rows))
        pooled = {"median": beside.median(dim=0).values, "mean": beside.mean(dim=0), "none": rows[best]}[self.pooling]
        inputs, told = hard(schema, pooled), labels[best]
        if soft:
            told = targets.gather(1, order[..., None].expand_as(targets)).mean(dim=0).argmax(dim=-1)
        sure = certainty(schema, beside)
        distance = float(_distances(matching, inputs[None], told[None]))
        stats: dict[str, Any] = {
            "steps": found.steps,
            "members": len(rows),
            "diverged": int(found.diverged.sum()),
            "ended": found.ending,
            "distance_of_the_best_member": float(scores[best]),
            "distance": distance,
            "certain_cells": float((sure >= CERTAIN).double().mean()),
            "labels": "told" if matching.observation.labels is not None else "searched" if soft else "restored",
        }
        reason = f"the descent ended because {found.sentence}, and the pooled rows are at a distance of {distance:.1e}"
        training = matching.observation.training
        steps = None if matching.replay.training is None or training is None else torch.arange(matching.count).expand(training.epochs, -1)
        stopped = found.ending == "interrupted"
        return Candidate(inputs, told, reason=reason, exhausted=True, interrupted=stopped, order=steps, certainty=sure, stats=stats)


def _distances(matching: GradientMatching, rows: Tensor, labels: Tensor) -> Tensor:
    """(r,) of whole batches, by the update alone."""
    return matching.distance(matching.replay(rows, labels).update).detach()


PRESETS: Mapping[str, TabLeak] = {
    "small": TabLeak(steps=500, members=8),
    "fedavg": TabLeak(members=15),
    "single": TabLeak(members=1, pooling="none"),
    "heavy_tails": TabLeak(bounded=False),
}
"""Settings by name: a scale for two cores; the paper's ensemble for local training; without one; for numbers with wide ranges."""
