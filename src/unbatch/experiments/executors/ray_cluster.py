"""Many machines: the same trials as tasks of a Ray cluster. Needs the extra ``ray``."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from unbatch.errors import Misuse, UnbatchError
from unbatch.experiments.executors import LOST, lost
from unbatch.experiments.trial import Trial, TrialResult, run_trial

__all__ = ["RayCluster"]

AHEAD = 2
"""Tasks that are handed in, for each that runs: enough that no worker waits, and few enough that a lost driver leaves little behind."""

PATIENCE = 5.0
"""Seconds to wait for a cluster to answer at its address."""


class RayCluster:
    """A cluster at an address, or a new one on this machine."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        """Connect.

        Raises:
            Misuse: Ray is not installed, or no cluster answers at the address.
        """
        if find_spec("ray") is None:
            advice = "pip install 'unbatch[ray]', or take --executor processes"
            raise Misuse("Ray to be installed for --executor ray", "no package 'ray'", advice)
        import ray

        if address is not None:
            _check_answers(address)
        told = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        for name, value in told.items():
            os.environ.setdefault(name, value)
        self._ours = not ray.is_initialized()
        if self._ours:
            cpus = None if address is not None else workers
            try:
                ray.init(address=address or "local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise _no_cluster(address or "local", str(error).splitlines()[0]) from error
        there = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._workers = min(workers or there, there)

    @property
    def workers(self) -> int:
        """How many tasks run at the same time, at most."""
        return self._workers

    def run(self, trials: Sequence[Trial]) -> Generator[TrialResult, None, None]:
        """See ``Executor.run``."""
        import ray

        task = ray.remote(max_retries=LOST - 1, retry_exceptions=False)(_task)
        waiting, running = deque(trials), dict[Any, Trial]()
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * self.workers:
                    trial = waiting.popleft()
                    gpus = int(trial.device.startswith("cuda"))
                    running[task.options(num_cpus=trial.threads, num_gpus=gpus).remote(trial)] = trial
                ready, _ = ray.wait(list(running), num_returns=1)
                for reference in ready:
                    yield _result(ray, reference, running.pop(reference))
        finally:
            for reference in running:
                with suppress(Exception):
                    ray.cancel(reference, force=True)
            if self._ours:
                ray.shutdown()


def _task(trial: Trial) -> TrialResult | UnbatchError:
    try:
        return run_trial(trial)
    except UnbatchError as error:  # the driver raises it as it is, and not wrapped in an error of Ray's
        return error


def _result(ray: Any, reference: Any, trial: Trial) -> TrialResult:
    try:
        made = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        return lost(trial, type(error).__name__)
    if isinstance(made, UnbatchError):
        raise made
    return TrialResult(made.record, made.picture)


def _check_answers(address: str) -> None:
    """Whether anything listens there: Ray itself asks for a minute before it says no."""
    plain = address.removeprefix("ray://")
    host, colon, port = plain.rpartition(":")
    if not colon or not port.isdigit():
        if plain in ("auto", "local"):
            return
        raise Misuse("an address like 10.0.0.1:6379, ray://head:10001 or auto", repr(address), "give the one that `ray start` printed")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> Misuse:
    advice = "start one with `ray start --head`, or take another --address"
    return Misuse(f"a Ray cluster at {address!r}", f"none that answers ({why})", advice)
