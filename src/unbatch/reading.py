"""Files that strangers name and write: a path that is no file, and what is damaged in it, become one sentence."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unbatch.errors import BadFile

__all__ = ["opened", "read_text", "reading"]

_DAMAGE: tuple[type[Exception], ...] = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What readers of numpy, safetensors and torch raise on damaged files, found by feeding them some."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading; a pipe would wait for ever, and a device never end.

    Raises:
        BadFile: there is none.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadFile("a readable file", f"'{path}' (a pipe or a device)", "write it to a file first")
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadFile("a readable file", f"'{path}' ({error.strerror})", "check the path") from error
    with file:
        yield file


def read_text(path: Path, kind: str, do: str, largest: int = 1 << 20) -> str:
    """The text of a small file that a person or a program wrote.

    Args:
        path: of the file.
        kind: what it should be, for the sentence.
        do: what to do if it is not.
        largest: bytes that are read at most.

    Raises:
        BadFile: it cannot be read, is larger, or is no text in UTF-8.
    """
    with opened(path) as file:
        try:
            content = file.read(largest + 1)
            if len(content) > largest:
                raise BadFile(kind, f"more than {largest:,} bytes in '{path}'", do)
            return content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(kind, f"'{path}' ({error})", do) from error


@contextmanager
def reading(path: Path, kind: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever a reader raises on a damaged file becomes one sentence.

    Args:
        path: of the file.
        kind: what it should be, for the sentence.
        also: further exceptions of this reader.

    Raises:
        BadFile: the block raised one of them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGE + also as error:
        if isinstance(error, BadFile):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadFile(f"a whole {kind}", f"'{path}' ({reason[0]:.120})", "copy or save the file again") from error
