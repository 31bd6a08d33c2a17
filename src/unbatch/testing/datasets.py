"""What every data set must keep."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from unbatch.contracts import Dataset
from unbatch.errors import Misuse
from unbatch.testing.promises import ContractBroken, Promises, require, untouched

__all__ = ["check_dataset"]

LIGHT = 1000
"""Bytes that a data set may weigh when it is sent to another process: its settings, not its samples."""

SAMPLES = 5
"""Samples that a data set must have to be checked."""


def check_dataset(dataset: Dataset) -> None:
    """Hold a data set of five samples or more to its contract.

    Args:
        dataset: to be checked.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_dataset(build("datasets", "digits"))
    """
    promises = Promises(dataset, "datasets")
    with promises.kept("a batch is what its schema and shape say"):
        _require_form(dataset)
    with promises.kept("the same seed draws the same batch, and nothing else is touched"):
        with untouched():
            first, second = dataset.batch(SAMPLES, seed=1), dataset.batch(SAMPLES, seed=1)
        require(torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels), "another batch the second time")
    with promises.kept("order and repetition of indices are kept"):
        batch = dataset.take(torch.tensor([4, 1, 4]))
        require(torch.equal(batch.inputs[0], batch.inputs[2]), "one index gives two samples")
        require(torch.equal(batch.inputs[1], dataset.take(torch.tensor([1])).inputs[0]), "a sample depends on those beside it")
        empty = dataset.take(torch.tensor([], dtype=torch.int64))
        require(tuple(empty.inputs.shape) == (0, *dataset.input_shape), f"no indices give the shape {tuple(empty.inputs.shape)}")
    with promises.kept("changing a batch does not change the set"):
        _require_apart(dataset)
    with promises.kept("indices and sizes that cannot be are refused as Misuse"):
        wrong = [torch.tensor([-1]), torch.tensor([len(dataset)]), torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor(0)]
        for indices in wrong:
            _require_refused(lambda indices=indices: dataset.take(indices), f"the indices {indices.tolist()}")  # type: ignore[misc]
        for size in (0, len(dataset) + 1):
            _require_refused(lambda size=size: dataset.batch(size), f"a batch size of {size}")  # type: ignore[misc]
    with promises.kept("it crosses a process boundary without its samples"):
        dataset.batch(2)
        message = pickle.dumps(dataset)
        require(len(message) < LIGHT, f"{len(message)} bytes: keep what was read out of the fields")
        again: Dataset = pickle.loads(message)  # noqa: S301  (dumped in the line above)
        require(torch.equal(again.batch(2).inputs, dataset.batch(2).inputs), "another set arrives")
    promises.settle()


def _require_form(dataset: Dataset) -> None:
    schema, batch = dataset.schema, dataset.batch(SAMPLES, seed=3)
    schema.check(dataset.input_shape)
    expected: Tensor = torch.zeros((SAMPLES, *dataset.input_shape), dtype=torch.int64 if schema.kind == "tokens" else torch.float64)
    require(batch.inputs.shape == expected.shape, f"inputs of shape {tuple(batch.inputs.shape)}, not {tuple(expected.shape)}")
    require(batch.inputs.dtype == expected.dtype, f"inputs of type {batch.inputs.dtype}, not {expected.dtype}")
    require(tuple(batch.labels.shape) == (SAMPLES,) and batch.labels.dtype == torch.int64, "labels that are not (b,) int64")
    require(0 <= int(batch.labels.min()) <= int(batch.labels.max()) < len(schema.classes), "labels that its schema has no class for")
    require(batch.schema == schema, "a batch with another schema than the set's")
    again = schema.encode(schema.decode(batch.inputs))
    require(torch.allclose(again.to(batch.inputs), batch.inputs, atol=1e-6), "inputs that its schema does not read and write again")


def _require_apart(dataset: Dataset) -> None:
    batch = dataset.take(torch.tensor([0]))
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    batch.inputs.zero_()
    batch.labels.fill_(-5)
    again = dataset.take(torch.tensor([0]))
    require(torch.equal(again.inputs, inputs) and torch.equal(again.labels, labels), "it does: copy what take() returns")


def _require_refused(attempt: Callable[[], object], what: str) -> None:
    try:
        attempt()
    except Misuse:
        return
    raise ContractBroken(f"{what} is not")
