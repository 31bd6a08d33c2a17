"""``unbatch labels``: how many samples of each class a batch held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import next_steps, shared
from unbatch.cli.again import told
from unbatch.cli.app import MISUSE, app, echo, say
from unbatch.cli.captured import Captured
from unbatch.cli.grouped import grouped
from unbatch.cli.output import Output, Reporting, deliver, finish
from unbatch.cli.shared import Client, Seed, Update
from unbatch.errors import Misuse, printable
from unbatch.reading import read_text

if TYPE_CHECKING:
    from unbatch.store.counts import StoredLabels
    from unbatch.types import Counts, Observation

__all__ = ["labels"]

BatchSize = Annotated[
    int | None, typer.Option(help="The number of samples; without it, counts only where the update shows how many there are.")
]
RestorerSpec = Annotated[str, typer.Option(help="NAME or NAME:FIELD=VALUE,FIELD=VALUE; see `unbatch list labels`.")]
AttackFirst = Annotated[
    str, typer.Option(help="Take the labels of samples that this attack proves; auto: where its counts are not determined; none.")
]
ClassNames = Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for labels.html and labels.json; or a file ending in .json, .md, .sarif, .xml or .txt."),
]


@app.command()
@grouped
def labels(
    context: typer.Context,
    captured: Captured,
    reporting: Reporting,
    update: Update,
    batch_size: BatchSize = None,
    restorer: RestorerSpec = "anchored",
    attack: AttackFirst = "auto",
    class_names: ClassNames = None,
    out: Out = None,
    seed: Seed = 0,
    client: Client = "",
) -> None:
    """Tell from a captured update how many samples of each class the client's batch held.

    Ends with exit code 2 if the restorer does not apply, and with --baseline with 3 if the counts are proved and were not so in there.
    """
    from unbatch import auditing, restoring, store
    from unbatch.report import counts as page
    from unbatch.store.counts import stored_labels

    output = reporting.prepare(out)
    if output.folder is not None:
        store.check_writable(output.folder, (page.HTML, page.JSON))
    origin = shared.origin_of("labels", told(context), {"weights": captured.weights, "update": update}, client or update.stem)
    observation = captured.observation(update, batch_size=batch_size)
    observation = observation if class_names is None else _named(observation, class_names)
    found = restoring.restore_labels(observation, restorer, seed, None if attack == "none" else attack)
    origin = origin.model_copy(update={"next_steps": next_steps.after_labels(told(context), found, observation)})
    stored = stored_labels(found, observation, seed, auditing.environment(), origin)
    if found.presence is None:
        if not output.speaks or output.file is not None:
            deliver(page.of_labels(stored), output, MISUSE)
        if not output.quiet:
            shared.say_next(origin)
        raise typer.Exit(say(f"{restorer} does not apply to this update: {found.reason}", MISUSE))
    if output.speaks and not output.redact:
        _print_counts(found, () if observation.schema is None else observation.schema.classes)
    _deliver(stored, output)


def _deliver(stored: StoredLabels, output: Output) -> None:
    """Write the page, print the result in its format, and end with its exit code."""
    from unbatch.report import counts as page

    stored = stored.model_copy(update={"counts": stored.counts.redacted()}) if output.redact else stored
    sheet = page.of_labels(stored)
    if output.folder is not None:
        output.say(f"report   {page.write(stored, output.folder)}")
    finish(sheet, output)


def _named(observation: Observation, path: Path) -> Observation:
    """With names of the classes."""
    from unbatch.types import Schema

    names = tuple(read_text(path, "a text file with the name of a class in every line", "give another file").split("\n"))
    names = tuple(name.strip() for name in (names[:-1] if not names[-1] else names))
    if len(names) != observation.classes:
        came = f"{len(names)} lines in {str(path)!r}"
        raise Misuse(f"{observation.classes} names of classes, one a line", came, "name all of them, in order")
    return replace(observation, schema=replace(observation.schema or Schema(), classes=names))


def _print_counts(found: Counts, names: tuple[str, ...], most: int = 50) -> None:
    """A table with a bar for every class that has samples, the largest first, and below it how far it is to be believed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unbatch.report import counts as page
    from unbatch.store.counts import stored_counts

    chart = page.chart(stored_counts(found), names)
    bars = [bar for _, group in chart.groups for bar in group]
    bars.sort(key=lambda bar: -bar.share)
    spans = [chart.spans.lower()] if chart.spans else []
    table = Table("class", "samples", *spans, "", title=Text(printable(f"labels, by {found.restorer}")), title_justify="left", box=None)
    for bar in bars[:most]:
        width = "█" * max(1, round(0.4 * bar.share)) if bar.share else ""
        count = "?" if found.counts is None and found.least is None else bar.count
        table.add_row(Text(printable(bar.name)), count, *([bar.span] if spans else []), width)
    Console().print(table)
    if len(bars) > most:
        echo(f"... and {len(bars) - most} more classes")
    if found.counts is not None:
        echo(f"{int(found.counts.sum())} samples of {int((found.counts > 0).sum())} among {len(found.counts)} classes")
    if found.reason:
        echo(f"note     {found.reason}")
    if sure := page.certainty(stored_counts(found)):
        echo(sure)
