"""The one reader of archives, for updates, truths and data sets alike. Files are data: nothing in them can run.

An npz file is a zip archive of arrays, and a stranger may have written it: it may hold pickles that would run code, unfold to more than
there is memory, declare arrays that it does not hold, or hold one name twice. All of that is refused before memory is taken for it.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from unbatch.errors import BadFile

__all__ = ["entries", "opened", "read_npz", "read_text", "reading"]

Array = npt.NDArray[Any]

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

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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


def entries(path: Path, archive: zipfile.ZipFile, most: int | None = None, wanted: Collection[str] | None = None) -> list[zipfile.ZipInfo]:
    """What is in an archive, once it is clear that it is different files, which do not unfold to more than there is room for.

    Args:
        path: of the archive, for the sentence.
        archive: open.
        most: bytes that unfolding may add to the file's own; half of the machine's memory if None.
        wanted: arrays that will be unfolded; all if None.

    Raises:
        BadFile: it is not so.
    """
    infos = archive.infolist()
    names = [_array_name(info) for info in infos]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise BadFile(f"different names in '{path}'", f"two arrays {twice!r}", "save it again")
    infos = [info for info, name in zip(infos, names, strict=True) if wanted is None or name in wanted]
    most = _half_of_memory() if most is None else most
    if (added := sum(info.file_size for info in infos) - path.stat().st_size) > most:
        came = f"'{path}', which would take {added / 1e9:.3g} GB"
        raise BadFile(f"an archive that unfolds to at most {most / 1e9:.3g} GB more", came, "check that it is what you mean")
    return infos


def read_npz(path: Path, wanted: Collection[str] | None = None, most: int | None = None) -> dict[str, Array]:
    """The arrays of an npz file, by name.

    Args:
        path: of the file.
        wanted: names of the arrays to read, where they are there; all, and nothing but arrays, if None.
        most: bytes that unfolding may add to the file's own; half of the machine's memory if None.

    Raises:
        BadFile: the file is missing, damaged, something else, too large when unfolded, or could run code.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(path, rows=np.eye(2), labels=np.array([3, 1]))
        >>> read_npz(path, wanted=["labels", "names"])["labels"].tolist()
        [3, 1]
    """
    with opened(path) as file, reading(path, "npz file"), zipfile.ZipFile(file) as archive:
        return {_array_name(info): _array(path, archive, info) for info in entries(path, archive, most, wanted)}


def _array_name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """One array, for which numpy sets memory aside only when the archive is known to hold its numbers."""
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
        except ValueError as error:
            raise BadFile(f"only arrays in '{path}'", f"another file, {_array_name(info)!r}", "save it with numpy.savez") from error
        if version not in _HEADERS:
            raise BadFile(f"arrays of numbers in '{path}'", f"version {version} of the format", "save plain arrays")
        shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise BadFile("arrays of numbers", f"'{path}', with pickled objects in it that could run code", "save plain arrays")
    if (size := math.prod(shape) * dtype.itemsize) > info.file_size:
        raise BadFile(f"{size} bytes of {info.filename!r}, as its header says", f"{info.file_size} in '{path}'", "save it again")
    with archive.open(info) as file:
        found: Array = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _half_of_memory() -> int:
    """Of the machine, in bytes, where the system tells; else 4 GiB."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 1 << 32
