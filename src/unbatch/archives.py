"""The one reader of archives, for updates, truths and data sets alike. Files are data: nothing in them can run.

An npz file is a zip archive of arrays, and a stranger may have written it: it may hold pickles that would run code, unfold to more than
there is memory, declare arrays that it does not hold, or hold one name twice. All of that is refused before memory is taken for it.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unbatch.errors import BadFile
from unbatch.reading import opened, reading

__all__ = ["entries", "read_npz"]

Array = npt.NDArray[Any]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
