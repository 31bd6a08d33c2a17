"""``unbatch demo``: a whole round, client and server, on public data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.app import FAILED, app
from unbatch.cli.shared import AttackSpec, Device, Out, Quiet, Seed

if TYPE_CHECKING:
    from unbatch.contracts import Dataset
    from unbatch.types import Batch

__all__ = ["demo"]


@app.command()
def demo(
    out: Out = Path("unbatch-report"),
    dataset: Annotated[str, typer.Option(help="See `unbatch list datasets`.")] = "faces",
    batch_size: Annotated[int, typer.Option(help="Samples in the client's batch.")] = 16,
    model: Annotated[str, typer.Option(help="See `unbatch list models`.")] = "mlp",
    attack: AttackSpec = "spear",
    seed: Seed = 0,
    float32: Annotated[bool, typer.Option("--float32", help="Let the client compute in float32 instead of float64.")] = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Play a round: a client's batch, its update, the attack on the update, and the report.

    Ends with exit code 1 if the batch was not reconstructed.
    """
    from unbatch import plugins
    from unbatch.experiments import store

    store.check_writable(out)
    shared.note(f"{batch_size} samples of {dataset}, model {model}, attack {attack}", quiet)

    batch = (data := plugins.build("datasets", dataset)).batch(batch_size, seed)
    victim = plugins.build("models", model).build(data.input_shape, _classes(data, batch), seed)
    observation = plugins.build("protocols", "fedsgd").observe(
        (victim.float() if float32 else victim.double()).to(shared.device(device)), _moved(batch, device)
    )
    finding = shared.attack_and_report(observation, batch, attack, seed, out, quiet)
    if finding.reconstruction.status.name != "RECONSTRUCTED":
        raise typer.Exit(FAILED)


def _classes(data: Dataset, batch: Batch) -> int:
    """As many as the data set names, or as the batch needs: at least two, for with one there is no gradient."""
    return len(data.schema.classes) or max(2, int(batch.labels.max()) + 1)


def _moved(batch: Batch, device: str) -> Batch:
    from dataclasses import replace

    return replace(batch, inputs=batch.inputs.to(device), labels=batch.labels.to(device))
