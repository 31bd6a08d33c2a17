"""``unbatch audit``: attack a captured update."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from unbatch.cli import gate, shared
from unbatch.cli.app import FAILED, INCONCLUSIVE, LEAKED, app, echo, say
from unbatch.cli.client import Nesterov, Optimizer, WeightDecay, optimized
from unbatch.cli.shared import AttackSpec, Device, InputShape, Loss, Model, Out, Quiet, Seed, Update, Weights
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.importers import Kind
    from unbatch.types import LocalTraining, Schema

__all__ = ["audit"]


Truth = Annotated[Path | None, typer.Option(help="The client's batch, to score against: npz with inputs or images, and labels.")]
UpdateIs = Annotated[
    str, typer.Option(help="gradient: the batch's mean gradient; difference: weights after less before; weights: those after.")
]
LearningRate = Annotated[float | None, typer.Option(help="Of local SGD, for a difference or weights, if the server knows it.")]
LocalEpochs = Annotated[int | None, typer.Option(help="Of local training; 1 if not given.")]
MiniBatch = Annotated[int | None, typer.Option(help="Samples of a local step; all of them if not given.")]
Momentum = Annotated[float | None, typer.Option(help="Of local SGD; 0 if not given.")]
UnknownFactor = Annotated[
    bool, typer.Option("--unknown-factor", help="The update was clipped, or scaled by a positive number that is not known.")
]
RestFrozen = Annotated[
    bool, typer.Option("--rest-frozen", help="Parameters that the update lacks, or that did not move, were not trained.")
]
FailOn = Annotated[
    list[str] | None, typer.Option(help="End with exit code 3 on exact, labels or psnr:DECIBELS; several with commas between.")
]
Inconclusive = Annotated[
    str | None, typer.Option(help="What --fail-on does where the audit could not tell: fail (exit code 4, if not given) or pass.")
]
BatchSize = Annotated[int | None, typer.Option(help="Tell the attack the number of samples.")]
Labels = Annotated[Path | None, typer.Option(help="Tell the attack the labels: npz with labels.")]
Mean = Annotated[str, typer.Option(help="Mean of each channel that the client subtracted: 0.49,0.48,0.45.")]
Std = Annotated[str, typer.Option(help="Standard deviation of each channel that it divided by.")]
SchemaFile = Annotated[
    Path | None, typer.Option("--schema", help="TOML or JSON that says what a row of a table holds; see `unbatch describe table`.")
]
TrainMode = Annotated[bool, typer.Option("--train-mode", help="The client ran the model in train mode.")]


@app.command()
def audit(
    model: Model,
    weights: Weights,
    update: Update,
    input_shape: InputShape,
    out: Out = Path("unbatch-report"),
    attack: AttackSpec = "auto",
    truth: Truth = None,
    update_is: UpdateIs = "gradient",
    learning_rate: LearningRate = None,
    local_epochs: LocalEpochs = None,
    mini_batch: MiniBatch = None,
    momentum: Momentum = None,
    nesterov: Nesterov = False,
    weight_decay: WeightDecay = None,
    optimizer: Optimizer = "sgd",
    unknown_factor: UnknownFactor = False,
    rest_frozen: RestFrozen = False,
    fail_on: FailOn = None,
    inconclusive: Inconclusive = None,
    loss: Loss = "cross_entropy",
    batch_size: BatchSize = None,
    labels: Labels = None,
    mean: Mean = "",
    std: Std = "",
    schema_file: SchemaFile = None,
    train_mode: TrainMode = False,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Attack a captured update, and score the result where the truth is known.

    Ends with exit code 0 whatever the verdict is, with 1 if the attack broke down and with 2 if it does not apply. With --fail-on it ends
    with 3 if the update gives away what that names, with 4 if the audit could not tell, and with 0 only if it could and the update does
    not.
    """
    limits = gate.parse(fail_on or [], truth_known=truth is not None, labels_told=labels is not None)
    passes = _passes(inconclusive, fail_on)
    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    from unbatch import importers, store

    store.check_writable(out)
    shared.note(f"update {update}, model {model}, attack {attack}", quiet)
    training = _training(update_is, learning_rate, local_epochs, mini_batch, momentum)
    schema = shared.schema(shape, mean, std) if schema_file is None else _schema(schema_file, mean + std)
    victim = importers.load_weights(importers.load_model(model), weights, rest_given=rest_frozen).train(train_mode)
    observation = importers.load_observation(
        victim,
        update,
        shape,
        kind=cast("Kind", update_is),
        **optimized(training, optimizer, weight_decay, nesterov),
        rest_frozen=rest_frozen,
        factor_known=not unknown_factor,
        loss=loss,
        batch_size=batch_size,
        labels=None if labels is None else importers.read_labels(labels),
        schema=schema,
        device=shared.device(device),
    )
    batch = None if truth is None else importers.read_truth(truth, schema, shape, observation.classes)
    finding = shared.attacked(observation, batch, attack, seed, quiet)
    answers = gate.judge(limits, finding)
    if not answers.leaks and (answers.open or not fail_on) and not passes:
        shared.check_applies(finding, attack)
    shared.write_report(finding, out)
    if fail_on:
        _end(answers, passes)
    elif finding.reconstruction.status.name == "BROKE_DOWN":
        raise typer.Exit(say(f"{attack} broke down: {finding.reconstruction.reason or 'see the report'}", FAILED))


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


def _end(answers: gate.Answers, passes: bool) -> None:
    """Say what became of ``--fail-on``, and end with its exit code."""
    if answers.leaks:
        echo(shared.row("gate", "leaked"))
        raise typer.Exit(say("; ".join(answers.leaks), LEAKED))
    if not answers.open:
        echo(shared.row("gate", "clean: nothing that --fail-on names was found; this does not show that the update is safe"))
        return
    echo(shared.row("gate", "inconclusive" + (", passed as --inconclusive says" if passes else "")))
    code = say("inconclusive: " + "; ".join(answers.open), INCONCLUSIVE)
    if not passes:
        raise typer.Exit(code)


def _training(kind: str, rate: float | None, epochs: int | None, mini_batch: int | None, momentum: float | None) -> LocalTraining | None:
    """How the client trained; a gradient comes from no training."""
    from unbatch.types import LocalTraining

    told = {"--learning-rate": rate, "--local-epochs": epochs, "--mini-batch": mini_batch, "--momentum": momentum}
    given = [name for name, value in told.items() if value is not None]
    if kind == "gradient":
        if given:
            raise Misuse(f"--update-is difference or weights with {given[0]}", "a gradient", "say what the update is, or leave it out")
        return None
    return LocalTraining(epochs if epochs is not None else 1, mini_batch, rate, momentum or 0.0)
