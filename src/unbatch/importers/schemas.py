"""How to read an input, from a file that a person wrote."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from unbatch.errors import BadFile, Misuse
from unbatch.reading import read_text
from unbatch.types import Schema

__all__ = ["read_schema"]

OF_THE_ROWS = {"label", "separator", "drop_missing"}
"""What a file of columns says of the file of rows beside it: see ``unbatch describe table``."""


def read_schema(path: str | Path) -> Schema:
    """A schema from TOML or JSON: the file of columns that stands beside a CSV file, or what a report keeps of a schema.

    Raises:
        BadFile: the file cannot be read, or says no schema.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.toml"
        >>> _ = path.write_text('label = "rich"' + chr(10) + '[[columns]]' + chr(10) + 'name = "age"')
        >>> read_schema(path).columns[0].name
        'age'
    """
    path, expected = Path(path), "a TOML or JSON file that says how to read an input"
    try:
        text = read_text(path, expected, "give the file of columns, not the rows")
        plain = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except BadFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFile(expected, f"'{path}' ({error})", "see `unbatch describe table`") from error
    if not isinstance(plain, dict):
        raise BadFile(expected, f"a {type(plain).__name__} in '{path}'", "see `unbatch describe table`")
    try:
        return Schema.from_dict({key: value for key, value in plain.items() if key not in OF_THE_ROWS})
    except Misuse as error:
        raise BadFile(f"{error.expected} in '{path}'", error.came, error.advice) from error
