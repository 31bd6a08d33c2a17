"""``unbatch run`` and ``unbatch report``: a plan of many trials, and the page that is drawn from what they left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.app import DONE, FAILED, app, echo, say
from unbatch.cli.output import Quiet
from unbatch.errors import BadFile, Misuse

if TYPE_CHECKING:
    from unbatch.experiments import Plan, Tally, Trial
    from unbatch.store.trials import TrialRecord

__all__ = ["report", "run"]

PlanFile = Annotated[Path, typer.Argument(help="A TOML file whose lists multiply; see docs/experiments.md.")]
RunOut = Annotated[Path | None, typer.Option(help="Folder of the trials; a run that was broken off is taken up there.")]
ExecutorName = Annotated[str, typer.Option(help="serial, processes (of this machine) or ray (a cluster; needs the extra `ray`).")]
Workers = Annotated[int | None, typer.Option(help="Trials at the same time; all cores, or all of the cluster, if left out.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster: HOST:PORT, ray://HOST:PORT or auto; a new one here if left out.")]
Reduced = Annotated[bool, typer.Option("--reduced", help="Take what the plan's table reduced says: a run for a laptop.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in TOML, for all grids of the plan; may be repeated.")]
Most = Annotated[int, typer.Option(help="Trials that the plan may have.", min=1)]

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


@app.command()
def run(
    plan: PlanFile,
    out: RunOut = None,
    executor: ExecutorName = "serial",
    workers: Workers = None,
    address: Address = None,
    reduced: Reduced = False,
    override: Overrides = None,
    most: Most = 100_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the trials and estimate their time; run and write nothing.")] = False,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Run trials that crashed again.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run all trials of a plan that are not yet in the folder.

    Killed or interrupted at any moment, the same command goes on where it was. Ends with exit code 1 if a trial crashed.
    """
    from unbatch import experiments
    from unbatch.experiments.executors import executor as named
    from unbatch.store.trials import TrialStore

    wanted = experiments.load_plan(plan, reduced=reduced, overrides=override or (), most=most)
    trials = wanted.trials()
    if dry_run:
        _count(wanted, trials, out, workers or 1)
        return
    if out is None:
        raise Misuse("--out with a folder for the trials", "none", "name one, or ask --dry-run what there is to run")
    pool = named(executor, workers, address)
    with TrialStore(out, wanted.header(len(trials))) as store:
        _told_of_others(store.records, trials, quiet)
        try:
            with _progress(quiet) as tell:
                tally = experiments.execute_plan(trials, store, pool, tell, retry_crashed=retry_crashed)
        except KeyboardInterrupt:
            say(f"{len(store.records)} trials are kept in {out}: the same command goes on from there", DONE)
            raise
        records = [store.records[trial.id] for trial in trials]
    _print_end(records, tally, out)
    if any(record.outcome == "crashed" for record in records):
        raise typer.Exit(FAILED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The --out of `unbatch run`, or of `unbatch audit` or `demo`.")]) -> None:
    """Draw the page of a run, with CSV and JSON beside it; or the page of a stored audit again."""
    from unbatch import store
    from unbatch.report import html, runs
    from unbatch.store.trials import HEADER

    if (folder / HEADER).exists():
        written = runs.write(folder)
    elif (folder / store.REPORT).exists():
        written = html.write(folder)
    else:
        advice = "name the --out of `unbatch run` or `unbatch audit`; of a round with many clients, the folder of one of them in it"
        raise BadFile(f"a folder with {HEADER} or {store.REPORT}", repr(str(folder)), advice)
    echo(shared.row("report", str(written)))


def _count(plan: Plan, trials: list[Trial], out: Path | None, workers: int) -> None:
    """What a run would do."""
    from unbatch.experiments.running import budget, forecast
    from unbatch.store.trials import HEADER, load_run

    records = {record.id: record for record in load_run(out).records} if out is not None and (out / HEADER).exists() else {}
    missing = [trial for trial in trials if trial.id not in records]
    lists = [" x ".join(f"{count} {name}" for name, count in grid.counts.items() if count > 1) or "one trial" for grid in plan.grids]
    echo(shared.row("plan", plan.title or plan.name))
    for text in lists:
        echo(shared.row("grid", text))
    echo(shared.row("trials", f"{len(trials):,}, of which {len(trials) - len(missing):,} are done"))
    left, most = forecast(missing, list(records.values()), workers), budget(missing)
    if left is not None:
        echo(shared.row("time", f"about {_duration(left)} with {workers} at a time, by the trials that are done"))
    else:
        echo(shared.row("time", "unknown before the first trial is done"))
    if most:
        echo(shared.row("at most", f"{_duration(most / workers)} with {workers} at a time, by the attacks' own budgets"))


def _told_of_others(records: dict[str, TrialRecord], trials: list[Trial], quiet: bool) -> None:
    others = len(records.keys() - {trial.id for trial in trials})
    if others:
        shared.note(f"{others} trials there are of another version of the code or the data: they are kept, and not counted", quiet)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Tally], None]]:
    """A bar on a terminal, a line every few seconds elsewhere."""
    with shared.progress(quiet) as bar:
        last = -math.inf

        def tell(tally: Tally) -> None:
            nonlocal last
            left = tally.left()
            rest = "" if left is None or tally.done == tally.total else f", about {_duration(left)} left"
            text = f"{tally.done} of {tally.total} trials, {tally.summary()}{rest}"
            bar(text, tally.done / max(1, tally.total))
            if not _on_terminal() and (time.monotonic() - last > EVERY or tally.done == tally.total):
                last = time.monotonic()
                shared.note(text, quiet)

        yield tell


def _on_terminal() -> bool:
    from rich.console import Console

    return Console(stderr=True).is_terminal


def _print_end(records: list[TrialRecord], tally: Tally, out: Path) -> None:
    counts: dict[str, int] = {}
    for record in records:
        name = record.status if record.outcome == "done" else record.outcome
        counts[name] = counts.get(name, 0) + 1
    echo(shared.row("trials", f"{len(records):,}, {tally.ended:,} of them now"))
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        echo(f"  {count:>6,}  {name}")
    for outcome, advice in (("crashed", "--retry-crashed runs them again"), ("refused", "the plan asks for what cannot be")):
        reasons = [record.reason for record in records if record.outcome == outcome]
        if reasons:
            echo(shared.row(outcome, f"{len(reasons)}, the first: {reasons[0]} ({advice})"))
    echo(shared.row("next", f"unbatch report {out}"))


def _duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> _duration(4.2), _duration(90), _duration(7300)
        ('5 s', '2 min', '2 h 2 min')
    """
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
