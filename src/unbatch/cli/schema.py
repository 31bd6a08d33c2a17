"""``unbatch schema``: the JSON schemas of everything that unbatch writes in JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from unbatch.cli.app import app
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.records import Record

__all__ = ["SCHEMAS", "schema"]

SCHEMAS: Final = {
    "result": "unbatch.report.claims:Sheet",
    "report": "unbatch.store.findings:StoredFinding",
    "labels": "unbatch.store.counts:StoredLabels",
    "exposure": "unbatch.exposure.findings:Exposure",
    "members": "unbatch.store.members:StoredMembers",
    "index": "unbatch.report.index:Index",
    "defend": "unbatch.defending:Trade",
}
"""What is written -> the record that it is."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@app.command()
def schema(name: Annotated[str, typer.Argument(help=f"{', '.join(SCHEMAS)}.")]) -> None:
    """Print the JSON schema of what unbatch writes: a result of --format json, report.json, labels.json, exposure.json,
    members.json, index.json or defend.json.
    """
    from importlib import import_module

    if name not in SCHEMAS:
        raise Misuse(f"a schema among {', '.join(SCHEMAS)}", repr(name), "name one of them")
    module, _, record = SCHEMAS[name].partition(":")
    cls: type[Record] = getattr(import_module(module), record)
    typer.echo(json.dumps({"$schema": DIALECT, **cls.model_json_schema(mode="serialization")}, indent=2, ensure_ascii=False))
