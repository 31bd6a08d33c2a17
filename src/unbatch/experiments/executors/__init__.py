"""Where trials run: one file each. Only the run itself writes to the store, so a lost worker loses no trial that was finished."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from unbatch.errors import Misuse
from unbatch.experiments.trial import Trial, TrialResult

__all__ = ["LOST", "Executor", "executor", "lost"]

EXECUTORS = ("serial", "processes", "ray")

LOST = 3
"""Workers that may die over one trial before it counts as crashed."""


class Executor(Protocol):
    """Runs trials; the same trials give the same records wherever they run."""

    @property
    def workers(self) -> int:
        """How many trials run at the same time."""

    def run(self, trials: Sequence[Trial]) -> Generator[TrialResult, None, None]:
        """The results, each as soon as it is there, in any order. Closing the iterator ends all workers."""


def executor(name: str, workers: int | None = None, address: str | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: serial, processes or ray.
        workers: how many; None for all cores, or all that the cluster has.
        address: of a Ray cluster; None starts one on this machine.

    Raises:
        Misuse: there is no such executor, it is not installed, or the options are not its own.

    Example:
        >>> executor("serial").workers
        1
    """
    if workers is not None and workers < 1:
        raise Misuse("at least one worker", str(workers), "raise it, or leave --workers out")
    if address is not None and name != "ray":
        raise Misuse("no --address, which belongs to --executor ray", repr(address), "leave it out, or take --executor ray")
    if name == "serial":
        if workers not in (None, 1):
            raise Misuse("one worker for --executor serial", str(workers), "take --executor processes")
        from unbatch.experiments.executors.serial import Serial

        return Serial()
    if name == "processes":
        from unbatch.experiments.executors.processes import Processes

        return Processes(workers)
    if name == "ray":
        from unbatch.experiments.executors.ray_cluster import RayCluster

        return RayCluster(workers, address)
    raise Misuse(f"an executor among {', '.join(EXECUTORS)}", repr(name), "use one of them")


def lost(trial: Trial, how: str) -> TrialResult:
    """What is kept of a trial over which worker after worker died."""
    told = f"the worker died {LOST} times over this trial ({how}): perhaps the memory is not enough"
    return TrialResult(trial.record(outcome="crashed", reason=told, error=told))
