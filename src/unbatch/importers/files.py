"""Formats to tensors: safetensors, npz, and torch files of plain tensors. Nothing in them can run."""

from __future__ import annotations

import math
import os
import pickle
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unbatch.errors import BadFile

__all__ = ["format_of", "read_arrays", "read_tensors", "room_for", "to_tensor"]

_NESTS = ("state_dict", "model", "gradients", "update")
"""Keys under which checkpoints keep their tensors."""

_DAMAGE = (
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
    pickle.UnpicklingError,
    safetensors.SafetensorError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers of numpy, safetensors and torch raise on damaged files, found by feeding them some."""

_CODE = "save the plain tensors, best with safetensors.torch.save_file(model.state_dict(), path)"


def read_tensors(path: str | Path, most: int | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors, npz or torch file, by name, on the CPU.

    The format is told by the content. A torch file may hold the tensors directly or in one of ``state_dict``, ``model``,
    ``gradients`` or ``update``. Pickles with anything but tensors and plain containers in them are refused, not run.

    Args:
        path: of the file.
        most: bytes that decompression may add to a compressed file; half of the machine's memory if None.

    Raises:
        BadFile: the file is missing, damaged, of another format, holds something else than dense tensors, or could run code.

    Example:
        >>> read_tensors("nowhere.safetensors")
        Traceback (most recent call last):
        unbatch.errors.BadFile: expected a readable file, got 'nowhere.safetensors' (No such file or directory): check the path
    """
    path = Path(path)
    content = _READERS[format_of(path, most)](path)
    for name, tensor in content.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise BadFile(
                f"dense tensors in '{path}'", f"a {_describe(tensor)} one in {name!r}", "save it with .to_dense() or .dequantize()"
            )
    return content


def _describe(tensor: Tensor) -> str:
    kinds = {"quantized": tensor.is_quantized, "meta": tensor.is_meta, "nested": tensor.is_nested}
    return next((kind for kind, true in kinds.items() if true), str(tensor.layout).removeprefix("torch."))


def room_for(model: nn.Module) -> int:
    """Bytes that decompression may add to a file of a model's tensors: what eight copies in float64 take, and a little."""
    return (1 << 24) + 64 * sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def format_of(path: Path, most: int | None = None) -> str:
    """``safetensors``, ``npz`` or ``torch``, told by the content.

    Args:
        path: of the file.
        most: see ``read_tensors``.

    Raises:
        BadFile: it is none of them, cannot be read, or would unfold to more than ``most``.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadFile("a readable file", f"'{path}' (a pipe or a device)", "write it to a file first")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise BadFile("a readable file", f"'{path}' ({error.strerror})", "check the path") from error
    if head[8:] == b"{":
        return "safetensors"
    if head.startswith(b"\x80"):
        return "torch"
    if head.startswith(b"PK\x03\x04"):
        names = _names_in(path, most)
        if any(name.endswith(".npy") for name in names):
            return "npz"
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
    raise BadFile("a safetensors, npz or torch file", f"'{path}', which begins like none of them", "check that it was copied whole")


def _names_in(path: Path, most: int | None) -> list[str]:
    """The files in an archive, once it is clear that they are different ones and do not unfold to more than there is room for."""
    with _read(path, "zip archive"), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    most = _half_of_memory() if most is None else most
    if (added := sum(info.file_size for info in infos) - path.stat().st_size) > most:
        came = f"'{path}', which would take {added / 1e9:.3g} GB"
        raise BadFile(f"an archive that unfolds to at most {most / 1e9:.3g} GB more", came, "check that it is of this model")
    names = [info.filename for info in infos]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise BadFile(f"different names in '{path}'", f"two entries {twice!r}", "save it again")
    return names


def _half_of_memory() -> int:
    """Of the machine, in bytes, where the system tells; else 4 GiB."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 1 << 32


@contextmanager
def _read(path: Path, kind: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGE as error:
        if isinstance(error, BadFile):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadFile(f"a whole {kind}", f"'{path}' ({reason[0]:.120})", "copy or save the file again") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _read(path, "safetensors file"):
        return safetensors.torch.load_file(path)


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of an npz file, by name."""
    # Opened here and not by numpy, which forgets to close a file that it cannot read.
    with _read(path, "npz file"), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for info in archive.zip.infolist():
            if (size := _declared_size(archive.zip, info)) > info.file_size:
                raise BadFile(f"{size} bytes of {info.filename!r}, as its header says", f"{info.file_size} in '{path}'", "save it again")
        try:
            arrays = {name: archive[name] for name in archive.files}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise BadFile("arrays of numbers", f"'{path}', with pickled objects in it that could run code", "save plain arrays") from error
        if twice := next((name for i, name in enumerate(archive.files) if name in archive.files[:i]), None):
            raise BadFile(f"different names in '{path}'", f"two arrays {twice!r}", "save it again")
    if foreign := next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None):
        raise BadFile(f"only arrays in '{path}'", f"another file, {foreign!r}", "save it with numpy.savez")
    return arrays


def _declared_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes that numpy would set aside for an array before it has read one of them; 0 for what is no array of numbers."""
    with archive.open(info) as file:
        if file.read(6) != b"\x93NUMPY":
            return 0
    with archive.open(info) as file:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        reader = readers.get(np.lib.format.read_magic(file))
        shape, _, dtype = reader(file) if reader else ((), False, np.dtype(object))
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays = read_arrays(path)
    tensors = {}
    for name, array in arrays.items():
        try:
            tensors[name] = to_tensor(array)
        except TypeError as error:
            raise BadFile(f"numbers that torch knows in '{path}'", f"{array.dtype} in {name!r}", "save only the tensors") from error
    return tensors


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The same numbers as a tensor.

    Raises:
        TypeError: they are none, or of a type that torch does not have.
    """
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{array.dtype} is no type of number")
    # torch reads arrays in the machine's byte order only.
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape))


def _read_torch(path: Path) -> dict[str, Tensor]:
    # Opened here, because torch gives a path that ends in .safetensors to another reader, whatever the file holds.
    with _read(path, "torch file"), path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "nsupported" not in str(error):  # as in "Unsupported global"; all else is damage
                raise
            raise BadFile("tensors and nothing else", f"'{path}', a pickle with objects in it that could run code", _CODE) from error
    return _flat(path, content)


def _flat(path: Path, content: Any) -> dict[str, Tensor]:
    """Named tensors, taken out of the one nest that holds them, if any does."""
    if isinstance(content, Mapping):
        nests = [key for key in _NESTS if isinstance(content.get(key), Mapping)]
        if len(nests) > 1:
            raise BadFile(f"one set of tensors in '{path}'", f"several, {' and '.join(nests)}", "save the wanted one alone")
        content = content[nests[0]] if nests else content
    if not isinstance(content, Mapping):
        raise BadFile(f"a mapping of name to tensor in '{path}'", f"a {type(content).__name__}", "save model.state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadFile(f"a mapping of name to tensor in '{path}'", f"a {type(value).__name__} under {name!r}", "save model.state_dict()")
    return {name: value.detach() for name, value in content.items()}


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "safetensors": _read_safetensors,
    "npz": _read_npz,
    "torch": _read_torch,
}
