"""From files of a real round to an observation: the model's code, its weights, and the update that a client sent.

Weights and updates are data and are read as data: nothing in them can run. The model is code: ``load_model`` runs the file that it is
given, so give it only a file that you would run yourself.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unbatch.errors import BadFile, Misuse
from unbatch.gradients import Loss
from unbatch.types import Batch, Observation, Schema

__all__ = ["load_model", "load_observation", "load_weights", "read_labels", "read_tensors", "read_truth"]

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
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers of numpy, safetensors and torch raise on damaged files, found by feeding them some."""

_CODE = "save the plain tensors, best with safetensors.torch.save_file(model.state_dict(), path)"


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors, npz or torch file, by name, on the CPU.

    The format is told by the content. A torch file may hold the tensors directly or in one of ``state_dict``, ``model``,
    ``gradients`` or ``update``. Pickles with anything but tensors and plain containers in them are refused, not run.

    Raises:
        BadFile: the file is missing, damaged, of another format, holds something else than dense tensors, or could run code.

    Example:
        >>> read_tensors("nowhere.safetensors")
        Traceback (most recent call last):
        unbatch.errors.BadFile: expected a readable file, got 'nowhere.safetensors' (No such file or directory): check the path
    """
    path = Path(path)
    content = _READERS[_format(path)](path)
    for name, tensor in content.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise BadFile(
                f"dense tensors in '{path}'", f"a {_describe(tensor)} one in {name!r}", "save it with .to_dense() or .dequantize()"
            )
    return content


def _describe(tensor: Tensor) -> str:
    return "quantized" if tensor.is_quantized else "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")


def _format(path: Path) -> str:
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
        with _read(path, "zip archive"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return "npz"
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
    raise BadFile("a safetensors, npz or torch file", f"'{path}', which begins like none of them", "check that it was copied whole")


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


def _read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    # Opened here and not by numpy, which forgets to close a file that it cannot read.
    with _read(path, "npz file"), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        try:
            return {name: archive[name] for name in archive.files}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise BadFile("arrays of numbers", f"'{path}', with pickled objects in it that could run code", "save plain arrays") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays = _read_arrays(path)
    if foreign := next((name for name, array in arrays.items() if array.dtype.kind not in "biufc"), None):
        raise BadFile(f"numbers in every array of '{path}'", f"{arrays[foreign].dtype} in {foreign!r}", "save only the tensors")
    return {name: _tensor(array) for name, array in arrays.items()}


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
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


def load_model(reference: str) -> nn.Module:
    """Build a model with the user's own code. **This runs that code**: give it only a file that you would run yourself.

    Args:
        reference: ``FILE.py:factory`` or ``package.module:factory``; the factory is called without arguments. Modules beside the file,
            or in the working directory, can be imported by it.

    Raises:
        BadFile: there is no such file.
        Misuse: the reference, the code or what the factory returns is wrong.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise Misuse("a model as FILE.py:factory or package.module:factory", repr(reference), "add the name of the function after a colon")
    with _user_code(place):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise Misuse(f"a function {name!r} in {place}", "none" if factory is None else f"a {type(factory).__name__}", "check its name")
    with _user_code(reference):
        model = factory()
    if not isinstance(model, nn.Module):
        raise Misuse(f"a torch.nn.Module from {reference}", f"a {type(model).__name__}", "return the module that the server broadcast")
    return model


