"""Settings in a file: ``unbatch.toml``, or ``[tool.unbatch]`` in ``pyproject.toml``, of the folder in which unbatch is run.

What stands at the top is for every command that has such an option; a table named like a command is for that one, and has the last word but
for the command line. Folders above are not searched: a setting like ``model`` names code that is run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer

from unbatch.errors import BadFile, Misuse
from unbatch.reading import read_text

__all__ = ["NAMES", "defaults", "find"]

NAMES: Final = ("unbatch.toml", "pyproject.toml")
"""Where settings are looked for, in this order; the first that has any is taken."""


def find(folder: Path) -> Path | None:
    """The file with settings in a folder, if there is one."""
    for name in NAMES:
        path = folder / name
        if path.is_file() and _settings(path) is not None:
            return path
    return None


def _settings(path: Path) -> dict[str, Any] | None:
    """What a file says; None where it is a ``pyproject.toml`` that says nothing of unbatch."""
    kind, do = "settings in TOML", "mend the file, or name another with --config"
    text = read_text(path, kind, do)
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFile(kind, f"{str(path)!r} ({error})", do) from error
    if path.name != "pyproject.toml":
        return plain
    tool = plain.get("tool", {})
    found = tool.get("unbatch") if isinstance(tool, dict) else None
    if found is not None and not isinstance(found, dict):
        raise BadFile("a table [tool.unbatch]", f"{found!r} in {str(path)!r}", "write one setting a line under it")
    return found


def defaults(path: Path, commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a file as defaults of the commands' options.

    Args:
        path: of the file.
        commands: name -> the command.

    Raises:
        BadFile: it cannot be read.
        Misuse: no command has such an option, or the value is of no kind that an option has.
    """
    settings = _settings(path) or {}
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    everywhere = {name: value for name, value in settings.items() if name not in tables}
    if unknown := sorted(tables.keys() - commands.keys()):
        raise Misuse(f"tables named like a command in {str(path)!r}", repr(unknown[0]), f"the commands are {', '.join(sorted(commands))}")
    known: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    for name, command in commands.items():
        parameters = {max(p.opts, key=len).lstrip("-"): p for p in command.params if isinstance(p, typer.core.TyperOption)}
        known |= parameters.keys()
        own = tables.get(name, {})
        if wrong := sorted(own.keys() - parameters.keys()):
            raise Misuse(f"options of `unbatch {name}` in {str(path)!r}", repr(wrong[0]), f"see `unbatch {name} --help`")
        chosen = {key: value for key, value in {**everywhere, **own}.items() if key in parameters}
        found[name] = {str(parameters[key].name): _value(key, value, parameters[key].multiple, path) for key, value in chosen.items()}
    if wrong := sorted(everywhere.keys() - known):
        raise Misuse(f"options of unbatch in {str(path)!r}", repr(wrong[0]), "write them as on the command line, without the dashes")
    return found


def _value(key: str, value: Any, multiple: bool, path: Path) -> Any:
    """As the command line would have it: lists are repeated, or joined by commas."""
    plain = (str, int, float, bool)
    if isinstance(value, list) and all(isinstance(item, plain) for item in value):
        return [str(item) for item in value] if multiple else ",".join(map(str, value))
    if not isinstance(value, plain):
        raise Misuse(
            f"a value of {key!r} in {str(path)!r}", type(value).__name__, "write text, a number, true or false, or a list of these"
        )
    return [str(value)] if multiple else value
