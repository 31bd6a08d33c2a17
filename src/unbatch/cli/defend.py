"""``unbatch defend``: which defense closes the leak, at which cost in accuracy, on the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.again import told
from unbatch.cli.app import app, echo
from unbatch.cli.output import Quiet
from unbatch.cli.shared import InputShape, Model, Seed

if TYPE_CHECKING:
    from rich.table import Table

    from unbatch.defending import Trade

__all__ = ["defend"]

Data = Annotated[Path, typer.Option(help="npz with inputs or images, and labels: to attack, to train on, and a part of it to test on.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for defend.html and defend.json; made if it is missing.")]
Defenses = Annotated[
    list[str] | None, typer.Option("--defense", help="NAME or NAME:FIELD=VALUE, repeated; a choice of all kinds if not given; none too.")
]
Sizes = Annotated[str, typer.Option(help="Samples of an update; several with commas between.")]


@app.command()
def defend(
    context: typer.Context,
    model: Model,
    data: Data,
    input_shape: InputShape,
    defense: Defenses = None,
    batch_size: Sizes = "8,32",
    attack: Annotated[str, typer.Option(help="NAME or NAME:FIELD=VALUE; see `unbatch list attacks`.")] = "spear:seconds=10.0",
    trials: Annotated[int, typer.Option(help="Batches that are attacked, for every row.", min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="Of training, for every row.", min=1)] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of training, plain SGD.")] = 0.1,
    mean: Annotated[str, typer.Option(help="Mean of each channel that images are normalized by: 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="Standard deviation of each channel, likewise.")] = "",
    out: Out = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Attack and train a model under every defense, and say which closes the leak at which cost in accuracy.

    Ends with exit code 0 whatever comes out. That our attack recovers nothing under a defense does not show that nobody can.
    """
    from unbatch import defending, importers, store
    from unbatch.report import defend as page

    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    if out is not None:
        store.check_writable(out, (page.HTML, page.JSON))
    sizes = shared.numbers(batch_size, int, "batch sizes like 8,32")
    plan = defending.Plan(tuple(defense or defending.DEFENSES), sizes, attack, trials, epochs, learning_rate, seed=seed)
    origin = shared.origin_of("defend", told(context), {"data": data})
    batch = importers.read_truth(data, shared.schema(shape, mean, std), shape)
    built = importers.load_model(model)
    with shared.progress(quiet) as tell:
        trade = defending.measure(lambda: built, batch, plan, model, tell)
    trade = trade.model_copy(update={"origin": origin})
    _print(trade)
    if out is not None:
        echo(f"report   {page.write(trade, out)}")


def _print(trade: Trade) -> None:
    from rich.console import Console

    from unbatch.report.defend import verdict

    Console().print(_table(trade))
    echo(f"verdict  {verdict(trade)}")
    echo("note     that our attack recovers nothing does not show that nobody can; only ε holds against every attack")


def _table(trade: Trade) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from unbatch.errors import printable
    from unbatch.report.defend import guarantee

    table = Table("defense", "batch", "recovered", "proved", "accuracy", "guarantee", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for row in trade.rows:
        accuracy = f"{100 * row.accuracy:.1f} ± {100 * row.error:.1f} %"
        cells = [row.defense, str(row.batch_size), f"{row.recovered} of {row.attacked}", str(row.proved), accuracy, guarantee(row)]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
