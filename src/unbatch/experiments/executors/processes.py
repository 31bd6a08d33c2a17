"""Several processes on this machine, each with as many threads as its trial says; one that dies is replaced, and its trial run again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from unbatch.errors import UnbatchError
from unbatch.experiments.executors import LOST, lost
from unbatch.experiments.trial import Trial, TrialResult, run_trial

__all__ = ["Processes"]

PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What libraries read when they are loaded. More threads than cores wait for each other, a hundred times longer than they work."""


class Processes:
    """A fixed number of fresh processes."""

    def __init__(self, workers: int | None = None) -> None:
        """How many; None for one a core."""
        self._workers = workers or os.cpu_count() or 1

    @property
    def workers(self) -> int:
        """How many processes."""
        return self._workers

    def run(self, trials: Sequence[Trial]) -> Generator[TrialResult, None, None]:
        """See ``Executor.run``."""
        waiting, deaths = deque(trials), dict.fromkeys((trial.id for trial in trials), 0)
        crew = [_Worker() for _ in range(min(self.workers, len(trials)))]
        try:
            while waiting or any(worker.trial for worker in crew):
                for worker in crew:
                    if worker.trial is None and waiting:
                        worker.give(waiting.popleft())
                busy = [worker for worker in crew if worker.trial is not None]
                ready = wait([each for worker in busy for each in (worker.pipe, worker.process.sentinel)])
                for worker in busy:
                    if worker.pipe not in ready and worker.process.sentinel not in ready:
                        continue
                    trial, result = worker.trial, worker.result()
                    if trial is None:
                        continue
                    if result is None:
                        how = worker.ended()
                        crew[crew.index(worker)] = _Worker()
                        deaths[trial.id] += 1
                        if deaths[trial.id] < LOST:
                            waiting.appendleft(trial)
                            continue
                        result = lost(trial, how)
                    yield result
        finally:
            for worker in crew:
                worker.end()


class _Worker:
    """A process, the pipe to it, and what it is busy with."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.trial: Trial | None = None
        self.process: SpawnProcess = context.Process(target=_serve, args=(other,), daemon=True)
        with _pinned():
            self.process.start()
        other.close()

    def give(self, trial: Trial) -> None:
        self.trial = trial
        with suppress(OSError):  # it is dead: that is seen when its result is waited for
            self.pipe.send(trial)

    def result(self) -> TrialResult | None:
        """What it made of its trial; None if it died.

        Raises:
            UnbatchError: what it was given cannot be run by it.
        """
        try:
            made = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.trial = None
        if isinstance(made, UnbatchError):
            raise made
        return made

    def ended(self) -> str:
        """How it died."""
        self.process.join(5)
        code = self.process.exitcode
        self.end()
        if code is not None and code < 0:
            with suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    def end(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _pinned() -> Iterator[None]:
    """One thread for whatever a process that is started now will load; its trials set their own number."""
    before = {name: os.environ.get(name) for name in PINNED}
    os.environ |= dict.fromkeys(PINNED, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection[Any, Any]) -> None:
    """Run what comes until the pipe closes: then the run has ended, or was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its workers itself
    while True:
        try:
            trial = pipe.recv()
        except (EOFError, OSError):
            return
        made: TrialResult | UnbatchError
        try:
            made = run_trial(trial)
        except UnbatchError as error:
            made = error
        try:
            pipe.send(made)
        except OSError:
            return
