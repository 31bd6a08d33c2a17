"""``unbatch exposure``: what a model can leak, before any data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import next_steps, shared
from unbatch.cli.again import told
from unbatch.cli.app import app, echo
from unbatch.cli.grouped import grouped
from unbatch.cli.output import Reporting, finish
from unbatch.cli.shared import InputShape, Loss, Model, Seed
from unbatch.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from unbatch.exposure import Exposure, LayerExposure

__all__ = ["exposure"]

Weights = Annotated[
    Path | None, typer.Option(help="The broadcast weights: safetensors, npz, or a torch file; those of the factory if not given.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="Inputs to measure on how often neurons fire: npz with inputs or images, and labels; white noise if not given."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for exposure.html and exposure.json; or a file ending in .json, .md, .sarif, .xml or .txt; nothing if not given.",
    ),
]


@app.command()
@grouped
def exposure(
    context: typer.Context,
    reporting: Reporting,
    model: Model,
    input_shape: InputShape,
    weights: Weights = None,
    data: Data = None,
    loss: Loss = "cross_entropy",
    mean: Annotated[str, typer.Option(help="Mean of each channel that images in --data are normalized by: 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="Standard deviation of each channel, likewise.")] = "",
    train_mode: Annotated[bool, typer.Option("--train-mode", help="Clients run the model in train mode.")] = False,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole finding as JSON instead of a table.")] = False,
    seed: Seed = 0,
) -> None:
    """Say what a model can leak of a batch, layer by layer, before any data: up to which batch size, how likely, and what closes it.

    Ends with exit code 0 whatever the verdict is; with --baseline with 3 if a layer is open that was not so in there. That no exact route
    is known does not show that a model is safe.
    """
    from unbatch import auditing, importers, store
    from unbatch.exposure import expose
    from unbatch.report import exposure as page

    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    output = reporting.prepare(out)
    if output.folder is not None:
        store.check_writable(output.folder)
    origin = shared.origin_of("exposure", told(context), {"weights": weights, "data": data})
    origin = origin.model_copy(update={"next_steps": next_steps.after_exposure(told(context))})
    victim = importers.load_model(model)
    if weights is not None:
        victim = importers.load_weights(victim, importers.read_tensors(weights))
    inputs = None if data is None else importers.read_records(data, shared.schema(shape, mean, std), shape)[0]
    found = expose(victim.train(train_mode), shape, data=inputs, loss=importers.load_loss(loss), seed=seed)
    found = found.model_copy(update={"environment": auditing.environment(), "origin": origin})
    written = None if output.folder is None else page.write(found, output.folder)
    if json:
        echo(found.to_json().rstrip("\n"))
        return
    if output.speaks:
        _print(found)
    if written is not None:
        output.say(f"report   {written}")
    finish(page.of_exposure(found), output)


def _print(found: Exposure) -> None:
    from rich.console import Console

    console = Console()
    console.print(_table(found))
    echo(f"verdict  {found.verdict}")
    apply = [restorer.name for restorer in found.labels.restorers if restorer.applies]
    told = f"can be counted from the gradient of {found.labels.layer}: {', '.join(apply)}" if apply else found.labels.restorers[0].reason
    echo(f"labels   {told}")
    opened = [layer for layer in found.layers if layer.remedy is not None]
    opened.sort(key=lambda layer: (not layer.sees.startswith("raw"), layer is not found.worst))
    if opened and opened[0].remedy is not None:
        echo(f"closes   {opened[0].remedy.title}. {opened[0].remedy.costs}")
    if any(layer.firing is not None for layer in found.layers):
        echo(f"measured on {found.measured_on}")


def _table(found: Exposure) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from unbatch.report.exposure import answer, one_sample, rows

    shape = "×".join(map(str, found.input_shape))
    table = Table(
        title=Text(printable(f"{found.model}, inputs {shape}, {found.mode} mode")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("layer", "kind", "sees", "from a batch", "from one sample", "search", "why no more"):
        table.add_column(column, overflow="fold")  # what is cut off is what one would paste
    for row in rows(found):
        layer = row.layer
        reach = _reach(layer)
        cells = [row.name, row.kind, layer.sees, answer(layer), one_sample(layer), reach, row.why]
        # As text, so that brackets in a stranger's names are no markup.
        table.add_row(*(Text(printable(cell)) for cell in cells), style="" if layer.remedy is not None else "dim")
    if any("*" in _reach(layer) for layer in found.layers):
        table.caption, table.caption_justify = "* extrapolated from the widths that were measured", "left"
    return table


def _reach(layer: LayerExposure) -> str:
    """As far as our searches get, the further of the two; with a star where that is extrapolated."""
    known = [each for each in (layer.limits, layer.reach) if each is not None]
    if not known:
        return ""
    best = max(known, key=lambda each: each.searched)
    return f"b ≤ {best.searched:,}" + ("*" if best.extrapolated else "")
