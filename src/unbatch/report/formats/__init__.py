"""A ``Sheet`` in the formats of other programs. One file a format; ``write`` finds it by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from unbatch.report.claims import Sheet
from unbatch.report.formats import junit, markdown, sarif, text

__all__ = ["ENDINGS", "FORMATS", "of_path", "write"]

FORMATS: Final[dict[str, Callable[[Sheet], str]]] = {
    "text": text.write,
    "json": lambda sheet: sheet.model_dump_json(indent=2) + "\n",
    "md": markdown.write,
    "sarif": sarif.write,
    "junit": junit.write,
}

ENDINGS: Final = {".txt": "text", ".json": "json", ".md": "md", ".sarif": "sarif", ".xml": "junit"}
"""A path that ends so is a file of that format, and no folder."""


def of_path(path: Path) -> str | None:
    """The format that a file's name asks for, or None where the path is a folder's.

    Example:
        >>> of_path(Path("out/scan.sarif")), of_path(Path("report"))
        ('sarif', None)
    """
    return ENDINGS.get(path.suffix.lower())


def write(sheet: Sheet, name: str) -> str:
    """The sheet as text of a format, with a newline at its end."""
    return FORMATS[name](sheet)
