"""``unbatch audit FOLDER``: one model, many clients, a process each, and one index page.

Every client is audited by the same command that a user would give for it alone, in a process of its own with one thread: what breaks one
does not touch the others, and what was done is not done again when the same command is given once more.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from unbatch.cli import shared
from unbatch.cli.again import Told, words
from unbatch.cli.app import DONE, INTERRUPTED, MISUSE, say
from unbatch.cli.output import Output, deliver
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.report.claims import Sheet
    from unbatch.report.index import ClientResult

__all__ = ["audit_all", "clients"]

ENDINGS: Final = (".safetensors", ".npz", ".pt", ".pth", ".bin")
"""Files that can be updates."""

RESULT: Final = "result.json"
"""A client's sheet, beside its report."""

OWN: Final = frozenset(("update", "updates", "out", "format", "truth", "client", "jobs", "exit-zero", "quiet", "verbose", "redact"))
"""Options that every client gets anew, or that are for all of them together."""


@dataclass(frozen=True)
class Task:
    """One client.

    Attributes:
        client: its name, that of its file.
        command: that audits it, as arguments after ``unbatch``.
        result: where its sheet is kept.
        report: path of its report from the index.
    """

    client: str
    command: tuple[str, ...]
    result: Path
    report: str


def clients(folder: Path) -> dict[str, Path]:
    """The updates of a folder by their clients' names, which are those of the files.

    Raises:
        Misuse: there is none, or two files are of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise Misuse(
                    "one update a client", f"{found[path.stem].name!r} and {path.name!r}", "give each client's file a name of its own"
                )
            found[path.stem] = path
    if not found:
        raise Misuse(f"updates in {str(folder)!r}, files ending in {', '.join(ENDINGS)}", "none", "give the folder of a round")
    return found


def audit_all(told: Told, folder: Path, truth: Path | None, output: Output, jobs: int) -> int:
    """Audit every update of a folder, and return the exit code of all together.

    Args:
        told: the options of the command.
        folder: of the updates.
        truth: a folder with a batch a client, of the same names; or None.
        output: where the result goes.
        jobs: clients at a time.
    """
    from unbatch import auditing, store
    from unbatch.origin import source
    from unbatch.report import index as pages

    updates = clients(folder)
    if truth is not None and not truth.is_dir():
        raise Misuse("a folder of truths with a folder of updates", repr(str(truth)), "name each like its client's update")
    if output.folder is not None:
        store.check_writable(output.folder, (pages.HTML, pages.JSON))
    origin = shared.origin_of("audit", told, {"weights": Path(str(told["weights"]))})
    with TemporaryDirectory(prefix="unbatch-") as scratch:
        place = output.folder or Path(scratch)
        tasks = [_task(told, name, path, truth, output, place) for name, path in updates.items()]
        shared.note(f"{len(tasks)} updates of {folder}, {jobs} at a time", output.quiet)
        done = _all(tasks, jobs, output)
    origin = origin.model_copy(update={"files": (*origin.files, *(source(f"update of {name}", path) for name, path in updates.items()))})
    results = tuple(result for result, _ in done)
    sheets = {result.client: sheet for result, sheet in done if sheet is not None}
    index = pages.Index(origin=origin, clients=results, environment=auditing.environment())
    code = pages.exit_code(index)
    code = DONE if output.exit_zero and code in (3, 4) else code
    sheet = pages.of_round(index, sheets)
    if output.folder is not None:
        output.say(shared.row("report", str(pages.write(index, sheet, output.folder))))
    output.say(shared.row("verdict", sheet.verdict))
    deliver(sheet, output, code)
    if code:
        say("; ".join(f"{result.client}: {result.verdict}" for result in results if result.exit_code == code) or sheet.verdict, code)
    return code


def _task(told: Told, client: str, update: Path, truth: Path | None, output: Output, place: Path) -> Task:
    options: Told = {name: value for name, value in told.items() if name not in OWN}
    options |= {"update": str(update), "client": client, "out": str(place / client)}
    if truth is not None:
        options["truth"] = str(_truth_of(truth, client))
    if output.redact:
        options["redact"] = True
    report = f"{client}/report.html" if output.folder is not None else ""
    return Task(client, words("audit", options)[1:], place / client / RESULT, report)


def _truth_of(folder: Path, client: str) -> Path:
    path = folder / f"{client}.npz"
    if not path.is_file():
        raise Misuse(f"a truth of every client, {str(path)!r} among them", "none", "add it, or leave out --truth")
    return path


def _all(tasks: Sequence[Task], jobs: int, output: Output) -> list[tuple[ClientResult, Sheet | None]]:
    """Every task's result, in their order."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = [pool.submit(_one, task) for task in tasks]
            done = []
            for task, future in zip(tasks, running, strict=True):
                result, sheet = future.result()
                shared.note(f"client {task.client}: {result.badge}: {result.verdict}", output.quiet)
                done.append((result, sheet))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            if output.folder is not None:
                shared.note(f"what is done lies in {output.folder}: the same command goes on from there", output.quiet)
            raise
    return done


