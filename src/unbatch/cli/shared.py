"""What several commands have in common: their options, what these mean, and how a result is printed."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unbatch.cli.again import Told, words
from unbatch.cli.app import DONE, MISUSE, echo, say
from unbatch.cli.output import Output, deliver
from unbatch.errors import Misuse, printable

if TYPE_CHECKING:
    from unbatch.origin import Origin
    from unbatch.report.claims import Claim
    from unbatch.types import Batch, Finding, Observation, Progress, Schema

__all__ = [
    "AttackSpec",
    "Client",
    "Device",
    "InputShape",
    "Loss",
    "Model",
    "Out",
    "Seed",
    "Update",
    "Weights",
    "attacked",
    "check_applies",
    "check_loss",
    "claims_of",
    "deliver_audit",
    "device",
    "note",
    "numbers",
    "origin_of",
    "progress",
    "row",
    "say_next",
    "schema",
    "truth_of",
    "write_report",
]

EXACT = 100
"""Decibels from which the eye has nothing left to see: then that it is exact, or not, is all there is to say."""

Model = Annotated[str, typer.Option(help="FILE.py:FACTORY or PACKAGE.MODULE:FACTORY. This code is run: give only your own.")]
Weights = Annotated[Path, typer.Option(help="The broadcast weights: safetensors, npz, or a torch file of plain tensors.")]
Update = Annotated[Path, typer.Option(help="What the client sent, by name or in the order of state_dict(); same formats.")]
InputShape = Annotated[str, typer.Option(help="Shape of one sample, without the batch: 3,32,32.")]
Loss = Annotated[
    str,
    typer.Option(
        help="The client's loss: cross_entropy, nll, mse or bce (one-hot, or one score); cross_entropy:label_smoothing=0.1,weight=1|2|3;"
        " or FILE.py:FUNCTION of your own, (outputs, labels) to the mean, which is run."
    ),
]
Client = Annotated[str, typer.Option(help="Whose update it is; the name of its file if not given.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Folder for report.html, report.json and the tensors; made if it is missing. Or, if it ends in .json, .md, .sarif, .xml or"
        " .txt, a file for the result alone.",
    ),
]
AttackSpec = Annotated[
    str, typer.Option("--attack", help="NAME or NAME:FIELD=VALUE,FIELD=VALUE; auto tries them in order; see `unbatch list attacks`.")
]
Seed = Annotated[int, typer.Option(help="Of all randomness.", min=0, max=2**63 - 1)]
Device = Annotated[str, typer.Option(help="Where the attack runs: cpu, cuda, cuda:1, ...")]


def schema(shape: tuple[int, ...], mean: str, std: str) -> Schema | None:
    """How to read an input, if the user says so; both or none, one number a channel."""
    if not mean and not std:
        return None
    from dataclasses import replace

    from unbatch.types import Schema

    means, stds = numbers(mean, float, "a mean for each channel"), numbers(std, float, "a deviation for each channel")
    if not len(means) == len(stds) == shape[0] or not all(value > 0 for value in stds):
        raise Misuse(f"--mean and --std with {shape[0]} numbers each, deviations above zero", f"{mean!r} and {std!r}", "give one a channel")
    return replace(Schema.guess(shape), mean=means, std=stds)


def numbers(text: str, kind: type[Any], expected: str) -> tuple[Any, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise Misuse(expected, repr(text), "write numbers with commas between them and no spaces") from error


def device(name: str) -> str:
    """The same name, if torch can use it here."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Misuse("a device that torch can use here", repr(name), "give cpu, or install a torch with support for it") from error
    return name


def check_loss(observation: Observation) -> None:
    """Refuse a loss that cannot be this model's."""
    if observation.classes == 1:
        raise Misuse(
            "--loss bce (yes or no) or --loss mse (any regression) for a model that gives one score a sample",
            f"{observation.knowledge.loss}, whose gradient is zero there",
            "say which",
        )


def truth_of(observation: Observation, path: Path) -> Batch:
    """The client's batch; of a regression with the sides of its targets for labels, of several scores without any."""
    from unbatch import importers, scores

    regression = observation.model if observation.loss is scores.mse else None
    targets = observation.loss in ("mse", "bce")
    return importers.read_truth(path, observation.schema, observation.input_shape, observation.classes, regression, targets=targets)


