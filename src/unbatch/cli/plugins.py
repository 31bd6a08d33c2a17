"""``unbatch list``, ``describe`` and ``version``: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from unbatch.cli.app import app, echo
from unbatch.errors import UnknownPlugin

__all__ = ["describe", "list_", "version"]


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="attacks, labels, protocols, defenses, models, datasets or metrics; all if not given.")
    ] = None,
) -> None:
    """Print the names of all plug-ins of a kind, one a line; or all kinds, each with its names."""
    from unbatch import plugins

    if kind is None:
        for one in plugins.KINDS:
            echo(f"{one}: {', '.join(plugins.names(one))}")
        return

    for name in plugins.names(kind):
        echo(name)


@app.command()
def describe(name: Annotated[str, typer.Argument(help="Of a plug-in; see `unbatch list KIND`.")]) -> None:
    """Print what a plug-in is and its settings, with their types and defaults."""
    from unbatch import plugins

    kinds = [kind for kind in plugins.KINDS if name in plugins.names(kind)]
    if not kinds:
        raise UnknownPlugin("the name of a plug-in", repr(name), "see `unbatch list KIND`")
    echo("\n\n".join(_description(kind, name) for kind in kinds))


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

    echo(f"unbatch {unbatch.__version__}")
