"""The command that was given, said again: as it is for a report, or changed into the next one to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

__all__ = ["Told", "options_of", "told", "words"]

Told = dict[str, Any]
"""Option, without its dashes -> value: what was told, in the order of the command's own options; True for a flag, a list where repeated."""

SILENT: Final = frozenset(("quiet", "verbose", "help", "jobs"))
"""Options that change what is seen and not what comes out."""


def told(context: typer.Context) -> Told:
    """What the user told a command, on the command line or in a configuration file; what is left at its default is left out.

    Args:
        context: of the command while it runs.
    """
    found: Told = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        value, name = context.params.get(str(parameter.name)), _option(parameter.opts)
        if source is None or source.name == "DEFAULT" or value in (None, False, (), []) or name in SILENT:
            continue
        found[name] = list(value) if isinstance(value, (list, tuple)) else value if value is True else str(value)
    return found


def _option(names: list[str]) -> str:
    """The long name without its dashes, or an argument's own."""
    return max(names, key=len).lstrip("-")


def words(command: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The command as arguments, ready for a shell's quoting.

    Args:
        command: its name.
        options: see ``Told``; one called ``updates`` is the argument.

    Example:
        >>> words("audit", {"model": "net.py:build", "mean": "-0.5", "train-mode": True, "fail-on": ["exact", "psnr:25"]})
        ('unbatch', 'audit', '--model', 'net.py:build', '--mean=-0.5', '--train-mode', '--fail-on', 'exact', '--fail-on', 'psnr:25')
    """
    said = ["unbatch", command]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                said.append(f"--{name}")
            elif name == "updates":
                said.append(str(one))
            else:
                said += [f"--{name}={one}"] if str(one).startswith("-") else [f"--{name}", str(one)]
    return tuple(said)


def options_of(command: str) -> frozenset[str]:
    """The long names of all options of a command."""
    from unbatch.cli.app import app

    group = typer.main.get_command(app)
    found = getattr(group, "commands", {})[command]
    return frozenset(_option(parameter.opts) for parameter in found.params)
