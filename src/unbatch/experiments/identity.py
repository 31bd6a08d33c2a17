"""What a trial's id is made of: its settings, the data behind them, and the code that runs them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unbatch import plugins, specs
from unbatch.errors import Misuse

__all__ = ["built", "code_version", "digest", "expanded", "files_digest"]

APART = ("cli", "report")
"""Parts of the package that cannot change a result."""

BESIDE = ("torch", "numpy", "scipy", "scikit-learn", "scikit-image")
"""Packages that compute."""

VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


def digest(value: Any, length: int = 16) -> str:
    """A hash of a value that JSON knows.

    Example:
        >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:length]


@cache
def code_version() -> str:
    """The package's version, and a hash of its sources and of the versions of what computes with them."""
    source = Path(__file__).parents[1]
    parts = {}
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source)
        if name.parts[0] not in APART:
            parts[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    beside = {name: _version(name) for name in BESIDE} | {"python": ".".join(map(str, sys.version_info[:2]))}
    return f"{_version('unbatch')}+{digest([parts, beside, _plugins()], 12)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _plugins() -> list[str]:
    """What other packages add, with their versions."""
    points = [point for kind in specs.KINDS for point in specs.added(kind)]
    return sorted({f"{point.group} {point.name} {point.dist.version if point.dist else ''}" for point in points})


def expanded(spec: str) -> str:
    """The specification with environment variables, $NAME or ${NAME}, replaced by their values.

    A plan that names its files so is the same plan on every machine.

    Raises:
        Misuse: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise Misuse(f"the environment variable {name} to be set", "none", f"set it: {name}=... unbatch run ...")
        return os.environ[name]

    return VARIABLE.sub(value, spec)


def built(kind: str, spec: str) -> Any:
    """The plug-in of a specification with environment variables in it; each is looked up once, for trials are many."""
    return _built(kind, expanded(spec))


@lru_cache(maxsize=512)
def _built(kind: str, spec: str) -> Any:
    return plugins.build(kind, spec)


def files_digest(spec: str) -> str:
    """A hash of the files that the settings of a specification name; empty where they name none.

    Example:
        >>> files_digest("mlp:width=200")
        ''
    """
    found = []
    for _, value in specs.parse(expanded(spec))[1]:
        path = Path(value).expanduser()
        if value and path.is_file():
            state = path.stat()
            found.append(_file(path, state.st_mtime_ns, state.st_size))
        elif value and path.is_dir():
            states = [(each, each.stat()) for each in sorted(path.rglob("*")) if each.is_file()]
            found.append(digest([[str(each.relative_to(path)), _file(each, s.st_mtime_ns, s.st_size)] for each, s in states]))
    return digest(found) if found else ""


@lru_cache(maxsize=4096)
def _file(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