@contextmanager
def _user_code(place: str) -> Iterator[None]:
    """Whatever the user's code raises, its ``sys.exit()`` too, is a fault of that code and not of unbatch."""
    try:
        yield
    except Misuse:
        raise
    except (Exception, SystemExit) as error:
        came = f"{type(error).__name__}: {error}"
        raise Misuse(f"{place} to run without an error", f"{came!r}", "run it by itself and mend it") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadFile("a readable file", f"'{path}' (No such file)", "check the path")
    spec = importlib.util.spec_from_file_location(f"_unbatch_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadFile("a Python file", f"'{path}'", "check the path")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name.
    sys.modules[spec.name] = module
    with _importable(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put weights into a model, which takes over their precision if they all share one.

    Args:
        model: changed in place.
        tensors: parameter and buffer name -> tensor; all of the model's and no others.

    Returns:
        the model.

    Raises:
        Misuse: tensors are missing, extra, wrongly shaped or not finite.

    Example:
        >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(2)})
        Traceback (most recent call last):
        unbatch.errors.Misuse: expected weights 'bias' of shape (1,), got (2,): check that the weights are this very model's
    """
    wanted = model.state_dict()
    advice = "check that the weights are this very model's"
    if missing := [name for name in wanted if name not in tensors]:
        raise Misuse("weights for every tensor of the model", f"none for {_some(missing)}", advice)
    if extra := [name for name in tensors if name not in wanted]:
        raise Misuse("weights named like tensors of the model", _some(extra), advice)
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise Misuse(f"weights {name!r} of shape {tuple(wanted[name].shape)}", f"{tuple(tensor.shape)}", advice)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Misuse(f"finite weights in {name!r}", "NaN or infinity", "save them again: the training diverged or the file was damaged")
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(dict(tensors))
    return model


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_observation(
    model: nn.Module,
    update_path: str | Path,
    input_shape: Sequence[int],
    *,
    loss: Loss = "cross_entropy",
    batch_size: int | None = None,
    labels: Tensor | None = None,
    schema: Schema | None = None,
    device: torch.device | str = "cpu",
) -> Observation:
    """An observation from the file of a captured update, with model and update moved to ``device``.

    Args:
        model: as broadcast, with its weights, in the mode in which the client ran it.
        update_path: file with parameter name -> mean gradient over the batch, see ``read_tensors``.
        input_shape: of one sample.
        loss: see ``Observation``.
        batch_size: see ``Observation``.
        labels: see ``Observation``.
        schema: see ``Observation``.
        device: where the attack is to run.

    Raises:
        BadFile: see ``read_tensors``.
        BadUpdate: the update does not fit the model.
        Misuse: see ``Observation``.
    """
    update = {name: tensor.to(device) for name, tensor in read_tensors(update_path).items()}
    labels = None if labels is None else labels.to(device)
    return Observation(model.to(device), update, tuple(input_shape), loss, batch_size, labels, schema=schema)


def read_truth(path: str | Path, schema: Schema | None = None, input_shape: Sequence[int] | None = None) -> Batch:
    """The client's batch, where the auditor has it, from an npz file.

    The file holds ``labels`` (b,) and either ``inputs`` (b, *shape), floats as the network saw them, or ``images`` (b, H, W) or
    (b, H, W, C), uint8, which are scaled to 0..1, put channels first and normalized by the schema.

    Args:
        path: of the npz file.
        schema: how the network's inputs were made from raw ones; guessed from the shape where it is not given.
        input_shape: what the samples must have, if given.

    Raises:
        BadFile: the file cannot be read or does not hold such a batch.
    """
    path = Path(path)
    arrays = _read_truth_arrays(path)
    labels = _labels(path, arrays)
    if "inputs" in arrays:
        if arrays["inputs"].dtype.kind != "f" or arrays["inputs"].ndim < 2:
            raise BadFile(f"floats (b, ...) in 'inputs' of '{path}'", _said(arrays["inputs"]), "save what the network saw")
        inputs = _tensor(arrays["inputs"])
    else:
        inputs = _images(path, arrays, schema)
    shape = tuple(inputs.shape[1:])
    if len(inputs) != len(labels) or not len(inputs):
        raise BadFile(f"one label for every sample in '{path}'", f"{len(labels)} labels for {len(inputs)} samples", "save the batch again")
    if not bool(inputs.isfinite().all()):
        raise BadFile(f"finite inputs in '{path}'", "NaN or infinity", "save the batch again")
    if input_shape is not None and shape != tuple(input_shape):
        raise BadFile(f"samples of shape {tuple(input_shape)} in '{path}'", f"{shape}", "make the truth and the input shape agree")
    return Batch(inputs, labels, schema or Schema.guess(shape))


def read_labels(path: str | Path) -> Tensor:
    """Labels (b,) int64 from ``labels`` of an npz file, for an adversary who knows them.

    Raises:
        BadFile: the file cannot be read or does not hold labels.
    """
    return _labels(Path(path), _read_truth_arrays(Path(path)))


def _read_truth_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if (kind := _format(path)) != "npz":
        raise BadFile("an npz file", f"'{path}', a {kind} file", "save it with numpy.savez(path, inputs=..., labels=...)")
    return _read_arrays(path)


def _labels(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
    labels = arrays.get("labels")
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BadFile(f"whole numbers (b,) in 'labels' of '{path}'", _said(labels), "save one class index a sample")
    return _tensor(labels).to(torch.int64)


def _images(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], schema: Schema | None) -> Tensor:
    images = arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise BadFile(f"'inputs', or 'images' as uint8 (b, H, W) or (b, H, W, C), in '{path}'", _said(images), "save one of them")
    raw = _tensor(images).to(torch.float64) / 255
    raw = raw[:, None] if raw.ndim == 3 else raw.movedim(-1, 1)
    if schema is not None and len(schema.mean) not in (0, 1, raw.shape[1]):
        raise BadFile(f"a mean for each of the {raw.shape[1]} channels of '{path}'", str(len(schema.mean)), "make them agree")
    return raw if schema is None else schema.to_network(raw)


def _said(array: np.ndarray[Any, Any] | None) -> str:
    return "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
