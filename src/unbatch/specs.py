"""The text that names a plug-in and its settings: ``name:field=value,field="a value, with a comma"``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unbatch.errors import Misuse

__all__ = ["parse", "write"]

_PART = re.compile(r'\s*(?:(\w+)=)?+("(?:[^"\\]|\\.)*"|(?!")[^,]*)\s*(?:,|$)', re.DOTALL)


def parse(spec: str) -> tuple[str, list[tuple[str | None, str]]]:
    """The name, and (field, value) for every setting; the field is None where a value stands alone.

    A value that holds a comma or a quote stands in double quotes, in which a backslash goes before a quote and before a backslash.

    Raises:
        Misuse: a quote is not closed, or there is more after it.

    Example:
        >>> parse('npz:"a,b.npz",split=test')
        ('npz', [(None, 'a,b.npz'), ('split', 'test')])
        >>> parse("folder:/data/x=1")
        ('folder', [(None, '/data/x=1')])
    """
    name, _, text = spec.partition(":")
    settings, place = [], 0
    while place < len(text):
        found = _PART.match(text, place)
        if found is None:
            raise Misuse("settings like field=value,field=value", repr(spec), 'close the quotes: a value with a comma is written "a,b"')
        field, value = found[1], found[2]
        if field or value:
            settings.append((field, re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value.startswith('"') else value.rstrip()))
        place = found.end()
    return name, settings


def write(name: str, settings: Mapping[str, object]) -> str:
    """What ``parse`` reads.

    Example:
        >>> write("npz", {"path": "a,b.npz", "size": 3})
        'npz:path="a,b.npz",size=3'
    """
    return name + (":" if settings else "") + ",".join(f"{field}={_quoted(str(value))}" for field, value in settings.items())


def _quoted(text: str) -> str:
    if not re.search(r'[,"]', text) and text == text.strip():
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
