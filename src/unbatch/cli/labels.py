"""``unbatch labels``: how many samples of each class a batch held."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.app import MISUSE, app, say
from unbatch.cli.shared import Seed

if TYPE_CHECKING:
    from unbatch.types import Counts

__all__ = ["labels"]


@app.command()
def labels(
    model: Annotated[str, typer.Option(help="FILE.py:FACTORY or PACKAGE.MODULE:FACTORY. This code is run: give only your own.")],
    weights: Annotated[Path, typer.Option(help="The broadcast weights: safetensors, npz, or a torch file of plain tensors.")],
    update: Annotated[Path, typer.Option(help="The client's update, mean gradient by parameter name; same formats.")],
    input_shape: Annotated[str, typer.Option(help="Shape of one sample, without the batch: 3,32,32.")],
    batch_size: Annotated[int | None, typer.Option(help="The number of samples; searched for if it is not given.")] = None,
    restorer: Annotated[str, typer.Option(help="NAME or NAME:FIELD=VALUE,FIELD=VALUE; see `unbatch list labels`.")] = "anchored",
    attack: Annotated[str | None, typer.Option(help="Take the labels of this attack where it proves the whole batch.")] = None,
    loss: Annotated[str, typer.Option(help="The client's loss: cross_entropy or nll.")] = "cross_entropy",
    seed: Seed = 0,
) -> None:
    """Tell from a captured update how many samples of each class the client's batch held.

    Ends with exit code 2 if the restorer does not apply.
    """
    from unbatch import auditing, importers

    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    victim = importers.load_weights(importers.load_model(model), importers.read_tensors(weights)).eval()
    observation = importers.load_observation(victim, update, shape, loss=loss, batch_size=batch_size)
    found = auditing.restore_labels(observation, restorer, seed, attack)
    if found.presence is None:
        raise typer.Exit(say(f"{restorer} does not apply to this update: {found.reason}", MISUSE))
    _print_counts(found)


def _print_counts(found: Counts, most: int = 50) -> None:
    """A table with a bar for every class that has samples, the largest first."""
    from rich.console import Console
    from rich.table import Table

    present = [] if found.presence is None else found.presence.nonzero()[:, 0].tolist()
    counts = None if found.counts is None else found.counts.tolist()
    if counts is not None:
        present.sort(key=lambda label: -counts[label])
    table = Table("class", "samples", "", title=f"labels, by {found.restorer}", title_justify="left", box=None)
    for label in present[:most]:
        number = "?" if counts is None else str(counts[label])
        bar = "" if counts is None else "█" * max(1, round(40 * counts[label] / counts[present[0]]))
        table.add_row(str(label), number, bar)
    Console().print(table)
    if len(present) > most:
        typer.echo(f"... and {len(present) - most} more classes")
    if counts is not None:
        typer.echo(f"{sum(counts)} samples of {len(present)} among {len(counts)} classes")
    if found.reason:
        typer.echo(f"reason   {found.reason}")
    if (error := found.stats.get("expected_error")) is not None:
        typer.echo(f"a count is expected to be off by {error:.2f} before rounding")
    elif found.stats.get("trust", 1.0) < 1:
        typer.echo("little can be read off this update (a trained network, noise): these counts are a guess bent by it")
