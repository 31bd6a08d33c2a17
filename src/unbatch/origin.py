"""Where a report comes from: when, from which files, by which command, and what its reader can run next."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from unbatch.reading import opened, reading
from unbatch.records import Record

__all__ = ["NextStep", "Origin", "SourceFile", "fingerprint", "now", "source"]

CHUNK = 1 << 20


class SourceFile(Record):
    """A file that went in.

    Attributes:
        role: what it was given as: ``weights``, ``update``, ``truth`` ...
        name: of the file, without its folder.
        sha256: of its content.
        size: in bytes.
    """

    role: str
    name: str
    sha256: str
    size: int


class NextStep(Record):
    """What a reader can do now.

    Attributes:
        why: one sentence.
        command: that does it, as arguments; empty where none does.
    """

    why: str
    command: tuple[str, ...] = ()


class Origin(Record):
    """Where a report comes from.

    Attributes:
        date: when it was made, in UTC, as ISO 8601.
        command: that makes it again, as arguments, run where it was run; empty where it came from Python.
        files: that went in.
        client: whose update it was, or empty.
        model: which model, as it was named.
        next_steps: what can be done now.
    """

    date: str
    command: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    client: str = ""
    model: str = ""
    next_steps: tuple[NextStep, ...] = ()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def source(role: str, path: Path) -> SourceFile:
    """A file that goes in, with the hash of its content.

    Raises:
        BadFile: it cannot be read, or is no file: a pipe would wait for ever, and a device never end.
    """
    digest, size = hashlib.sha256(), 0
    with opened(path) as file, reading(path, "file"):
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return SourceFile(role=role, name=path.name, sha256=digest.hexdigest(), size=size)


def fingerprint(rule: str, model: str, where: str = "") -> str:
    """The same for the same rule, model and layer, in every run: what a baseline knows a finding by.

    Args:
        rule: what was asked.
        model: as it was named; its folder does not count.
        where: the layer, or empty.

    Example:
        >>> fingerprint("samples", "a/net.py:build") == fingerprint("samples", "net.py:build") != fingerprint("labels", "net.py:build")
        True
    """
    name = model.replace("\\", "/").rpartition("/")[2]
    return hashlib.sha256("\0".join((rule, name, where)).encode()).hexdigest()[:32]
