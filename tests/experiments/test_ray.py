"""A real Ray cluster on this machine: the records of serial, though a worker is killed. `make test-flower` has Ray; `make test` has not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: `make test-flower` has an environment with it")

from unbatch.errors import Misuse
from unbatch.experiments import Tally, execute_plan, load_plan
from unbatch.experiments.executors import executor
from unbatch.experiments.executors.serial import Serial
from unbatch.store.trials import TrialStore, load_run

Small = Callable[..., Path]

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


def play(path: Path, folder: Path, runner: Any, tell: Callable[[Tally], None] = lambda _: None) -> dict[str, dict[str, Any]]:
    plan = load_plan(path)
    trials = plan.trials()
    with TrialStore(folder, plan.header(len(trials))) as store:
        execute_plan(trials, store, runner, tell)
    return {record.id: record.untimed() for record in load_run(folder).records}


def workers() -> list[int]:
    """Processes of the cluster that this process started and that are busy with a task of ours."""
    parents, tasks = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                told = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if told.startswith(b"ray::_task"):
                tasks.append(int(entry.name))

    def ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return [process for process in tasks if ours(process)]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the workers in /proc")
def test_four_workers_give_the_records_of_serial_though_one_is_killed(small: Small, tmp_path: Path) -> None:
    path = small({"seeds = 3": "seeds = 8"})
    serial = play(path, tmp_path / "serial", Serial())
    killed: list[int] = []

    def tell(tally: Tally) -> None:
        if not killed and tally.ended >= 4:
            end = time.monotonic() + 30
            while not (found := workers()) and time.monotonic() < end:
                time.sleep(0.002)
            for process in found[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    assert play(path, tmp_path / "ray", executor("ray", 4), tell) == serial
    assert len(killed) == 1


def test_no_cluster_at_the_address_is_one_sentence() -> None:
    start = time.monotonic()
    with pytest.raises(
        Misuse, match=r"expected a Ray cluster at '127.0.0.1:9', got none that answers .*: start one with `ray start --head`"
    ):
        executor("ray", address="127.0.0.1:9")
    assert time.monotonic() - start < 30
    with pytest.raises(Misuse, match="expected an address like"):
        executor("ray", address="nowhere")


def test_on_the_command_line(small: Small, tmp_path: Path) -> None:
    code = "import sys; from unbatch.cli import execute; sys.exit(execute(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", str(small()), "--out", str(tmp_path / "run"), "--executor", "ray"]
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "12, 12 of them now" in done.stdout
    done = subprocess.run([*command, "--address", "127.0.0.1:9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("unbatch: expected a Ray cluster at '127.0.0.1:9'")
    assert done.stderr.count("\n") == 1
