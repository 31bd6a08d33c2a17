"""Objects of a running federation to tensors: a Flower ``ArrayRecord``, a list of numpy arrays, a state dict. Flower is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from unbatch.errors import BadUpdate
from unbatch.importers.files import read_tensors, to_tensor

__all__ = ["Sent", "TorchRecord", "tensors_of"]


@runtime_checkable
class TorchRecord(Protocol):
    """What gives its tensors by name, as Flower's ``ArrayRecord`` does."""

    def to_torch_state_dict(self) -> Mapping[str, Tensor]:
        """Name -> tensor."""


@runtime_checkable
class ArraysRecord(Protocol):
    """What gives its arrays in order, as Flower's ``ArrayRecord`` does too."""

    def to_numpy_ndarrays(self) -> Sequence[Any]:
        """The arrays."""


Sent = str | Path | TorchRecord | ArraysRecord | Mapping[str, Any] | Sequence[Any]
"""What a client may have sent: a file of it, a Flower record, tensors or arrays by name, or a list of them."""


def tensors_of(sent: Sent, most: int | None = None) -> dict[str, Tensor]:
    """The tensors, by name; by number where they have none.

    Args:
        sent: a file, a record, a mapping or a list.
        most: bytes that a compressed file may unfold to, see ``read_tensors``.

    Raises:
        BadFile: see ``read_tensors``.
        BadUpdate: there is something else than tensors and arrays of numbers in it.

    Example:
        >>> {name: tuple(tensor.shape) for name, tensor in tensors_of([np.ones((2, 1)), np.ones(2)]).items()}
        {'0': (2, 1), '1': (2,)}
    """
    if isinstance(sent, (str, Path)):
        return read_tensors(sent, most)
    try:
        if isinstance(sent, TorchRecord):
            sent = sent.to_torch_state_dict()
        elif isinstance(sent, ArraysRecord):
            sent = sent.to_numpy_ndarrays()
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise BadUpdate(f"numpy arrays in a {type(sent).__name__}", f"{str(error)!r:.120}", "make it from a state dict") from error
    if isinstance(sent, Tensor) or not isinstance(sent, (Mapping, Sequence)):
        raise BadUpdate("a file, a record, tensors by name or a list of arrays", f"a {type(sent).__name__}", "give model.state_dict()")
    named = sent if isinstance(sent, Mapping) else {str(i): value for i, value in enumerate(sent)}
    return {name: _tensor(name, value) for name, value in named.items()}


def _tensor(name: object, value: object) -> Tensor:
    if isinstance(name, str) and isinstance(value, Tensor):
        return value.detach()
    if isinstance(name, str) and isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        try:
            return to_tensor(np.asarray(value))
        except TypeError:  # a type of numpy that torch does not have
            pass
    came = f"{value.dtype} numbers" if isinstance(value, (np.ndarray, np.generic)) else f"a {type(value).__name__}"
    raise BadUpdate("tensors or arrays of numbers by name", f"{came} under {name!r}", "give model.state_dict()")
