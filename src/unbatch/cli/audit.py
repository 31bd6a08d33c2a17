"""``unbatch audit``: attack a captured update."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import gate, many, next_steps, shared
from unbatch.cli.again import told
from unbatch.cli.app import FAILED, MISUSE, app, say
from unbatch.cli.captured import Captured, Mean, Std, TrainMode
from unbatch.cli.grouped import grouped
from unbatch.cli.output import Output, Reporting
from unbatch.cli.shared import AttackSpec, Client, Device, Out, Seed
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.origin import Origin
    from unbatch.types import Finding, Schema

__all__ = ["audit"]


Truth = Annotated[Path | None, typer.Option(help="The client's batch, to score against: npz with inputs or images, and labels.")]
FailOn = Annotated[
    list[str] | None, typer.Option(help="End with exit code 3 on exact, labels, tokens or psnr:DECIBELS; several with commas between.")
]
Inconclusive = Annotated[
    str | None, typer.Option(help="What --fail-on does where the audit could not tell: fail (exit code 4, if not given) or pass.")
]
BatchSize = Annotated[int | None, typer.Option(help="Tell the attack the number of samples.")]
Labels = Annotated[Path | None, typer.Option(help="Tell the attack the labels: npz with labels.")]
SchemaFile = Annotated[
    Path | None, typer.Option("--schema", help="TOML or JSON that says what a row of a table holds; see `unbatch describe table`.")
]
UpdateOr = Annotated[
    Path | None,
    typer.Option(
        "--update", help="What the client sent, by name or in the order of state_dict(); same formats; or a folder of such files."
    ),
]
Updates = Annotated[
    Path | None,
    typer.Argument(
        help="The same as --update; a folder is a round: one update a client. Given again, it goes on where it was, if --out is a folder."
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", help="Clients of a folder that are audited at a time, a process and a thread each.", min=1)
]


@app.command()
@grouped
def audit(
    context: typer.Context,
    captured: Captured,
    reporting: Reporting,
    update: UpdateOr = None,
    updates: Updates = None,
    out: Out = Path("unbatch-report"),
    attack: AttackSpec = "auto",
    truth: Truth = None,
    fail_on: FailOn = None,
    inconclusive: Inconclusive = None,
    batch_size: BatchSize = None,
    labels: Labels = None,
    mean: Mean = "",
    std: Std = "",
    schema_file: SchemaFile = None,
    train_mode: TrainMode = False,
    seed: Seed = 0,
    device: Device = "cpu",
    client: Client = "",
    jobs: Jobs = 1,
) -> None:
    """Attack a captured update, or every update of a folder, and score the result where the truth is known.

    Ends with exit code 0 whatever the verdict is, with 1 if the attack broke down and with 2 if it does not apply. With --fail-on it ends
    with 3 if the update gives away what that names, with 4 if the audit could not tell, and with 0 only if it could and the update does
    not. With --baseline it fails only on what is not proved in there already.
    """
    from unbatch import importers, store

    update = _one_of(update, updates)
    output = reporting.prepare(out)
    if update.is_dir():
        raise typer.Exit(many.audit_all(told(context), update, truth, output, jobs))
    fail_on = fail_on or (["exact", "labels", "tokens"] if reporting.baseline is not None else [])
    limits = gate.parse(fail_on, truth_known=truth is not None, labels_told=labels is not None)
    passes = _passes(inconclusive, fail_on)
    if output.folder is not None:
        store.check_writable(output.folder)
    shared.note(f"update {update}, model {captured.model}, attack {attack}", output.quiet)
    files = {"weights": captured.weights, "update": update, "truth": truth, "labels": labels, "schema": schema_file}
    origin = shared.origin_of("audit", told(context), files, client or update.stem)
    schema = shared.schema(captured.shape, mean, std) if schema_file is None else _schema(schema_file, mean + std)
    known = {"batch_size": batch_size, "labels": None if labels is None else importers.read_labels(labels), "schema": schema}
    observation = captured.observation(update, train_mode=train_mode, device=shared.device(device), **known)
    shared.check_loss(observation)
    batch = None if truth is None else shared.truth_of(observation, truth)
    finding = shared.attacked(observation, batch, attack, seed, output.quiet)
    origin = origin.model_copy(update={"next_steps": next_steps.after_audit(told(context), finding, observation)})
    claims = shared.claims_of(finding, origin) if output.known else ()
    left = gate.without(limits, claims, output.known)
    _end(finding, left, bool(fail_on), passes, output, origin, spared=left != limits)


def _one_of(update: Path | None, updates: Path | None) -> Path:
    """The update, by option or by argument."""
    if (update is None) == (updates is None):
        raise Misuse("one update, or one folder of them", "none" if update is None else "two", "name it with --update")
    found = update or updates
    assert found is not None  # noqa: S101 -- for the type checker: one of them is there
    return found


def _schema(path: Path, normalization: str) -> Schema:
    """As the file says."""
    from unbatch import importers

    if normalization:
        raise Misuse("--schema, or --mean and --std", "both", "write mean and std into the file")
    return importers.read_schema(path)


def _passes(inconclusive: str | None, fail_on: list[str] | None) -> bool:
    """Whether what the audit could not tell lets a pipeline go on."""
    if inconclusive not in (None, "pass", "fail"):
        raise Misuse("--inconclusive pass or fail", repr(inconclusive), "name one of them")
    if inconclusive is not None and not fail_on:
        raise Misuse("--fail-on with --inconclusive", "none", "name what must not be given away")
    return inconclusive == "pass"


def _end(finding: Finding, limits: gate.Limits, gated: bool, passes: bool, output: Output, origin: Origin, *, spared: bool) -> None:
    """Write the report, say what became of ``--fail-on``, and end with its exit code."""
    answers = gate.judge(limits, finding)
    status, attack = finding.reconstruction.status.name, finding.reconstruction.attack.partition(":")[0]
    named = any(lookup.proved for lookup in finding.lookups)
    if status == "NOT_APPLICABLE" and not named and not answers.leaks and (answers.open or not gated) and not passes:
        if not output.speaks or output.file is not None:  # a program reads it: that nothing was measured is a result too
            shared.deliver_audit(finding, output, origin, MISUSE)
        shared.check_applies(finding, attack, None if output.quiet else origin)
    ending = gate.ending(answers, gated, passes, output.exit_zero, spared=spared)
    code = ending.code
    if not gated and status == "BROKE_DOWN":
        code = FAILED
    shared.write_report(finding, output, origin, code)
    if ending.row:
        output.say(shared.row("gate", ending.row))
    if code == FAILED:
        say(f"{attack} broke down: {finding.reconstruction.reason or 'see the report'}", FAILED)
    elif ending.sentence:
        say(ending.sentence, code)
    if code:
        raise typer.Exit(code)
