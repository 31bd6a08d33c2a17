"""The client's batch and its labels, where the auditor has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.archives import read_npz
from unbatch.errors import BadFile
from unbatch.importers.files import format_of, to_tensor
from unbatch.trace import run
from unbatch.types import Batch, Schema

__all__ = ["read_labels", "read_records", "read_truth"]


def read_truth(
    path: str | Path,
    schema: Schema | None = None,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    regression: nn.Module | None = None,
    *,
    targets: bool = False,
) -> Batch:
    """The client's batch, where the auditor has it, from an npz file.

    The file holds ``labels`` (b,) and either ``inputs`` (b, *shape), floats (or tokens) as the network saw them, or ``images`` (b, H, W) or
    (b, H, W, C), uint8, which are scaled to 0..1, put channels first and normalized by the schema.

    Args:
        path: of the npz file.
        schema: how the network's inputs were made from raw ones; guessed from the shape where it is not given.
        input_shape: what the samples must have, if given.
        classes: how many there are, if known.
        regression: the model, as ``scores.beside_zero`` makes it, where ``labels`` are targets, numbers (b,) or (b, 1): labels are then
            the sides on which they lie.
        targets: whether ``labels`` may also be numbers (b, classes), a target for each score: where these are one-hot they are
            labels, and else no sample has one, and all are -1.

    Raises:
        BadFile: the file cannot be read or does not hold such a batch.
    """
    path = Path(path)
    arrays = _read_truth_arrays(path)
    labels = _labels(path, arrays, classes, targets=targets) if regression is None else _targets(path, arrays)
    if "inputs" in arrays:
        tokens = schema is not None and schema.kind == "tokens"
        if arrays["inputs"].dtype.kind not in ("iu" if tokens else "f") or arrays["inputs"].ndim < 2:
            what = "tokens, whole numbers (b, length)," if tokens else "floats (b, ...)"
            raise BadFile(f"{what} in 'inputs' of '{path}'", _said(arrays["inputs"]), "save what the network saw")
        inputs = _known(path, "inputs", arrays["inputs"])
        inputs = inputs.to(torch.int64) if tokens else inputs
    else:
        inputs = _images(path, arrays, schema)
    shape = tuple(inputs.shape[1:])
    if len(inputs) != len(labels) or not len(inputs):
        raise BadFile(f"one label for every sample in '{path}'", f"{len(labels)} labels for {len(inputs)} samples", "save the batch again")
    if not bool(inputs.isfinite().all()):
        raise BadFile(f"finite inputs in '{path}'", "NaN or infinity", "save the batch again")
    if input_shape is not None and shape != tuple(input_shape):
        raise BadFile(f"samples of shape {tuple(input_shape)} in '{path}'", f"{shape}", "make the truth and the input shape agree")
    labels = labels if regression is None else (labels > run(regression, inputs).outputs.detach()[:, 1]).to(torch.int64)
    return Batch(inputs, labels, schema or Schema.guess(shape))


def read_records(
    path: str | Path, schema: Schema | None = None, input_shape: Sequence[int] | None = None, classes: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Records (k, *shape) to ask for, and their labels (k,) where the file has them, from an npz file.

    The file is like that of ``read_truth``, but for ``labels``, which may be missing, or numbers, the targets of a regression, which are
    not read; and ``inputs``, which may be tokens: whole numbers.

    Raises:
        BadFile: the file cannot be read or does not hold records.
    """
    path = Path(path)
    arrays = _read_truth_arrays(path)
    named = "labels" in arrays and arrays["labels"].dtype.kind != "f"
    labels = _labels(path, arrays, classes) if named else None
    if "inputs" in arrays:
        if arrays["inputs"].dtype.kind not in "fiu" or arrays["inputs"].ndim < 2:
            raise BadFile(f"numbers (k, ...) in 'inputs' of '{path}'", _said(arrays["inputs"]), "save what the network sees")
        inputs = _known(path, "inputs", arrays["inputs"])
        inputs = inputs if inputs.is_floating_point() else inputs.to(torch.int64)
    else:
        inputs = _images(path, arrays, schema)
    shape = tuple(inputs.shape[1:])
    if not len(inputs) or (labels is not None and len(labels) != len(inputs)):
        came = f"{0 if labels is None else len(labels)} labels for {len(inputs)} records"
        raise BadFile(f"records in '{path}', and a label for each or none", came, "save them again")
    if input_shape is not None and shape != tuple(input_shape):
        raise BadFile(f"records of shape {tuple(input_shape)} in '{path}'", f"{shape}", "make the records and the input shape agree")
    return inputs, labels


def _known(path: Path, name: str, array: np.ndarray[Any, Any]) -> Tensor:
    try:
        return to_tensor(array)
    except TypeError as error:
        raise BadFile(f"numbers that torch knows in '{path}'", f"{array.dtype} in {name!r}", "save it in 64 bits or less") from error


def read_labels(path: str | Path) -> Tensor:
    """Labels (b,) int64 from ``labels`` of an npz file, for an adversary who knows them.

    Raises:
        BadFile: the file cannot be read or does not hold labels.
    """
    return _labels(Path(path), _read_truth_arrays(Path(path)))


def _read_truth_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if (kind := format_of(path)) != "npz":
        raise BadFile("an npz file", f"'{path}', a {kind} file", "save it with numpy.savez(path, inputs=..., labels=...)")
    return read_npz(path)


def _labels(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], classes: int | None = None, *, targets: bool = False) -> Tensor:
    labels = arrays.get("labels")
    if targets and labels is not None and labels.dtype.kind in "fiu" and labels.shape == (len(labels), classes):
        marked = to_tensor(labels)
        one_hot = bool((((marked == 0) | (marked == 1)).all(dim=1) & (marked.sum(dim=1) == 1)).all())
        return marked.argmax(dim=1) if one_hot else torch.full((len(labels),), -1)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BadFile(f"whole numbers (b,) in 'labels' of '{path}'", _said(labels), "save one class index a sample")
    most = (classes or 1 << 31) - 1
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= most:
        raise BadFile(f"labels from 0 to {most} in '{path}'", f"{labels.min()} to {labels.max()}", "save one class index a sample")
    return to_tensor(labels).to(torch.int64)


def _targets(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
    targets = arrays.get("labels")
    if targets is None or targets.dtype.kind not in "fiu" or targets.shape not in ((len(targets),), (len(targets), 1)):
        raise BadFile(f"numbers (b,) or (b, 1) in 'labels' of '{path}'", _said(targets), "save one target a sample")
    return to_tensor(targets).reshape(-1)


def _images(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], schema: Schema | None) -> Tensor:
    images = arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise BadFile(f"'inputs', or 'images' as uint8 (b, H, W) or (b, H, W, C), in '{path}'", _said(images), "save one of them")
    raw = to_tensor(images).to(torch.float64) / 255
    raw = raw[:, None] if raw.ndim == 3 else raw.movedim(-1, 1)
    if schema is not None and len(schema.mean) not in (0, 1, raw.shape[1]):
        raise BadFile(f"a mean for each of the {raw.shape[1]} channels of '{path}'", str(len(schema.mean)), "make them agree")
    return raw if schema is None else schema.to_network(raw)


def _said(array: np.ndarray[Any, Any] | None) -> str:
    return "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
