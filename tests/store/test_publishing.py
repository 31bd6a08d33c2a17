"""Killed, failed and interrupted at every step that reaches the disk, and several writers at once: always one whole report or none.

A child process is forked and counts what it does to the disk with an audit hook, which ends it before step 1, 2, 3, ... until none does.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spoiled import Round
from unbatch import store
from unbatch.errors import BadFile, OutputFailed
from unbatch.report import html
from unbatch.store.publishing import publish
from unbatch.types import Batch, Finding, Knowledge, Reconstruction, Schema, Status

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.listdir", "os.scandir", "shutil.rmtree", "fcntl.flock"}
NAMES = {"report.html", "report.json", "tensors.safetensors"}
Event = Callable[[], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk need not keep up: no power fails here."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def finding(run: int, side: int = 2) -> Finding:
    """One whose every number is the run's."""
    inputs = torch.full((2, 1, side, side), float(run), dtype=torch.float64)
    made = Reconstruction(Status.RECONSTRUCTED, inputs, torch.tensor([run, run]), float(run), f"run {run}.")
    return Finding(
        made, Knowledge(), Schema("image"), (1, side, side), seed=run, seconds=1.0, truth=Batch(inputs, torch.tensor([run, run]))
    )


def save(run: int, folder: Path, side: int = 2) -> None:
    store.save(finding(run, side), folder, html.render)


