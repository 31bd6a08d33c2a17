"""``unbatch members``: whether records that one has were in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from unbatch.cli import shared
from unbatch.cli.app import INCONCLUSIVE, LEAKED, app, echo, say
from unbatch.cli.audit import LearningRate, LocalEpochs, Mean, MiniBatch, Momentum, RestFrozen, Std, TrainMode, UnknownFactor, UpdateIs
from unbatch.cli.audit import _training as local_training
from unbatch.cli.client import ClipNorm, Nesterov, Optimizer, WeightDecay, optimized
from unbatch.cli.shared import Device, InputShape, Loss, Model, Update, Weights
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.importers import Kind
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
Out = Annotated[Path | None, typer.Option(help="Folder for members.html and members.json; made if it is missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON instead of a table.")]


@app.command()
def members(
    model: Model,
    weights: Weights,
    update: Update,
    input_shape: InputShape,
    candidates: Candidates,
    reference: Reference = None,
    batch_size: BatchSize = None,
    noise: Noise = None,
    update_is: UpdateIs = "gradient",
    learning_rate: LearningRate = None,
    local_epochs: LocalEpochs = None,
    mini_batch: MiniBatch = None,
    momentum: Momentum = None,
    nesterov: Nesterov = False,
    weight_decay: WeightDecay = None,
    optimizer: Optimizer = "sgd",
    clip_norm: ClipNorm = None,
    unknown_factor: UnknownFactor = False,
    rest_frozen: RestFrozen = False,
    loss: Loss = "cross_entropy",
    mean: Mean = "",
    std: Std = "",
    train_mode: TrainMode = False,
    fail_on: FailOn = None,
    out: Out = None,
    json: Json = False,
    device: Device = "cpu",
) -> None:
    """Tell for every given record whether it was in the client's batch, by the row spaces of the update.

    Ends with exit code 0 whatever the answers are. With --fail-on present it ends with 3 if any record is PRESENT, with 4 if none is but
    some are IN_SPAN or UNDECIDED, and with 0 only if all are ABSENT.
    """
    if fail_on not in (None, "present"):
        raise Misuse("--fail-on present", repr(fail_on), "name it, or leave it out")
    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    from unbatch import auditing, importers, membership, store
    from unbatch.report import members as page
    from unbatch.store.members import stored_members

    if out is not None:
        store.check_writable(out, (page.HTML, page.JSON))
    training = local_training(update_is, learning_rate, local_epochs, mini_batch, momentum)
    schema = shared.schema(shape, mean, std)
    victim = importers.load_weights(importers.load_model(model), weights, rest_given=rest_frozen).train(train_mode)
    observation = importers.load_observation(
        victim,
        update,
        shape,
        kind=cast("Kind", update_is),
        **optimized(training, optimizer, weight_decay, nesterov, clip_norm),
        rest_frozen=rest_frozen,
        factor_known=not unknown_factor,
        loss=loss,
        batch_size=batch_size,
        schema=schema,
        device=shared.device(device),
    )
    membership.check_readable(observation)
    records, labels = importers.read_records(candidates, schema, shape, observation.classes)
    others = None if reference is None else importers.read_records(reference, schema, shape)[0]
    found = membership.members(observation, records, labels, reference=others, noise=noise)
    stored = stored_members(found, observation, auditing.environment())
    echo(stored.model_dump_json(indent=2)) if json else _print(found)
    if out is not None:
        written = page.write(stored, out)
        if not json:
            echo(f"report   {written}")
    if fail_on is not None:
        _end(found)


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


def _end(found: Membership) -> None:
    from unbatch.types import Verdict

    if present := found.count(Verdict.PRESENT):
        echo(shared.row("gate", "leaked"))
        raise typer.Exit(say(f"{present} of the records were in the batch", LEAKED))
    if open_ := found.count(Verdict.IN_SPAN) + found.count(Verdict.UNDECIDED):
        echo(shared.row("gate", "inconclusive"))
        raise typer.Exit(say(f"inconclusive: of {open_} records the update does not tell whether they were in the batch", INCONCLUSIVE))
    echo(shared.row("gate", "clean: none of the records was in the batch"))
