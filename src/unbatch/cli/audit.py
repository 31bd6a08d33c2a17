"""``unbatch audit``: attack a captured update."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from unbatch.cli import gate, many, next_steps, shared
from unbatch.cli.again import told
from unbatch.cli.app import FAILED, MISUSE, app, say
from unbatch.cli.client import ClipNorm, Nesterov, Optimizer, WeightDecay, optimized
from unbatch.cli.output import Baseline, ExitZero, Format, Output, Redact, Verbose, prepare
from unbatch.cli.shared import AttackSpec, Device, InputShape, Loss, Model, Out, Quiet, Seed, Weights
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.importers import Kind
    from unbatch.origin import Origin
    from unbatch.types import Finding, LocalTraining, Schema

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
    list[str] | None, typer.Option(help="End with exit code 3 on exact, labels, tokens or psnr:DECIBELS; several with commas between.")
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


UpdateOr = Annotated[
    Path | None,
    typer.Option(
        "--update", help="What the client sent, by name or in the order of state_dict(); same formats; or a folder of such files."
    ),
]
Updates = Annotated[Path | None, typer.Argument(help="The same as --update; a folder is a round: one update a client.")]
Client = Annotated[str, typer.Option(help="Whose update it is; the name of its file if not given.")]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", help="Clients of a folder that are audited at a time, a process and a thread each.", min=1)
]


@app.command()
def audit(
    context: typer.Context,
    model: Model,
    weights: Weights,
    input_shape: InputShape,
    update: UpdateOr = None,
    updates: Updates = None,
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
    clip_norm: ClipNorm = None,
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
    client: Client = "",
    format_: Format = None,
    baseline: Baseline = None,
    exit_zero: ExitZero = False,
    redact: Redact = False,
    verbose: Verbose = False,
    jobs: Jobs = 1,
) -> None:
    """Attack a captured update, or every update of a folder, and score the result where the truth is known.

    Ends with exit code 0 whatever the verdict is, with 1 if the attack broke down and with 2 if it does not apply. With --fail-on it ends
    with 3 if the update gives away what that names, with 4 if the audit could not tell, and with 0 only if it could and the update does
    not. With --baseline it fails only on what is not proved in there already.
    """
    update = _one_of(update, updates)
    output = prepare(out, format_, baseline=baseline, exit_zero=exit_zero, redact=redact, quiet=quiet, verbose=verbose)
    if update.is_dir():
        raise typer.Exit(many.audit_all(told(context), update, truth, output, jobs))
    fail_on = fail_on or (["exact", "labels", "tokens"] if baseline is not None else [])
    limits = gate.parse(fail_on, truth_known=truth is not None, labels_told=labels is not None)
    passes = _passes(inconclusive, fail_on)
    shape = shared.numbers(input_shape, int, "an input shape like 3,32,32")
    from unbatch import importers, store

    if output.folder is not None:
        store.check_writable(output.folder)
    shared.note(f"update {update}, model {model}, attack {attack}", quiet)
    files = {"weights": weights, "update": update, "truth": truth, "labels": labels, "schema": schema_file}
    origin = shared.origin_of("audit", told(context), files, client or update.stem)
    training = _training(update_is, learning_rate, local_epochs, mini_batch, momentum)
    schema = shared.schema(shape, mean, std) if schema_file is None else _schema(schema_file, mean + std)
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
        labels=None if labels is None else importers.read_labels(labels),
        schema=schema,
        device=shared.device(device),
    )
    shared.check_loss(observation)
    batch = None if truth is None else shared.truth_of(observation, truth)
    finding = shared.attacked(observation, batch, attack, seed, quiet)
    origin = origin.model_copy(update={"next_steps": next_steps.after_audit(told(context), finding, observation)})
    claims = shared.claims_of(finding, origin) if output.known else ()
    left = gate.without(limits, claims, output.known)
    _end(finding, left, bool(fail_on), passes, output, origin, spared=left != limits)


def _one_of(update: Path | None, updates: Path | None) -> Path:
    """The update, by option or by argument."""
    if (update is None) == (updates is None):
        raise Misuse("one update, or one folder of them", "none" if update is None else "two", "name it with --update")
    found = update or updates
    assert found is not None  # noqa: S101 -- for the type checker: one of them is there
    return found


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


def _end(finding: Finding, limits: gate.Limits, gated: bool, passes: bool, output: Output, origin: Origin, *, spared: bool) -> None:
    """Write the report, say what became of ``--fail-on``, and end with its exit code."""
    answers = gate.judge(limits, finding)
    status, attack = finding.reconstruction.status.name, finding.reconstruction.attack.partition(":")[0]
    named = any(lookup.proved for lookup in finding.lookups)
    if status == "NOT_APPLICABLE" and not named and not answers.leaks and (answers.open or not gated) and not passes:
        if not output.speaks or output.file is not None:  # a program reads it: that nothing was measured is a result too
            shared.deliver_audit(finding, output, origin, MISUSE)
        shared.check_applies(finding, attack, None if output.quiet else origin)
    ending = gate.ending(answers, gated, passes, output.exit_zero, spared=spared)
    code = ending.code
    if not gated and status == "BROKE_DOWN":
        code = FAILED
    shared.write_report(finding, output, origin, code)
    if ending.row:
        output.say(shared.row("gate", ending.row))
    if code == FAILED:
        say(f"{attack} broke down: {finding.reconstruction.reason or 'see the report'}", FAILED)
    elif ending.sentence:
        say(ending.sentence, code)
    if code:
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