def in_child(work: Callable[[], object], place: Path, at: int, event: Event, *, nowhere_else: bool = False) -> int:
    """How a child ends that does this work and meets the event before the step of this number.

    Args:
        work: to do.
        place: where the first step is that counts.
        at: the number.
        event: what happens.
        nowhere_else: whether only steps in that place count.

    Returns:
        0 done, 1 refused or interrupted, 2 done and there is no step of this number, −9 killed.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, count = 7, 0

    def hook(name: str, about: tuple[Any, ...]) -> None:
        nonlocal count
        if name in STEPS and ((count and not nowhere_else) or str(about[0]).startswith(str(place))):
            count += 1
            if count == at:
                event()

    try:
        sys.addaudithook(hook)
        work()
        code = 0 if count >= at else 2
    except (OutputFailed, KeyboardInterrupt):
        code = 1
    finally:
        os._exit(code)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise OSError(28, "No space left on device")


def interrupt() -> None:
    raise KeyboardInterrupt


def steps(work: Callable[[], object], place: Path, event: Event, before: Callable[[], object]) -> Iterator[int]:
    """Let a child meet the event at every step there is; its number each time."""
    for at in range(1, 1000):
        before()
        if (code := in_child(work, place, at, event)) == 2:
            assert at > 15, "too few steps are seen"
            return
        assert code in (0, 1, -signal.SIGKILL)
        yield at
    raise AssertionError("there is no end of steps")


def runs_in(folder: Path) -> set[int]:
    """The runs of which files lie beside a report, read as they lie there; where there is no report yet, nobody looks at the rest."""
    if not (folder / "report.json").exists():
        return set()
    tensors = set(load_file(folder / "tensors.safetensors")["inputs"].unique().tolist())
    page = {int(run) for run in re.findall(r"run (\d+)\.", (folder / "report.html").read_text())}
    return {json.loads((folder / "report.json").read_text())["seed"]} | tensors | page


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".unbatch")]


def check(folder: Path, old: int | None, new: int) -> None:
    """One whole report: the old or the new, as it lies, as it is read, and after the next run, which leaves nothing else behind."""
    assert len(runs_in(folder)) <= 1
    if old is not None or (folder / "report.json").exists():
        stored, tensors = store.load(folder)
        assert stored.seed in (old, new)
        assert set(tensors["inputs"].unique().tolist()) == {stored.seed}
    store.check_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        assert old is None
        return
    assert hidden(folder) == []
    assert runs_in(folder) in ({old}, {new})
    assert {path.name for path in folder.iterdir()} == NAMES


@pytest.mark.parametrize("event", [kill, fail, interrupt])
def test_a_new_report_is_whole_or_absent_at_every_step(tmp_path: Path, event: Event) -> None:
    folder = tmp_path / "a" / "b"

    def clear() -> None:
        for path in [*folder.glob("*"), folder, folder.parent]:
            (path.rmdir if path.is_dir() else lambda path=path: path.unlink(missing_ok=True))() if path.exists() else None

    seen = set()
    for _ in steps(lambda: save(5, folder), tmp_path, event, clear):
        check(folder, None, 5)
        seen.add((folder / "report.json").exists())
    assert seen == {True, False}


@pytest.mark.parametrize("event", [kill, fail, interrupt])
def test_the_old_report_stays_until_the_new_one_is_whole(tmp_path: Path, event: Event) -> None:
    seen = set()
    for _ in steps(lambda: save(5, tmp_path), tmp_path, event, lambda: save(4, tmp_path)):
        check(tmp_path, 4, 5)
        seen |= runs_in(tmp_path)
    assert seen == {4, 5}


def test_killed_twice_it_recovers_all_the_same(tmp_path: Path) -> None:
    for first in steps(lambda: save(5, tmp_path), tmp_path, kill, lambda: save(4, tmp_path)):
        if first % 3 == 0:
            for second in range(1, 40, 2):
                in_child(lambda: store.check_writable(tmp_path), tmp_path, second, kill)
            check(tmp_path, 4, 5)


def test_a_page_is_removed_with_its_report_at_every_step(tmp_path: Path) -> None:
    """``save`` without a page: no step leaves the old page beside the new report."""
    for _ in steps(lambda: store.save(finding(5), tmp_path), tmp_path, kill, lambda: save(4, tmp_path)):
        if (tmp_path / "report.json").exists():
            new = json.loads((tmp_path / "report.json").read_text())["seed"] == 5
            assert (tmp_path / "report.html").exists() != new
        store.check_writable(tmp_path)
        assert hidden(tmp_path) == []


def test_killed_at_any_instant_of_writing(tmp_path: Path) -> None:
    """By the clock, so that the middle of a file is met too."""
    dice = random.Random(0)  # noqa: S311  (a die for tests)
    save(0, tmp_path, 1000)
    for run in range(1, 31):
        child = os.fork()
        if not child:
            try:
                save(run, tmp_path, 1000)
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stored, tensors = store.load(tmp_path)
        assert set(tensors["inputs"].unique().tolist()) == {stored.seed}
        assert f"run {stored.seed}." in (tmp_path / "report.html").read_text()
        assert hidden(tmp_path) == []


def test_an_audit_that_is_killed_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """The whole command line, killed before every fourth step that it takes in the output folder; then an audit that goes wrong at once."""
    played = Round(tmp_path)
    place = played.out / "nested"
    played.out = place
    for at in range(1, 200, 4):
        ended = in_child(played.audit, place, at, kill, nowhere_else=True)
        assert played.audit("--batch-size=0") == 2
        assert hidden(tmp_path) == []
        if place.exists() and any(place.iterdir()):
            assert {path.name for path in place.iterdir()} == NAMES
            assert store.load(place)[0].status == "RECONSTRUCTED"
        if ended == 2:
            assert at > 15
            return
        assert ended == -signal.SIGKILL
    raise AssertionError("there is no end of steps")


def test_two_writers_never_mix(tmp_path: Path) -> None:
    def write_on(runs: range) -> None:
        for run in runs:
            save(run, tmp_path)

    save(0, tmp_path)
    seen, alive = set(), set()
    for first in (1, 1001):
        if not (child := os.fork()):
            try:
                write_on(range(first, first + 15))
            finally:
                os._exit(0)
        alive.add(child)
    while alive:
        stored, tensors = store.load(tmp_path)
        assert set(tensors["inputs"].unique().tolist()) == {stored.seed}
        seen.add(stored.seed > 1000)
        alive -= {child for child in alive if os.waitpid(child, os.WNOHANG)[0]}
    assert seen == {True, False}
    assert runs_in(tmp_path) in ({15}, {1015})
    assert hidden(tmp_path) == []


def test_a_writer_waits_for_another_and_says_when_it_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, done = os.pipe()
    child = os.fork()
    if not child:

        def slow(path: Path) -> None:
            path.write_text("slow")
            os.write(done, b".")
            time.sleep(1.5)

        try:
            publish(tmp_path, {"a": slow})
        finally:
            os._exit(0)
    os.read(ready, 1)
    monkeypatch.setattr("unbatch.store.publishing.PATIENCE", 0.2)
    with pytest.raises(OutputFailed, match="another process is writing there"):
        publish(tmp_path, {"a": lambda path: path.write_text("quick")})
    monkeypatch.setattr("unbatch.store.publishing.PATIENCE", 60.0)
    publish(tmp_path, {"a": lambda path: path.write_text("quick")})
    assert (tmp_path / "a").read_text() == "quick"
    os.waitpid(child, 0)
    assert (tmp_path / "a").read_text() == "quick"


def test_what_is_written_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        modes: list[int] = []
        save(1, tmp_path / "a" / "b")
        publish(tmp_path / "c", {"d": lambda path: (path.write_text("d"), modes.append(path.parent.stat().st_mode))})
        html.write(tmp_path / "a" / "b")
        tmp_path.chmod(0o755)
        save(2, tmp_path)
    finally:
        os.umask(old)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(modes[0]) == 0o700, "half-written, too"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755, "a folder that was there is left as it is"


def test_leftovers_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a place like /tmp anyone could make a folder that looks like ours, and have us move or remove what is not theirs."""
    (tmp_path / ".unbatch-whole").mkdir()
    (tmp_path / ".unbatch-whole" / "mine.txt.unbatch-gone").touch()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".unbatch-new-link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    real = Path.stat

    def owned_by_others(path: Path, **how: Any) -> Any:
        found = real(path, **how)
        return os.stat_result((*found[:4], 54321 if path.name.startswith(".unbatch-") else 0, *found[5:]))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", owned_by_others)
        with pytest.raises(OutputFailed):
            save(1, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / ".unbatch-new-link").is_symlink()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_reader_who_may_not_write_reads_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(1, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unbatch.store.publishing._lock", refuse)
    assert store.load(tmp_path)[0].seed == 1
    (tmp_path / ".unbatch-whole").mkdir()
    with pytest.raises(BadFile, match="a part is still in"):
        store.load(tmp_path)


def test_leftovers_of_former_versions_are_removed(tmp_path: Path) -> None:
    save(1, tmp_path)
    (tmp_path / ".unbatch-abc123").mkdir()
    (tmp_path / ".unbatch-abc123" / "tensors.safetensors").write_bytes(b"private")
    store.check_writable(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == NAMES
