"""A run: trials that are not yet in the store, an executor, and a tally that is told after each."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from unbatch.experiments.executors import Executor
from unbatch.experiments.identity import built
from unbatch.experiments.trial import Trial
from unbatch.store.trials import Settings, TrialRecord, TrialStore

__all__ = ["Tally", "budget", "estimate", "execute_plan", "forecast"]


@dataclass
class Tally:
    """How far a run is.

    Attributes:
        total: trials of the plan.
        before: of them were in the store already.
        workers: that run at the same time.
        ended: since the run began.
        statuses: of all that ended, by their status, or their outcome if they are not done.
    """

    total: int
    before: int = 0
    workers: int = 1
    ended: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _left: Counter[str] = field(default_factory=Counter)
    _started: float = field(default_factory=time.monotonic)

    def add(self, record: TrialRecord) -> None:
        """Count a record."""
        self.ended += 1
        self.statuses[record.status if record.outcome == "done" else record.outcome] += 1
        kind = _kind(record.settings)
        self._seconds.setdefault(kind, []).append(record.total_seconds)
        self._left[kind] -= 1

    def left(self) -> float | None:
        """Seconds that the rest will take, from trials of the same settings; None before the first has ended."""
        return estimate(self._seconds, self._left, self.workers)

    @property
    def done(self) -> int:
        """Trials that are in the store."""
        return self.before + self.ended

    def summary(self) -> str:
        """The statuses, the most frequent first."""
        return ", ".join(f"{name} {count}" for name, count in self.statuses.most_common()) or "none yet"


def _kind(settings: Settings) -> str:
    return settings.model_copy(update={"seed": 0}).model_dump_json()


def estimate(seconds: dict[str, list[float]], left: dict[str, int] | Counter[str], workers: int) -> float | None:
    """Seconds for what is left: the mean of trials of the same settings, or of all where there are none.

    Example:
        >>> estimate({"a": [1.0, 3.0]}, {"a": 2, "b": 1}, workers=2)
        3.0
    """
    every = [value for values in seconds.values() for value in values]
    if not every:
        return None
    usual = statistics.fmean(every)
    total = sum(count * (statistics.fmean(seconds[kind]) if kind in seconds else usual) for kind, count in left.items() if count > 0)
    return total / workers


def forecast(missing: Sequence[Trial], records: Iterable[TrialRecord], workers: int) -> float | None:
    """Seconds that trials will take, from records of others; None where there are none."""
    seconds: dict[str, list[float]] = {}
    for record in records:
        seconds.setdefault(_kind(record.settings), []).append(record.total_seconds)
    return estimate(seconds, Counter(_kind(trial.settings) for trial in missing), workers)


def _outstanding(trials: Iterable[Trial], records: dict[str, TrialRecord], *, retry_crashed: bool = False) -> list[Trial]:
    """The trials that have no record, or one of a crash that is to be tried again."""
    return [trial for trial in trials if trial.id not in records or (retry_crashed and records[trial.id].outcome == "crashed")]


def budget(trials: Sequence[Trial]) -> float | None:
    """Seconds that the attacks may take in all, by their own budgets; None if one has none."""
    cache: dict[str, Any] = {}
    total = 0.0
    for trial in trials:
        spec = trial.settings.attack
        if not spec:
            continue  # restorers take milliseconds
        if spec not in cache:
            cache[spec] = getattr(built("attacks", spec), "seconds", None)
        if cache[spec] is None:
            return None
        total += float(cache[spec])
    return total


def execute_plan(
    trials: Sequence[Trial],
    store: TrialStore,
    executor: Executor,
    tell: Callable[[Tally], None],
    *,
    retry_crashed: bool = False,
) -> Tally:
    """Run what is not yet in the store.

    Args:
        trials: of the plan.
        store: open.
        executor: where they run.
        tell: told before the first trial and after each.
        retry_crashed: whether trials that crashed are run again.

    Raises:
        OutputFailed: a record cannot be written; all before it are kept.
    """
    missing = _outstanding(trials, store.records, retry_crashed=retry_crashed)
    tally = Tally(len(trials), len(trials) - len(missing), executor.workers)
    tally._left = Counter(_kind(trial.settings) for trial in missing)
    tell(tally)
    with closing(executor.run(missing)) as results:
        for result in results:
            store.add(result.record, result.picture)
            tally.add(result.record)
            tell(tally)
    return tally
