"""Where in a TOML file a key or a value stands: what the parser of the standard library does not tell."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Place", "Source"]

TABLE = re.compile(r"^\s*\[\[?\s*([\w.-]+)\s*\]\]?")
KEY = re.compile(r"""^\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*=""")


@dataclass(frozen=True)
class Place:
    """A table of the file: the part above all tables has no name. Or an override on the command line.

    Attributes:
        table: its name.
        index: which one of its name, from 0.
        override: whether it is no table, but ``--set``.
    """

    table: str = ""
    index: int = 0
    override: bool = False


@dataclass(frozen=True)
class Source:
    r"""A file and its text.

    Example:
        >>> source = Source("p.toml", 'seeds = 2\n[[grid]]\nmodels = [\n  "mlp",\n  "vgg",\n]\n')
        >>> source.where(Place("grid"), "models"), source.where(Place("grid"), "models", "vgg")
        ("line 3 of 'p.toml'", "line 5 of 'p.toml'")
    """

    name: str
    text: str

    def where(self, place: Place, key: str, value: object = None) -> str:
        """The line of a key, or of a value in its list, for a sentence."""
        if place.override:
            return f"--set {key}"
        line = self._line(place, key, value)
        return f"line {line} of {self.name!r}" if line else repr(self.name)

    def _line(self, place: Place, key: str, value: object) -> int | None:
        table, seen, found = "", -1, None
        for number, text in enumerate(self.text.splitlines(), start=1):
            head = TABLE.match(text)
            if head and found is None:
                table, seen = head[1], seen + 1 if head[1] == place.table else seen
            inside = (table == place.table) and (not place.table or seen == place.index)
            if found is None and inside and (match := KEY.match(text)) and key in match.groups():
                found = number
                if value is None:
                    return found
            elif found is not None and (head or KEY.match(text)):
                return found
            if found is not None and value is not None and _holds(text, value):
                return number
        return found


def _holds(text: str, value: object) -> bool:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"' in text or f"'{value}'" in text
    return re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", text) is not None
