"""A ``Sheet`` in the formats of other programs. One file a format; ``write`` finds it by its name."""

from collections.abc import Callable
from typing import Final

from unbatch.report.claims import Sheet
from unbatch.report.formats import junit, markdown, sarif, text

__all__ = ["FORMATS", "write"]

FORMATS: Final[dict[str, Callable[[Sheet], str]]] = {
    "text": text.write,
    "json": lambda sheet: sheet.model_dump_json(indent=2) + "\n",
    "md": markdown.write,
    "sarif": sarif.write,
    "junit": junit.write,
}


def write(sheet: Sheet, name: str) -> str:
    """The sheet as text of a format, with a newline at its end."""
    return FORMATS[name](sheet)
