"""The command line: the only place that prints, and the only one that catches.

Nothing heavy is imported here: torch comes with the command that needs it, so that ``unbatch --help`` answers at once.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from unbatch.errors import Misuse, OutputFailed, UnbatchError, UnknownPlugin

if TYPE_CHECKING:
    from unbatch.contracts import Dataset, Progress
    from unbatch.types import Batch, Counts, Finding, Observation, Schema

__all__ = ["app", "execute", "main"]

DONE, FAILED, MISUSE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = """Exit codes: 0 done (read the verdict: an audit that finds nothing is done too); 1 controlled failure (the demo did not
reconstruct its batch, or unbatch has a bug); 2 misuse (what was given cannot be used, the attack does not apply to it, or the output cannot
be written), with one sentence on stderr and nothing written; 130 interrupted, nothing half-written."""

app = typer.Typer(
    name="unbatch",
    help="Show what a federated-learning update gives away of the data behind it, exactly where exactness is possible.",
    epilog=EXIT_CODES.replace("\n", " "),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for report.html, report.json and the tensors; made if it is missing.")]
AttackSpec = Annotated[str, typer.Option("--attack", help="NAME or NAME:FIELD=VALUE,FIELD=VALUE; see `unbatch list attacks`.")]
Seed = Annotated[int, typer.Option(help="Of all randomness.")]
Device = Annotated[str, typer.Option(help="Where the attack runs: cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def main() -> NoReturn:
    """Run the command line and end the process with one of the exit codes."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error ends here, as one sentence on stderr.

    Example:
        >>> execute(["list", "attacks"])
        spear
        0
    """
    debug = "--debug" in arguments
    try:
        typer.main.get_command(app).main(args=list(arguments), prog_name="unbatch")
    except SystemExit as end:  # how typer ends, with a code of ours or its own 2 for a wrong option and 130 for Ctrl-C
        code = end.code if isinstance(end.code, int) else FAILED
        return _say("interrupted", INTERRUPTED) if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except (Misuse, OutputFailed) as error:
        return _say(str(error), MISUSE, debug=debug)
    except UnbatchError as error:
        return _say(str(error), FAILED, debug=debug)
    except Exception as error:  # noqa: BLE001  (the last line of defense: a user should read a sentence, not a traceback)
        if isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error):
            return _say(f"the memory is not enough for this: {error}", FAILED, debug=debug)
        return _say(
            f"this is a bug in unbatch, please report it (--debug shows more): {type(error).__name__}: {error}", FAILED, debug=debug
        )
    return DONE


def _say(sentence: str, code: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    typer.echo("unbatch: " + " ".join(sentence.split()), err=True)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    version_: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error too.")] = False,
) -> None:
    """Options that stand before the command. ``execute`` itself looks for ``--debug``, so that it holds for errors in the options too."""


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
    _note(f"{batch_size} samples of {dataset}, model {model}, attack {attack}", quiet)

    batch = (data := plugins.build("datasets", dataset)).batch(batch_size, seed)
    victim = plugins.build("models", model).build(data.input_shape, _classes(data, batch), seed)
    observation = plugins.build("protocols", "fedsgd").observe(
        (victim.float() if float32 else victim.double()).to(_device(device)), _moved(batch, device)
    )
    finding = _attack_and_report(observation, batch, attack, seed, out, quiet)
    if finding.reconstruction.status.name != "RECONSTRUCTED":
        raise typer.Exit(FAILED)


def _classes(data: Dataset, batch: Batch) -> int:
    """As many as the data set names, or as the batch needs: at least two, for with one there is no gradient."""
    return len(data.schema.classes) or max(2, int(batch.labels.max()) + 1)


def _moved(batch: Batch, device: str) -> Batch:
    from dataclasses import replace

    return replace(batch, inputs=batch.inputs.to(device), labels=batch.labels.to(device))


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

    shape = _numbers(input_shape, int, "an input shape like 3,32,32")
    store.check_writable(out)
    _note(f"update {update}, model {model}, attack {attack}", quiet)
    schema = _schema(shape, mean, std)
    victim = importers.load_weights(importers.load_model(model), importers.read_tensors(weights)).train(train_mode)
    observation = importers.load_observation(
        victim,
        update,
        shape,
        loss=loss,
        batch_size=batch_size,
        labels=None if labels is None else importers.read_labels(labels),
        schema=schema,
        device=_device(device),
    )
    batch = None if truth is None else importers.read_truth(truth, schema, shape)
    _attack_and_report(observation, batch, attack, seed, out, quiet)


def _schema(shape: tuple[int, ...], mean: str, std: str) -> Schema | None:
    """How to read an input, if the user says so; both or none, one number a channel."""
    if not mean and not std:
        return None
    from dataclasses import replace

    from unbatch.types import Schema

    means, stds = _numbers(mean, float, "a mean for each channel"), _numbers(std, float, "a deviation for each channel")
    if not len(means) == len(stds) == shape[0] or not all(value > 0 for value in stds):
        raise Misuse(f"--mean and --std with {shape[0]} numbers each, deviations above zero", f"{mean!r} and {std!r}", "give one a channel")
    return replace(Schema.guess(shape), mean=means, std=stds)


def _numbers(text: str, kind: type[Any], expected: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise Misuse(expected, repr(text), "write numbers with commas between them and no spaces") from error


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Misuse("a device that torch can use here", repr(name), "give cpu, or install a torch with support for it") from error
    return name


def _attack_and_report(observation: Observation, truth: Batch | None, attack: str, seed: int, out: Path, quiet: bool) -> Finding:
    from unbatch import auditing
    from unbatch.experiments import store
    from unbatch.report import html

    with _progress(quiet) as progress:
        finding = auditing.audit(observation, truth, attack=attack, seed=seed, progress=progress)
    made = finding.reconstruction
    if made.status.name == "NOT_APPLICABLE":
        raise typer.Exit(_say(f"{attack} does not apply to this update: {made.reason}", MISUSE))
    store.save(finding, out)
    _print_result(finding, html.write(out))
    return finding


def _print_result(finding: Finding, page: Path) -> None:
    made = finding.reconstruction
    rows = [("status", f"{made.status.name}: {made.status.value}"), ("verdict", finding.verdict)]
    if made.reason:
        rows.append(("reason", made.reason))
    if finding.truth is not None:
        total = len(finding.truth)
        rows.append(("exact", f"{sum(finding.exact)} of {total} samples"))
        rows.append(("labels", f"{sum(finding.labels_right)} of {total} right"))
    rows.append(("report", str(page)))
    for name, text in rows:
        typer.echo(f"{name:<8} {text}")


def _note(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(f"unbatch: {text}", err=True)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr while the block runs; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(message: str, done: float) -> None:
            if math.isnan(done):
                bar.update(task, description=message)
            else:
                bar.update(task, description=message, total=1.0, completed=done)

        yield tell


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help="attacks, labels, protocols, models, datasets or metrics.")]) -> None:
    """Print the names of all plug-ins of a kind, one a line."""
    from unbatch import plugins

    for name in plugins.names(kind):
        typer.echo(name)


@app.command()
def describe(name: Annotated[str, typer.Argument(help="Of a plug-in; see `unbatch list KIND`.")]) -> None:
    """Print what a plug-in is and its settings, with their types and defaults."""
    from unbatch import plugins

    kinds = [kind for kind in plugins.KINDS if name in plugins.names(kind)]
    if not kinds:
        raise UnknownPlugin("the name of a plug-in", repr(name), "see `unbatch list KIND`")
    typer.echo("\n\n".join(_description(kind, name) for kind in kinds))


def _description(kind: str, name: str) -> str:
    import inspect
    from dataclasses import MISSING, fields

    from unbatch import plugins

    cls = plugins.load(kind, name)
    text = (inspect.getdoc(cls) or "").partition("\nExample:")[0].strip()
    lines = [f"{kind}: {name}", "", text, "", "Settings:"]
    for field in fields(cls):
        default = "required" if field.default is MISSING else f"= {field.default!r}"
        lines.append(f"    {field.name}: {field.type if isinstance(field.type, str) else field.type.__name__} {default}")
    return "\n".join(lines if fields(cls) else [*lines[:-1], "No settings."])


@app.command()
def version() -> None:
    """Print the version."""
    import unbatch

    typer.echo(f"unbatch {unbatch.__version__}")


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

    shape = _numbers(input_shape, int, "an input shape like 3,32,32")
    victim = importers.load_weights(importers.load_model(model), importers.read_tensors(weights)).eval()
    observation = importers.load_observation(victim, update, shape, loss=loss, batch_size=batch_size)
    found = auditing.restore_labels(observation, restorer, seed, attack)
    if found.presence is None:
        raise typer.Exit(_say(f"{restorer} does not apply to this update: {found.reason}", MISUSE))
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