def _one(task: Task) -> tuple[ClientResult, Sheet | None]:
    """Audit one client, unless that was done before with the same files."""
    from unbatch.report.index import ClientResult

    if (sheet := _done_before(task)) is None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        command = [sys.executable, "-m", "unbatch", "--isolated", *task.command, "--quiet", "--format", "json"]
        ran = subprocess.run(  # noqa: S603 -- our own program, without a shell
            command, capture_output=True, text=True, check=False, env={**os.environ, **threads}, stdin=subprocess.DEVNULL
        )
        if ran.returncode == INTERRUPTED:
            raise KeyboardInterrupt
        sheet = _read(ran.stdout)
        if sheet is None:
            lines = ran.stderr.strip().splitlines() or ["it ended without a word"]
            return ClientResult(client=task.client, exit_code=ran.returncode or MISUSE, verdict=lines[-1].removeprefix("unbatch: ")), None
        _keep(task, sheet)
    report = task.report if (task.result.parent / "report.html").is_file() else ""
    result = ClientResult(
        client=task.client, exit_code=sheet.exit_code, badge=sheet.badge, severity=sheet.severity, verdict=sheet.verdict, report=report
    )
    return result, sheet


def _keep(task: Task, sheet: Sheet) -> None:
    """The sheet beside the report, without what was recovered: that is in the report."""
    from unbatch import store

    text = sheet.model_copy(update={"detail": None}).model_dump_json(indent=2) + "\n"
    store.publish(task.result.parent, {task.result.name: text})


def _done_before(task: Task) -> Sheet | None:
    """The sheet of an earlier run of the very command on the very files; None if it must be run."""
    from unbatch.origin import source

    try:
        sheet = _read(task.result.read_text(encoding="utf-8"))
    except OSError:
        return None
    if sheet is None or sheet.exit_code not in (0, 3, 4) or _asked(sheet.origin.command[1:]) != _asked(task.command):
        return None
    options = dict(zip(task.command, task.command[1:], strict=False))
    paths = {role: Path(options[f"--{role}"]) for role in ("weights", "update", "truth", "labels") if f"--{role}" in options}
    paths |= {"model": Path(options["--model"].rpartition(":")[0])} if any(file.role == "model" for file in sheet.origin.files) else {}
    now = {role: source(role, path).sha256 for role, path in paths.items()}
    return sheet if now == {file.role: file.sha256 for file in sheet.origin.files} else None


def _asked(command: Sequence[str]) -> list[str]:
    """The command without its order, and without the format, which decides nothing."""
    pairs = [" ".join(pair) for pair in itertools.pairwise(command) if pair[0].startswith("--") and pair[0] != "--format"]
    flags = [word for word in command if word.startswith("--") and word != "--format"]
    return sorted(pairs + flags)


def _read(text: str) -> Sheet | None:
    from unbatch.report.claims import Sheet

    try:
        return Sheet.model_validate_json(text)
    except ValueError:
        return None
