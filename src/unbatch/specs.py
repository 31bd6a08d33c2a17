"""The text that names a plug-in and its settings: ``name:field=value,field="a value, with a comma"``."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from unbatch.errors import Misuse

__all__ = ["KINDS", "added", "built_in", "check_finite", "name_of", "parse", "stages", "write"]

KINDS = ("attacks", "labels", "protocols", "defenses", "models", "datasets", "metrics")
"""Kinds of plug-ins: folders of this package, and entry points ``unbatch.KIND`` of others."""

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


_STAGE = re.compile(r'"(?:[^"\\]|\\.)*"|(\+)(?=[A-Za-z_][\w-]*\s*(?:[:+]|$))', re.DOTALL)


def stages(spec: str) -> list[str]:
    """The specifications that a + joins. One in quotes, or before a number, joins nothing.

    Example:
        >>> stages('inverting_gradients:steps=300,tv=1e+3+span:layer="a+b"')
        ['inverting_gradients:steps=300,tv=1e+3', 'span:layer="a+b"']
    """
    cuts = [found.start() for found in _STAGE.finditer(spec) if found[1]]
    return [spec[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(spec)], strict=True)]


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


def check_finite(plugin: Any) -> None:
    """Refuse a setting that is NaN, or infinite where its field does not say that it may be.

    Raises:
        Misuse: with the setting's name.
    """
    for field in fields(plugin):
        value = getattr(plugin, field.name)
        if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not field.metadata.get("infinite"))):
            raise Misuse(f"{name_of(type(plugin))}'s {field.name} to be a finite number", f"{value}", "give one")


def built_in(kind: str) -> frozenset[str]:
    """Names of the plug-ins of this package, without importing any of them."""
    folder = Path(__file__).parent / kind
    return frozenset(module.name for module in iter_modules([str(folder)]) if not module.name.startswith("_"))


def added(kind: str) -> list[EntryPoint]:
    """What other packages add to a kind, without importing any of it. A name that is built in stays what it is."""
    return [point for point in entry_points(group=f"unbatch.{kind}") if point.name not in built_in(kind)]


def name_of(cls: type[Any]) -> str:
    """The name that ``plugins.build`` knows a class by: its file's, or its entry point's.

    A class that nothing makes known has no such name, and goes by where it was defined, with a dot in it, which no name has.
    """
    module = cls.__module__
    package, _, rest = module.partition(".")
    if package == "unbatch" and rest.partition(".")[0] in KINDS:
        return module.rpartition(".")[2]
    for kind in KINDS:
        for point in added(kind):
            # Whoever has the class has imported the package that adds it: nothing is imported here.
            found: Any = sys.modules.get(point.module)
            for attribute in point.attr.split("."):
                found = getattr(found, attribute, None)
            if found is cls:
                return point.name
    return f"{module}.{cls.__qualname__}"
