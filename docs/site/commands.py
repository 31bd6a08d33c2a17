"""The page of all commands and options, and the tables of all plug-ins, drawn from the program itself when the site is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from unbatch import plugins
from unbatch.cli import app  # with all its commands
from unbatch.cli.app import EXIT_CODES

HEAD = """# Commands

Drawn from the program: `unbatch COMMAND --help` says the same. Every option may stand in a file too
([settings](../pipelines.md#settings-in-a-file)), and a value like `spear:seconds=20` names a plug-in and its settings
(`unbatch describe NAME`).
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "reference/commands.md", content=page()))
    return files


def page() -> str:
    """All commands, then all plug-ins."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD]
    for name, command in sorted(group.commands.items()):
        parts += [f"## unbatch {name}", _plain(command.help or ""), *_options(command)]
    parts += ["## Options before a command", *_options(group), "## Exit codes", _plain(EXIT_CODES), "## Plug-ins"]
    for kind in plugins.KINDS:
        parts += [f"### {kind.capitalize()}", "| name | what it is |\n|---|---|\n" + "\n".join(_plugins(kind))]
    return "\n\n".join(parts)


def _options(command: Any) -> Iterator[str]:
    rows = [_row(each) for each in command.params if not getattr(each, "hidden", False) and "--help" not in each.opts]
    if rows:
        yield "| option | what it is | if not given |\n|---|---|---|\n" + "\n".join(rows)


def _row(option: Any) -> str:
    value = "" if getattr(option, "is_flag", False) or option.param_type_name == "argument" else f" {_metavar(option)}"
    names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
    return f"| {names} | {_cell(getattr(option, 'help', '') or '')} | {_default(option)} |"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "" if option.default in (None, "", (), [], False) or callable(option.default) else f"`{option.default}`"


def _metavar(option: Any) -> str:
    return str(option.metavar or option.display_type(None).strip("<>").removeprefix("list[").removesuffix("]")).upper()


def _plugins(kind: str) -> Iterator[str]:
    for name in plugins.names(kind):
        said = _plain((plugins.load(kind, name).__doc__ or "").split("\n\n")[0])
        yield f"| `{name}` | {_cell(said)} |"


def _plain(text: str) -> str:
    """Reflowed, with what Markdown would take for code or emphasis kept as it is."""
    return re.sub(r"\s+", " ", text.replace("``", "`").replace("\f", " ")).strip()


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("<", "&lt;")
