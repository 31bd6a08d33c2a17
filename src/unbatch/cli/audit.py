"""``unbatch audit``: attack a captured update."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.app import app
from unbatch.cli.shared import AttackSpec, Device, Out, Quiet, Seed

__all__ = ["audit"]


@app.command()
def audit(
    model: Annotated[str, typer.Option(help="FILE.py:FACTORY or PACKAGE.MODULE:FACTORY. This code is run: give only your own.")],
    weights: Annotated[Path, typer.Option(help="The broadcast weights: safetensors, npz, or a torch file of plain tensors.")],
    update: Annotated[Path, typer.Option(help="The client's update, mean gradient by parameter name; same formats.")],
    input_shape: Annotated[str, typer.Option(help="Shape of one sample, without the batch: 3,32,32.")],
    out: Out = Path("unbatch-report"),
    attack: AttackSpec = "spear",
    truth: Annotated[Path | None, typer.Option(help="The client's batch, to score against: npz with inputs or images, and labels.")] = None,
    loss: Annotated[str, typer.Option(help="The client's loss: cross_entropy or nll.")] = "cross_entropy",
    batch_size: Annotated[int | None, typer.Option(help="Tell the attack the number of samples.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Tell the attack the labels: npz with labels.")] = None,
    mean: Annotated[str, typer.Option(help="Mean of each channel that the client subtracted: 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="Standard deviation of each channel that it divided by.")] = "",
    train_mode: Annotated[bool, typer.Option("--train-mode", help="The client ran the model in train mode.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Attack a captured update, and score the result where the truth is known.

    Ends with exit code 0 whatever the verdict is, and with 2 if the attack does not apply.
    """
    from unbatch import importers
    from unbatch.experiments import store

    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    store.check_writable(out)
    shared.note(f"update {update}, model {model}, attack {attack}", quiet)
    schema = shared.schema(shape, mean, std)
    victim = importers.load_weights(importers.load_model(model), importers.read_tensors(weights)).train(train_mode)
    observation = importers.load_observation(
        victim,
        update,
        shape,
        loss=loss,
        batch_size=batch_size,
        labels=None if labels is None else importers.read_labels(labels),
        schema=schema,
        device=shared.device(device),
    )
    batch = None if truth is None else importers.read_truth(truth, schema, shape)
    shared.attack_and_report(observation, batch, attack, seed, out, quiet)
