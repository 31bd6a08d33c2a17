"""Runs: kill them at any instant, resume, and the store is that of an undisturbed run; the same wherever trials run."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbatch.cli import execute
from unbatch.errors import Misuse, OutputFailed
from unbatch.experiments import Tally, Trial, execute_plan, load_plan, run_trial
from unbatch.experiments import trial as trial_module
from unbatch.experiments.executors import executor
from unbatch.experiments.executors.processes import Processes
from unbatch.experiments.executors.serial import Serial
from unbatch.experiments.running import estimate
from unbatch.store.trials import TRIALS, TrialStore, load_run

Small = Callable[..., Path]


def silent(tally: Tally) -> None:
    """Nobody is told."""


def play(path: Path, folder: Path, runner: Any = None, **options: Any) -> Tally:
    plan = load_plan(path)
    trials = plan.trials()
    with TrialStore(folder, plan.header(len(trials))) as store:
        return execute_plan(trials, store, runner or Serial(), silent, **options)


def untimed(folder: Path) -> dict[str, dict[str, Any]]:
    return {record.id: record.untimed() for record in load_run(folder).records}


def killed_at(path: Path, folder: Path, lines: int, seconds: float) -> int:
    """Start the run in a process of its own; so long after it has written so many lines, kill it. How many trials it had finished."""
    child = os.fork()
    if child == 0:  # pragma: no cover -- it is killed
        try:
            play(path, folder)
        finally:
            os._exit(0)
    file = folder / TRIALS
    while lines and not (file.exists() and file.read_bytes().count(b"\n") >= lines):
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return len(load_run(folder).records) if (folder / "run.json").exists() else 0


def kill_and_resume(path: Path, tmp_path: Path, instants: int, seed: int) -> None:
    play(path, tmp_path / "warm")
    start = time.perf_counter()
    play(path, tmp_path / "undisturbed")
    undisturbed = untimed(tmp_path / "undisturbed")
    usual = (time.perf_counter() - start) / len(undisturbed)
    choose, finished = random.Random(seed), []  # noqa: S311
    for instant in range(instants):
        folder = tmp_path / f"killed-{instant}"
        finished.append(killed_at(path, folder, choose.randrange(len(undisturbed)), choose.uniform(0, usual)))
        tally = play(path, folder)
        lines = (folder / TRIALS).read_bytes().splitlines()
        assert untimed(folder) == undisturbed
        assert len(lines) == len(undisturbed), "a trial is lost or doubled"
        assert tally.before == finished[-1], "what was finished is not run again"
        pictures = [sorted(each.name for each in (run / "pictures").glob("[!.]*")) for run in (folder, tmp_path / "undisturbed")]
        assert pictures[0] == pictures[1]
    assert any(0 < count < len(undisturbed) for count in finished), "no instant hit the run: the test shows nothing"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_random_instants_it_resumes_to_the_same_store(small: Small, tmp_path: Path) -> None:
    kill_and_resume(small({"seeds = 3": "seeds = 6"}), tmp_path, instants=4, seed=0)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_fifty_instants(small: Small, tmp_path: Path) -> None:
    kill_and_resume(small({"seeds = 3": "seeds = 15"}), tmp_path, instants=50, seed=1)


@pytest.mark.timeout(600)
def test_processes_give_the_same_records_though_one_is_killed(small: Small, tmp_path: Path) -> None:
    path = small({"seeds = 3": "seeds = 5"})
    play(path, tmp_path / "serial")
    plan = load_plan(path)
    trials, killed = plan.trials(), []

    def tell(tally: Tally) -> None:
        if tally.ended == 5:
            victim = multiprocessing.active_children()[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    with TrialStore(tmp_path / "processes", plan.header(len(trials))) as store:
        tally = execute_plan(trials, store, Processes(2), tell)
    assert tally.ended == len(trials)
    assert len(killed) == 1
    assert untimed(tmp_path / "processes") == untimed(tmp_path / "serial")
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(600)
def test_a_trial_that_kills_worker_after_worker_is_a_crash(small: Small) -> None:
    trials = load_plan(small()).trials()[:1]
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (result,) = Processes(1).run(trials)
    finally:
        over.set()
        killer.join()
    assert result.record.outcome == "crashed"
    assert "the worker died 3 times over this trial (SIGKILL)" in result.record.error
    assert result.record.whole is None


def test_a_crash_is_recorded_with_its_traceback_and_run_again_on_demand(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("of the attack")

    path, real = small(), trial_module.invert
    monkeypatch.setattr(trial_module, "invert", broken)
    play(path, tmp_path / "run")
    monkeypatch.setattr(trial_module, "invert", real)
    crashed = [record for record in load_run(tmp_path / "run").records if record.outcome == "crashed"]
    assert len(crashed) == 6
    assert {record.reason for record in crashed} == {"ZeroDivisionError: of the attack"}
    assert all("Traceback" in record.error and record.scores == {} and record.whole is None for record in crashed)
    assert play(path, tmp_path / "run").ended == 0
    assert play(path, tmp_path / "run", retry_crashed=True).ended == 6
    assert {record.outcome for record in load_run(tmp_path / "run").records} == {"done"}


def test_what_cannot_be_is_refused_with_its_sentence(small: Small, tmp_path: Path) -> None:
    path = small({"batch_sizes = [1, 2]": 'batch_sizes = [2]\nprotocols = "secure_aggregation:clients=3"'})
    play(path, tmp_path / "run")
    records = load_run(tmp_path / "run").records
    assert {record.outcome for record in records} == {"refused"}
    assert all("at least 3 samples, one a client" in record.reason and not record.error for record in records)


def test_a_metric_that_is_not_defined_for_the_samples_scores_none(small: Small, tmp_path: Path) -> None:
    path = small({"seeds = 3": 'seeds = 1\nmetrics = ["mse", "lpips"]', "batch_sizes = [1, 2]": "batch_sizes = 1"})  # LPIPS wants 32 x 32
    play(path, tmp_path / "run")
    scored = [record.scores for record in load_run(tmp_path / "run").records if record.scores]
    assert any(scores.get("mse_worst") is not None for scores in scored)
    assert all(scores.get("lpips_mean") is None and scores.get("lpips_worst") is None for scores in scored)


def test_a_worker_with_other_code_refuses(small: Small) -> None:
    trial = load_plan(small()).trials()[0]
    with pytest.raises(Misuse, match="expected a worker that runs the code another"):
        run_trial(Trial(trial.settings, trial.id, "another"))


def test_threads_are_those_of_the_trial_and_are_put_back(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen = []
    monkeypatch.setattr(trial_module, "_played", lambda _: seen.append(torch.get_num_threads()) or 1 / 0)
    before = torch.get_num_threads()
    assert run_trial(load_plan(small(), overrides=["threads=2"]).trials()[0]).record.outcome == "crashed"
    assert (seen, torch.get_num_threads()) == ([2], before)


def test_what_was_finished_before_the_disk_is_full_is_kept(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = TrialStore.add, []

    def add(self: TrialStore, *args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OutputFailed("full")
        real(self, *args)

    monkeypatch.setattr(TrialStore, "add", add)
    with pytest.raises(OutputFailed):
        play(small(), tmp_path / "run")
    assert len(load_run(tmp_path / "run").records) == 2


@pytest.mark.parametrize("mix", ["repeated", "unique", "one", "imbalanced", "dirichlet:0.3"])
def test_mixes_of_classes(small: Small, mix: str) -> None:
    import torch

    from unbatch import plugins
    from unbatch.experiments.identity import expanded
    from unbatch.experiments.scene import drawn

    path = small({"batch_sizes = [1, 2]": f'batch_sizes = 4\nmixes = "{mix}"\ntrained = 3'})
    settings = load_plan(path).trials()[0].settings
    data = plugins.build("datasets", expanded(settings.dataset))
    batch = drawn(data, settings)
    counts = torch.bincount(batch.labels, minlength=4).sort().values.tolist()
    assert sum(counts) == 4
    wanted = {"unique": [1, 1, 1, 1], "one": [0, 0, 0, 4], "imbalanced": [0, 1, 1, 2]}
    assert counts == wanted.get(mix, counts)
    trained = data.take(torch.arange(20)).inputs.flatten(1)
    assert bool((torch.cdist(batch.inputs.flatten(1), trained) > 0).all()), "a sample that the model was trained on"


@pytest.mark.parametrize("told", ["nothing", "batch_size", "labels", "restored_labels"])
def test_what_the_adversary_is_told(small: Small, told: str) -> None:
    path = small({'told = "batch_size"': f'told = "{told}"', '["one_sample"]': '["spear:seconds=5"]', '["ilrg"]': "[]"})
    record = run_trial(load_plan(path, overrides=["batch_sizes=[2]", "models='mlp:width=30,depth=3'"]).trials()[0]).record
    assert (record.outcome, record.status, record.exact) == ("done", "RECONSTRUCTED", 2)
    assert record.told == told


def test_time_left_is_told_by_trials_of_the_same_settings() -> None:
    assert estimate({}, {"a": 3}, 1) is None
    assert estimate({"a": [1.0], "b": [9.0]}, {"a": 2, "b": 1, "c": 1}, 2) == (2 + 9 + 5) / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "clouds"}, "expected an executor among serial, processes, ray"),
        ({"name": "serial", "workers": 2}, "expected one worker for --executor serial"),
        ({"name": "processes", "workers": 0}, "expected at least one worker"),
        ({"name": "processes", "address": "x:1"}, "expected no --address"),
    ],
)
def test_executors_misused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        executor(**options)


def test_ray_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbatch.experiments.executors.ray_cluster.find_spec", lambda _: None)
    with pytest.raises(Misuse, match=r"expected Ray to be installed for --executor ray, got no package 'ray': pip install"):
        executor("ray")


# The command line


def test_the_commands(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(small()), str(tmp_path / "run")
    assert execute(["run", path, "--out", out, "--dry-run"]) == 0
    assert "12, of which 0 are done" in capsys.readouterr().out
    assert execute(["run", path, "--dry-run"]) == 0
    assert "12, of which 0 are done" in capsys.readouterr().out
    assert execute(["run", path]) == 2
    assert "expected --out with a folder for the trials, got none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert execute(["run", path, "--out", out, "--reduced", "--quiet"]) == 0
    assert "4, 4 of them now" in capsys.readouterr().out
    assert execute(["run", path, "--out", out]) == 2
    assert "expected a folder of the plan 'small' with its 12 trials" in capsys.readouterr().err
    assert execute(["run", path, "--out", out, "--reduced"]) == 0
    assert "4, 0 of them now" in capsys.readouterr().out
    assert execute(["report", out]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert execute(["report", str(tmp_path)]) == 2
    assert "expected a folder with run.json or report.json" in capsys.readouterr().err


def test_a_run_with_a_crash_ends_with_one(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial_module, "invert", lambda *_: 1 / 0)
    assert execute(["run", str(small()), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert "6, the first: ZeroDivisionError: division by zero (--retry-crashed runs them again)" in capsys.readouterr().out


@pytest.mark.timeout(600)
def test_ctrl_c_leaves_a_store_that_resumes(small: Small, tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under a shell's `&`: the process would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    path = small({"seeds = 3": "seeds = 400"})
    code = "import sys; from unbatch.cli import main; sys.argv[0] = 'unbatch'; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "run", str(path), "--out", str(tmp_path / "run")], stderr=subprocess.PIPE)
    file = tmp_path / "run" / TRIALS
    for _ in range(2000):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"the same command goes on from there" in told
    assert b"Traceback" not in told
    kept = load_run(tmp_path / "run")
    assert 0 < len(kept.records) < 1600
    assert not kept.torn
