"""One trial after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from unbatch.experiments.trial import Trial, TrialResult, run_trial

__all__ = ["Serial"]


class Serial:
    """One trial after the other."""

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def run(self, trials: Sequence[Trial]) -> Generator[TrialResult, None, None]:
        """See ``Executor.run``."""
        for trial in trials:
            yield run_trial(trial)
