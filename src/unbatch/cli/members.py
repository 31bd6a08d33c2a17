"""``unbatch members``: whether records that one has were in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import next_steps, shared
from unbatch.cli.again import told
from unbatch.cli.app import DONE, INCONCLUSIVE, LEAKED, app, echo, say
from unbatch.cli.captured import Captured, Mean, Std, TrainMode
from unbatch.cli.grouped import grouped
from unbatch.cli.output import Output, Reporting, deliver, new_leaks
from unbatch.cli.shared import Client, Device, Update
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.store.members import StoredMembers
    from unbatch.types import Membership

__all__ = ["members"]

Candidates = Annotated[Path, typer.Option(help="The records to ask for: npz with inputs or images, and labels where they are known.")]
Reference = Annotated[
    Path | None, typer.Option(help="Records of the same kind that were not in the batch, to measure what these leave; same format.")
]
BatchSize = Annotated[
    int | None, typer.Option(help="The number of samples; without it, read off a record that was there, or no record is called ABSENT.")
]
Noise = Annotated[float | None, typer.Option(help="Standard deviation of noise on every number of the update; estimated if not given.")]
FailOn = Annotated[str | None, typer.Option(help="present: end with exit code 3 if any record was in the batch, 4 if that is undecided.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for members.html and members.json; or a file ending in .json, .md, .sarif, .xml or .txt."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON instead of a table.")]


@app.command()
@grouped
def members(
    context: typer.Context,
    captured: Captured,
    reporting: Reporting,
    update: Update,
    candidates: Candidates,
    reference: Reference = None,
    batch_size: BatchSize = None,
    noise: Noise = None,
    mean: Mean = "",
    std: Std = "",
    train_mode: TrainMode = False,
    fail_on: FailOn = None,
    out: Out = None,
    json: Json = False,
    device: Device = "cpu",
    client: Client = "",
) -> None:
    """Tell for every given record whether it was in the client's batch, by the row spaces of the update.

    Ends with exit code 0 whatever the answers are. With --fail-on present it ends with 3 if any record is PRESENT, with 4 if none is but
    some are IN_SPAN or UNDECIDED, and with 0 only if all are ABSENT. With --baseline it fails only where that held no PRESENT record.
    """
    if fail_on not in (None, "present"):
        raise Misuse("--fail-on present", repr(fail_on), "name it, or leave it out")
    from unbatch import auditing, importers, membership, store
    from unbatch.report import members as page
    from unbatch.store.members import stored_members

    output = reporting.prepare(out)
    if output.folder is not None:
        store.check_writable(output.folder, (page.HTML, page.JSON))
    schema = shared.schema(captured.shape, mean, std)
    on = shared.device(device)
    observation = captured.observation(update, train_mode=train_mode, batch_size=batch_size, schema=schema, device=on)
    membership.check_readable(observation)
    files = {"weights": captured.weights, "update": update, "candidates": candidates, "reference": reference}
    origin = shared.origin_of("members", told(context), files, client or update.stem)
    origin = origin.model_copy(update={"next_steps": next_steps.after_members(told(context))})
    records, labels = importers.read_records(candidates, schema, captured.shape, observation.classes)
    others = None if reference is None else importers.read_records(reference, schema, captured.shape)[0]
    found = membership.members(observation, records, labels, reference=others, noise=noise)
    stored = stored_members(found, observation, auditing.environment(), origin)
    if json:
        echo(stored.model_dump_json(indent=2))
    elif output.speaks and not output.redact:
        _print(found)
    _end(found, stored, output, fail_on is not None, silent=json)


def _print(found: Membership, most: int = 20) -> None:
    from unbatch.types import Verdict

    echo(shared.row("records", found.summary()))
    for verdict in Verdict:
        which = [index for index, answer in enumerate(found.answers) if answer.verdict is verdict]
        if which:
            shown = ", ".join(map(str, which[:most])) + (f" and {len(which) - most:,} more" if len(which) > most else "")
            echo(shared.row(verdict.name, f"{verdict.value}: {shown}"))
            echo(shared.row("", f"for example {which[0]}: {found.answers[which[0]].reason}"))
    for remark in found.remarks:
        echo(shared.row("note", remark))
    if found.layer:
        echo(
            shared.row(
                "asked", f"{found.layer}, {found.rank} of {found.size} directions, and {', '.join(found.inner) or 'no layer'} behind"
            )
        )
    else:
        echo(
            shared.row(
                "next", "`unbatch exposure` with the same model and shape says what each layer gives away, and up to which batch size"
            )
        )


def _end(found: Membership, stored: StoredMembers, output: Output, gated: bool, *, silent: bool) -> None:
    """Write the page, print the result in its format, and end with its exit code."""
    from unbatch.report import members as page

    stored = stored.redacted() if output.redact else stored
    sheet = page.of_members(stored)
    new = new_leaks(sheet, output)
    gate, sentence, code = _gate(found, gated, bool(new), output)
    if output.folder is not None:
        written = page.write(stored, output.folder)
        if not silent:
            output.say(f"report   {written}")
    if not silent:
        deliver(sheet, output, code)
    if gate and not silent:
        output.say(shared.row("gate", gate))
    if sentence:
        say(sentence, code)
    if code:
        raise typer.Exit(code)


def _gate(found: Membership, gated: bool, new: bool, output: Output) -> tuple[str, str, int]:
    """What becomes of ``--fail-on`` and ``--baseline``: a line for the screen, a sentence, and the exit code."""
    from unbatch.types import Verdict

    present = found.count(Verdict.PRESENT)
    open_ = found.count(Verdict.IN_SPAN) + found.count(Verdict.UNDECIDED)
    leaks = f"{present} of the records were in the batch"
    if present and (new or (gated and not output.baseline)):
        return "leaked", leaks, DONE if output.exit_zero else LEAKED
    if not gated:
        return "", "", DONE
    if present:
        return f"nothing new: {leaks}, as the baseline says", "", DONE
    if open_:
        told = f"inconclusive: of {open_} records the update does not tell whether they were in the batch"
        return "inconclusive", told, DONE if output.exit_zero else INCONCLUSIVE
    return "clean: none of the records was in the batch", "", DONE
