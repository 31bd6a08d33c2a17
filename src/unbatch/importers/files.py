"""Formats to tensors: safetensors, npz, and torch files of plain tensors. Nothing in them can run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unbatch.archives import entries, read_npz
from unbatch.errors import BadFile
from unbatch.reading import opened, reading

__all__ = ["format_of", "read_tensors", "room_for", "to_tensor"]

_NESTS = ("state_dict", "model", "gradients", "update")
"""Keys under which checkpoints keep their tensors."""

_DAMAGE = (pickle.UnpicklingError, safetensors.SafetensorError)
"""What the readers of safetensors and torch raise on damaged files, beside what all readers do."""

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
    content = _READERS[format_of(path, most)](path, most)
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
    with opened(path) as file, reading(path, "file"):
        head = file.read(9)
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
    with opened(path) as file, reading(path, "zip archive"), zipfile.ZipFile(file) as archive:
        return [info.filename for info in entries(path, archive, most)]


def _read_safetensors(path: Path, _most: int | None) -> dict[str, Tensor]:
    with reading(path, "safetensors file", _DAMAGE):
        return safetensors.torch.load_file(path)


def _read_npz(path: Path, most: int | None) -> dict[str, Tensor]:
    tensors = {}
    for name, array in read_npz(path, most=most).items():
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


def _read_torch(path: Path, _most: int | None) -> dict[str, Tensor]:
    # Opened here, because torch gives a path that ends in .safetensors to another reader, whatever the file holds.
    with opened(path) as file, reading(path, "torch file", _DAMAGE):
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
    if isinstance(content, (list, tuple)) and content and all(isinstance(value, Tensor) for value in content):
        content = {str(place): value for place, value in enumerate(content)}  # as of torch.autograd.grad: without names, in order
    if not isinstance(content, Mapping):
        raise BadFile(
            f"a mapping of name to tensor in '{path}'", f"a {type(content).__name__}", "save {name: tensor}, as of model.state_dict()"
        )
    content = {name: value for name, value in content.items() if value is not None}  # gradients of what was not trained
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadFile(f"a mapping of name to tensor in '{path}'", f"a {type(value).__name__} under {name!r}", "save model.state_dict()")
    return {name: value.detach() for name, value in content.items()}


_READERS: dict[str, Callable[[Path, int | None], dict[str, Tensor]]] = {
    "safetensors": _read_safetensors,
    "npz": _read_npz,
    "torch": _read_torch,
}
