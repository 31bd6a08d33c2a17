"""``unbatch list``, ``describe`` and ``version``: what there is."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from unbatch.cli.app import app, echo
from unbatch.errors import UnknownPlugin, printable

__all__ = ["describe", "list_", "version"]


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="attacks, labels, protocols, defenses, models, datasets or metrics; all if not given.")
    ] = None,
) -> None:
    """Print the names of all plug-ins of a kind, one a line; of attacks a table of what each needs, yields and costs; or all kinds."""
    from unbatch import plugins

    if kind is None:
        for one in plugins.KINDS:
            echo(f"{one}: {', '.join(plugins.names(one))}")
        return
    names = plugins.names(kind)
    if kind == "attacks":
        _print_attacks(names)
        return
    for name in names:
        echo(name)


def _print_attacks(names: list[str]) -> None:
    """Name, needs, yields and cost of each, in the order in which they are worth trying."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unbatch import choosing, plugins
    from unbatch.contracts import Yield

    rows: list[tuple[float, tuple[str, ...]]] = []
    for name in names:
        try:
            cls = plugins.load("attacks", name)
        except UnknownPlugin as error:  # a stranger's, which must not hide the others
            rows.append((math.inf, (name, str(error), "", "")))
            continue
        yields = ", ".join(each.name.lower() for each in Yield if each in cls.yields)
        rows.append((cls.rank, (name, ", ".join(cls.needs.words) or "nothing more", yields, cls.cost)))
    table = Table("attack", "needs", "yields", "cost", box=None, pad_edge=False)
    rows.append((-math.inf, (choosing.NAME, "nothing more", "what the best of those below does", "up to its budget of 150 seconds")))
    for _, cells in sorted(rows):
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


@app.command()
def describe(name: Annotated[str, typer.Argument(help="Of a plug-in; see `unbatch list KIND`.")]) -> None:
    """Print what a plug-in is and its settings, with their types and defaults."""
    from unbatch import choosing, plugins

    if name == choosing.NAME:
        echo(_description("attacks", name, choosing.Auto))
        return
    kinds = [kind for kind in plugins.KINDS if name in plugins.names(kind)]
    if not kinds:
        raise UnknownPlugin("the name of a plug-in", repr(name), "see `unbatch list KIND`")
    echo("\n\n".join(_description(kind, name, plugins.load(kind, name)) for kind in kinds))


def _description(kind: str, name: str, cls: type[Any]) -> str:
    import inspect
    from dataclasses import MISSING, fields

    from unbatch.contracts import Attack, Yield

    text = (inspect.getdoc(cls) or "").partition("\nExample:")[0].strip()
    lines = [f"{kind}: {name}", "", text, ""]
    if issubclass(cls, Attack):
        lines += ["Needs:", *(f"    {need}" for need in cls.needs.words or ("nothing but the model and its update",))]
        lines += ["", "Yields, at best:", *(f"    {each.value}" for each in Yield if each in cls.yields), "", f"Cost: {cls.cost}", ""]
    lines.append("Settings:")
    for field in fields(cls):
        default = "required" if field.default is MISSING else f"= {field.default!r}"
        lines.append(f"    {field.name}: {field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)} {default}")
    return "\n".join(lines if fields(cls) else [*lines[:-1], "No settings."])


@app.command()
def version() -> None:
    """Print the version."""
    import unbatch

    echo(f"unbatch {unbatch.__version__}")
