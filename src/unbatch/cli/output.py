"""Where a result goes and in which format: what every command that finds something has in common.

A command builds its ``Sheet`` and calls ``deliver``; the rest is decided here, so that verdict, file and exit code cannot disagree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unbatch.cli.app import DONE, LEAKED, echo, say
from unbatch.errors import BadFile, Misuse
from unbatch.reading import read_text

if TYPE_CHECKING:
    from unbatch.report.claims import Sheet

__all__ = [
    "Baseline",
    "ExitZero",
    "Format",
    "Output",
    "Quiet",
    "Redact",
    "Reporting",
    "Verbose",
    "deliver",
    "finish",
    "new_leaks",
    "prepare",
]

ENDINGS: Final = {".txt": "text", ".json": "json", ".md": "md", ".sarif": "sarif", ".xml": "junit"}
"""A path that ends so is a file of that format, and no folder. What writes them, ``report.formats``, takes its time to load."""

FORMATS: Final = tuple(ENDINGS.values())

PAGES: Final = (".html", ".htm", ".pdf", ".csv")
"""Endings of which somebody expects a file, and would get a folder."""

RESULT: Final = "What becomes of the result"
"""Heading of these options in the help."""

Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="text, json, md, sarif or junit, to standard output or to the file that --out names.", rich_help_panel=RESULT
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        help="An earlier result in JSON (--format json): what is proved there already does not fail again.", rich_help_panel=RESULT
    ),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero", help="End with 0 where it would be 3 or 4; what could not be run still ends with 2.", rich_help_panel=RESULT
    ),
]
Redact = Annotated[bool, typer.Option("--redact", help="Leave out all that was recovered, for passing on.", rich_help_panel=RESULT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.", rich_help_panel=RESULT)]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print what was not tested, the setting and the adversary's knowledge too.", rich_help_panel=RESULT
    ),
]


@dataclass(frozen=True)
class Output:
    """Where a result goes.

    Attributes:
        format: of what is printed or written to ``file``.
        file: for the result alone, or None for standard output.
        folder: for the report and its tensors, or None.
        redact: whether all that was recovered is left out.
        quiet: whether only the result is said.
        verbose: whether all of it is.
        exit_zero: whether findings do not fail.
        known: fingerprints of the baseline.
        baseline: whether there is one.
    """

    format: str = "text"
    file: Path | None = None
    folder: Path | None = None
    redact: bool = False
    quiet: bool = False
    verbose: bool = False
    exit_zero: bool = False
    known: frozenset[str] = field(default_factory=frozenset)
    baseline: bool = False

    @property
    def speaks(self) -> bool:
        """Whether standard output is for people."""
        return self.format == "text" or self.file is not None

    def say(self, text: str) -> None:
        """A line for people, where standard output is theirs."""
        if self.speaks:
            echo(text)


def prepare(
    out: Path | None, format: str | None, *, baseline: Path | None = None, exit_zero: bool = False, redact: bool = False, **rest: bool
) -> Output:
    """Find out before long work where its result goes, and that it can go there.

    Args:
        out: a folder, or a file whose ending names a format.
        format: what the user asked for, or None.
        baseline: an earlier result, or None.
        exit_zero: see ``Output``.
        redact: see ``Output``.
        rest: ``quiet`` and ``verbose``.

    Raises:
        Misuse: there is no such format, or it is not the file's.
        BadFile: the baseline cannot be read.
        OutputFailed: the place cannot be written.
    """
    if format is not None and format not in FORMATS:
        raise Misuse(f"--format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", repr(format), "name one of them")
    ending = None if out is None else ENDINGS.get(out.suffix.lower())
    if ending is not None and format not in (None, ending):
        raise Misuse(f"a file that ends like {format}", str(out), f"leave out --format, or write it to {_like(str(format))}")
    if ending is None and out is not None and out.suffix.lower() in PAGES and not out.is_dir():
        do = f"name the folder {str(out.with_suffix(''))!r}, in which the page is, or such a file"
        raise Misuse(f"a folder, or a file that ends in {', '.join(ENDINGS)}", str(out), do)
    known = frozenset[str]() if baseline is None else _fingerprints(baseline)
    file, folder = (out, None) if ending is not None else (None, out)
    if file is not None:
        _check_file(file)
    return Output(format or ending or "text", file, folder, redact, exit_zero=exit_zero, known=known, baseline=baseline is not None, **rest)


@dataclass(frozen=True)
class Reporting:
    """Options of every command that finds something, see their help."""

    format_: Format = None
    baseline: Baseline = None
    exit_zero: ExitZero = False
    redact: Redact = False
    quiet: Quiet = False
    verbose: Verbose = False

    def prepare(self, out: Path | None) -> Output:
        """See ``prepare``."""
        rest = {"exit_zero": self.exit_zero, "redact": self.redact, "quiet": self.quiet, "verbose": self.verbose}
        return prepare(out, self.format_, baseline=self.baseline, **rest)


def _like(format: str) -> str:
    return "a file ending in " + next(ending for ending, name in ENDINGS.items() if name == format)


def _check_file(path: Path) -> None:
    from unbatch import store

    store.check_writable(path.parent, (path.name,))


def _fingerprints(path: Path) -> frozenset[str]:
    """What an earlier result proved."""
    kind, do = "a result of unbatch in JSON", "make one with --format json"
    text = read_text(path, kind, do, largest=1 << 28)
    try:
        plain: Any = json.loads(text)
        return frozenset(claim["fingerprint"] for claim in plain["claims"] if claim["level"] == "proved")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFile(kind, f"{str(path)!r} ({type(error).__name__})", do) from error


def new_leaks(sheet: Sheet, output: Output) -> list[str]:
    """What is proved and not in the baseline, a sentence each; nothing where there is no baseline."""
    if not output.baseline:
        return []
    new = [claim for claim in sheet.claims if claim.level == "proved" and claim.fingerprint not in output.known]
    return [f"{claim.where}: {claim.said}" if claim.where else claim.said for claim in new]


def deliver(sheet: Sheet, output: Output, exit_code: int = 0) -> None:
    """Print or write the result in its format.

    Args:
        sheet: what was found.
        output: where to.
        exit_code: with which the command will end, for formats that say so.
    """
    from unbatch import store
    from unbatch.report.claims import with_baseline
    from unbatch.report.formats import text, write

    sheet = with_baseline(sheet, output.known).model_copy(update={"exit_code": exit_code})
    if output.redact:
        sheet = sheet.model_copy(update={"detail": None})
    if output.speaks and output.verbose:
        for line in text.scale_lines(sheet):
            echo(line)
        for fact in sheet.knowledge:
            echo(f"knew     {fact}")
    if output.speaks:
        for line in text.next_lines(sheet):
            echo(line)
    if output.file is not None:
        written = write(sheet, output.format)
        store.publish(output.file.parent, {output.file.name: written})
        echo(f"result   {output.file}")
    elif output.format != "text":
        typer.echo(write(sheet, output.format), nl=False)


def finish(sheet: Sheet, output: Output) -> None:
    """Print or write a result that no gate but a baseline judges, and end with its exit code.

    Raises:
        Exit: with 3 where something is proved that the baseline has not.
    """
    new = new_leaks(sheet, output)
    code = LEAKED if new and not output.exit_zero else DONE
    deliver(sheet, output, code)
    if new:
        say("; ".join(new), code)
    if code:
        raise typer.Exit(code)
