"""``unbatch demo``: a whole round, client and server, on public data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbatch.cli import shared
from unbatch.cli.again import told
from unbatch.cli.app import DONE, FAILED, app
from unbatch.cli.output import Format, Quiet, Redact, Verbose, prepare
from unbatch.cli.shared import AttackSpec, Device, Out, Seed

if TYPE_CHECKING:
    from unbatch.contracts import Dataset
    from unbatch.types import Batch

__all__ = ["demo"]


@app.command()
def demo(
    context: typer.Context,
    out: Out = Path("unbatch-report"),
    dataset: Annotated[str, typer.Option(help="See `unbatch list datasets`.")] = "faces",
    batch_size: Annotated[int, typer.Option(help="Samples in the client's batch.")] = 16,
    model: Annotated[str, typer.Option(help="See `unbatch list models`.")] = "mlp",
    protocol: Annotated[str, typer.Option(help="What the server sees; see `unbatch list protocols`.")] = "fedsgd",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="What the client does to its update; once a defense, in their order; see `unbatch list defenses`."),
    ] = None,
    attack: AttackSpec = "auto",
    seed: Seed = 0,
    float32: Annotated[bool, typer.Option("--float32", help="Let the client compute in float32 instead of float64.")] = False,
    device: Device = "cpu",
    quiet: Quiet = False,
    format_: Format = None,
    redact: Redact = False,
    verbose: Verbose = False,
) -> None:
    """Play a round: a client's batch, its update, the attack on the update, and the report.

    Ends with exit code 1 if a sample of the batch was not recovered exactly.
    """
    from unbatch import plugins, seeds, store

    output = prepare(out, format_, redact=redact, quiet=quiet, verbose=verbose)
    if output.folder is not None:
        store.check_writable(output.folder)
    defenses = [plugins.build("defenses", spec) for spec in defense or []]
    guarded = f", defended by {', '.join(one.spec for one in defenses)}" if defenses else ""
    shared.note(f"{batch_size} samples of {dataset}, model {model}, protocol {protocol}{guarded}, attack {attack}", quiet)

    batch = (data := plugins.build("datasets", dataset)).batch(batch_size, seeds.derive(seed, "data"))
    victim = plugins.build("models", model).build(data.input_shape, _classes(data, batch), seeds.derive(seed, "weights"))
    victim = (victim.float() if float32 else victim.double()).to(shared.device(device))
    observation = plugins.build("protocols", protocol).observe(victim, _moved(batch, device), defenses=defenses, seed=seed)
    finding = shared.attacked(observation, batch, attack, seed, quiet)
    shared.check_applies(finding, attack)
    # Not all that is right can be proved from the update alone (an unknown scale or order); whoever knows the batch sees it.
    code = DONE if finding.exact and all(finding.exact) else FAILED
    shared.write_report(finding, output, shared.origin_of("demo", told(context), {}, client=f"demo on {dataset}"), code)
    if code:
        raise typer.Exit(code)


def _classes(data: Dataset, batch: Batch) -> int:
    """As many as the data set names, or as the batch needs: at least two, for with one there is no gradient."""
    return len(data.schema.classes) or max(2, int(batch.labels.max()) + 1)


def _moved(batch: Batch, device: str) -> Batch:
    from dataclasses import replace

    return replace(batch, inputs=batch.inputs.to(device), labels=batch.labels.to(device))
