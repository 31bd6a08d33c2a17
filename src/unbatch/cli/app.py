"""The program: its options, its exit codes, and the only place that catches errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from unbatch.cli.streams import guarded
from unbatch.errors import Misuse, OutputFailed, UnbatchError, printable

__all__ = ["DONE", "FAILED", "INCONCLUSIVE", "INTERRUPTED", "LEAKED", "MISUSE", "app", "echo", "execute", "main", "say"]

DONE, FAILED, MISUSE, LEAKED, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """Exit codes: 0 done (read the verdict: an audit that finds nothing is done too); 1 controlled failure (the demo did not
reconstruct its batch, the attack broke down, or unbatch has a bug); 2 misuse (what was given cannot be used, the attack does not apply to
it, or the output cannot be written), with one sentence on stderr and nothing written; 3 the update gives away what --fail-on names, with
the reason on stderr and the report written; 4 --fail-on found nothing, but the audit could not tell, with the reason on stderr and the
report written; 130 interrupted, nothing half-written."""

app = typer.Typer(
    name="unbatch",
    help="Show what a federated-learning update gives away of the data behind it, exactly where exactness is possible.",
    epilog=EXIT_CODES.replace("\n", " "),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """Run the command line and end the process with one of the exit codes."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error ends here, as one sentence on stderr.

    Example:
        >>> execute(["list", "protocols"])
        fedavg
        ...
        0
    """
    with guarded() as out:
        code = _run(arguments)
        if out is not None:
            out.flush()
            if out.failure is not None and not out.closed_by_reader:
                reason = out.failure.strerror or str(out.failure)
                said = say(f"expected a standard output that can be written, got one that cannot ({reason}): name another", MISUSE)
                return code or said
        return code


NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")
"""How torch says it. Published: the allocators of its processors."""


def _run(arguments: Sequence[str]) -> int:
    debug = "--debug" in arguments
    try:
        typer.main.get_command(app).main(args=list(arguments), prog_name="unbatch")
    except SystemExit as end:  # how typer ends, with a code of ours or its own 2 for a wrong option and 130 for Ctrl-C
        code = end.code if isinstance(end.code, int) else FAILED
        return say("interrupted", INTERRUPTED) if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return say("interrupted", INTERRUPTED)
    except (Misuse, OutputFailed) as error:
        return say(str(error), MISUSE, debug=debug)
    except UnbatchError as error:
        return say(str(error), FAILED, debug=debug)
    except Exception as error:  # noqa: BLE001  (the last line of defense: a user should read a sentence, not a traceback)
        if isinstance(error, MemoryError) or any(said in str(error) for said in NO_MEMORY):
            return say(f"the memory is not enough for this: {error}", FAILED, debug=debug)
        return say(f"this is a bug in unbatch, please report it (--debug shows more): {type(error).__name__}: {error}", FAILED, debug=debug)
    return DONE


def echo(text: str) -> None:
    """Print, with nothing in it that a terminal would obey."""
    typer.echo(printable(text))


def say(sentence: str, code: int, *, debug: bool = False) -> int:
    """Write one sentence to stderr and return the exit code."""
    if debug:
        typer.echo(printable(traceback.format_exc()), err=True)
    typer.echo("unbatch: " + printable(" ".join(sentence.split())), err=True)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        import unbatch

        echo(f"unbatch {unbatch.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version_: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error too.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="Settings in TOML; unbatch.toml, or the table tool.unbatch of pyproject.toml, if not given.")
    ] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Read no settings from files.")] = False,
) -> None:
    """Show what a federated-learning update gives away of the data behind it, exactly where exactness is possible."""
    # ``execute`` itself looks for ``--debug``, so that it holds for errors in the options too.
    _ = version_, debug
    from unbatch.cli import configuration

    path = config or (None if isolated else configuration.find(Path()))
    if path is not None and context.invoked_subcommand is not None:
        context.default_map = configuration.defaults(path, getattr(context.command, "commands", {}))
        if context.default_map.get(context.invoked_subcommand):
            say(f"settings from {path}", DONE)