def attacked(observation: Observation, truth: Batch | None, attack: str, seed: int, quiet: bool) -> Finding:
    """Attack, and score where the truth is known, with a bar on the terminal."""
    from unbatch import auditing

    with progress(quiet) as tell:
        return auditing.audit(observation, truth, attack=attack, seed=seed, progress=tell)


def check_applies(finding: Finding, attack: str, origin: Origin | None = None) -> None:
    """End with exit code 2 if the attack did not apply, with what to run instead."""
    if finding.reconstruction.status.name == "NOT_APPLICABLE" and not any(lookup.proved for lookup in finding.lookups):
        if origin is not None:
            say_next(origin)
        raise typer.Exit(say(f"{attack} does not apply to this update: {finding.reconstruction.reason}", MISUSE))


def say_next(origin: Origin) -> None:
    """What to run instead, on stderr, before a command ends that did not apply."""
    for step in origin.next_steps:
        for line in (f"next     {step.why}", f"         {shlex.join(step.command)}" if step.command else ""):
            if line:
                typer.echo(printable(line), err=True)


def write_report(finding: Finding, output: Output, origin: Origin, exit_code: int = 0) -> None:
    """Write the report's files, and print the result or write it in its format."""
    from unbatch import store
    from unbatch.report import html

    if output.folder is not None:
        store.save(finding, output.folder, html.render, origin=origin, redact=output.redact)
    if output.speaks:
        _print_result(finding, None if output.folder is None else output.folder / store.HTML)
    deliver_audit(finding, output, origin, exit_code)


def claims_of(finding: Finding, origin: Origin) -> tuple[Claim, ...]:
    """The claims of an audit."""
    from unbatch import store
    from unbatch.report.audits import of_audit

    return of_audit(store.stored_finding(finding, origin)).claims


def deliver_audit(finding: Finding, output: Output, origin: Origin, exit_code: int) -> None:
    """Print or write the result of an audit in its format."""
    from unbatch import store
    from unbatch.report.audits import of_audit

    deliver(of_audit(store.stored_finding(finding, origin, redact=output.redact)), output, exit_code)


def origin_of(command: str, told: Told, files: dict[str, Path | None], client: str = "") -> Origin:
    """Where a result comes from, hashed before the work: a file may change while it goes on.

    Args:
        command: its name.
        told: its options.
        files: role -> path, or None for one that was not given; the folder of a model's code is left out.
        client: whose update it is, or empty.
    """
    from unbatch.origin import Origin, now, source

    model = str(told.get("model", ""))
    code = Path(model.rpartition(":")[0])
    given = {"model": code if code.suffix == ".py" and code.is_file() else None, **files}
    sources = tuple(source(role, path) for role, path in given.items() if path is not None)
    return Origin(date=now(), command=words(command, told), files=sources, client=client, model=model)


def _print_result(finding: Finding, page: Path | None) -> None:
    found = finding.reconstruction
    rows = [("status", f"{found.status.name}: {found.status.value}"), ("verdict", finding.verdict)]
    if found.reason:
        rows.append(("reason", found.reason))
    if finding.truth is not None:
        total = len(finding.truth)
        rows.append(("exact", f"{sum(finding.exact)} of {total} sample{'s' * (total != 1)}"))
        near = [value for value in finding.scores.get("psnr", ()) if not math.isnan(value)]
        if near and (middle := statistics.median_low(near)) < EXACT:
            rows.append(("near", f"{middle:.1f} dB in the median; above 35 dB hardly an eye sees a difference"))
        if finding.labels_right and found.labels is not None and found.approximate is None:  # what nothing proves has no label
            rows.append(("labels", f"{sum(finding.labels_right)} of {total} right"))
    tokens = [("tokens", lookup.summary()) for lookup in finding.lookups]
    # What was proved is said before what could not be tried.
    read_only = found.status.name == "NOT_APPLICABLE" and any(lookup.proved for lookup in finding.lookups)
    rows = [*tokens, *rows] if read_only else [*rows, *tokens]
    if page is not None:
        rows.append(("report", str(page)))
    for name, text in rows:
        echo(row(name, text))


def row(name: str, text: str) -> str:
    """One line of a result."""
    return f"{name:<8} {' '.join(text.split())}"


def note(text: str, quiet: bool) -> None:
    """Say on stderr what is about to be done."""
    if not quiet:
        say(text, DONE)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr while the block runs; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(message: str, done: float) -> None:
            message = printable(message)
            if math.isnan(done):
                bar.update(task, description=message)
            else:
                bar.update(task, description=message, total=1.0, completed=done)

        yield tell
