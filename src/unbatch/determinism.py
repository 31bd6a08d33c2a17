"""Whether a model's outputs are a function of each sample alone: measured, by running it, and not told from the kinds of its layers.

A layer of a known kind may stand in a model and never be used, and randomness may come from a line of ``forward`` that belongs to no layer
at all. So the model is run: twice on the same samples, whose outputs must agree; and on samples together and one by one, whose outputs
must agree too. The kinds of layers serve to name a cause, once there is something to explain and the cause was found to explain it.

The model is run on a copy of its own (parameters are shared, for nobody writes to them), and all global random states are put back.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.errors import Misuse, NotDeterministic
from unbatch.swap import called_with, structure_of
from unbatch.trace import model_errors, tensors_in

__all__ = ["Behavior", "behavior", "check_deterministic"]

FEW = 4
"""Samples that a model is run on."""

DRAWS, ROWS = 8, 32
"""How often, and on how many rows, a model is run again that draws random numbers which have not shown yet."""

UNCOPYABLE = (TypeError, RuntimeError, AttributeError, ValueError, NotImplementedError, copy.Error, pickle.PicklingError)
"""What deepcopy raises where a module holds what cannot be copied: a lock, an open file, a tensor with a graph."""


@dataclass(frozen=True)
class Behavior:
    """What runs of a model showed.

    Attributes:
        changes: whether two runs on the same inputs differ.
        couples: whether what it says of a sample depends on the samples beside it, as with statistics of the batch. One sample has none
            beside it. Means nothing where the model changes.
    """

    changes: bool
    couples: bool


def behavior(model: nn.Module, inputs: Tensor) -> Behavior:
    """Both questions, asked of one copy of the model: the run of samples together serves both.

    Args:
        model: in the mode in which it is used.
        inputs: (b, *shape) samples to run it on; the first four are used.

    Raises:
        Misuse: the model does not run on the inputs.
    """
    inputs = inputs[:FEW]
    with _own_randomness(inputs) as state:
        apart = _Apart(model)
        changes, together = _changed(apart, inputs, state)
        mixes = _depends(apart, inputs, together)
    return Behavior(changes, mixes and _confirmed(model, inputs))


def check_deterministic(model: nn.Module, inputs: Tensor, *, alone: bool = True, known: Behavior | None = None) -> None:
    """Refuse a model whose outputs are random, or depend on what it was run on before; and one that couples the samples of a batch.

    Args:
        model: in the mode in which it is used.
        inputs: (b, *shape) samples to run it on, of the client or from ``trace.probe``; the first four are used.
        alone: whether every sample must have a gradient of its own; without that, batch statistics are allowed.
        known: what ``behavior`` found of this model on these inputs, where it was asked already.

    Raises:
        NotDeterministic: two runs on the same inputs differ; or, with ``alone``, a sample's outputs depend on the samples beside it.
        Misuse: the model does not run on the inputs.

    Example:
        >>> check_deterministic(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.ones(4, 2))
        Traceback (most recent call last):
        unbatch.errors.NotDeterministic: expected a deterministic model, got an active Dropout layer ('1', p=0.5): ...
    """
    inputs = inputs[:FEW]
    if known is None:
        known = behavior(model, inputs) if alone else Behavior(_changes(model, inputs), False)
    if known.changes:
        raise NotDeterministic(
            "a deterministic model",
            _cause(model, inputs, _draws, _changes) or "outputs that change from one run on the same inputs to the next",
            "call model.eval() if the client did, since a gradient that no second run gives again cannot be replayed",
        )
    if alone and known.couples:
        raise NotDeterministic(
            "a model that treats samples one by one",
            _cause(model, inputs, _mixes, _couples) or "outputs of a sample that depend on the samples beside it",
            "call model.eval() if the client did, since statistics of the batch mix its samples",
        )


class _Apart:
    """A model to try out: its structure and its buffers copied, its parameters shared, its state kept from run to run.

    Args:
        model: as broadcast.
        without: names the layers that are to neither draw nor mix.
        least: the least precision that it is run in.
    """

    def __init__(self, model: nn.Module, without: Callable[[nn.Module], str] | None = None, least: torch.dtype = torch.float32) -> None:
        try:
            with torch.no_grad():
                self.model = structure_of(model, model.parameters())
        except UNCOPYABLE:
            self.model = model
        if without is not None and self.model is not model:
            for module in self.model.modules():
                if without(module):
                    _silence(module)
        self.least = least
        self.parameters = {name: self._raised(parameter.detach()) for name, parameter in self.model.named_parameters()}
        self.buffers = {name: self._raised(buffer.detach().clone()) for name, buffer in self.model.named_buffers()}

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """All tensors that the model returns."""
        tensors = self.parameters | self.buffers
        with torch.no_grad(), model_errors(inputs):
            # A copy goes in, for a model may write to what it is given.
            outputs = called_with(self.model, tensors, self._raised(inputs.clone()))
        self.buffers = {name: tensors[name] for name in self.buffers}  # also those that the model put others in the place of
        return list(tensors_in(outputs))

    def _raised(self, tensor: Tensor) -> Tensor:
        return tensor.to(torch.promote_types(tensor.dtype, self.least)) if tensor.is_floating_point() else tensor


def _changes(model: nn.Module, inputs: Tensor, without: Callable[[nn.Module], str] | None = None) -> bool:
    """Whether two runs on the same inputs differ."""
    with _own_randomness(inputs) as state:
        return _changed(_Apart(model, without), inputs, state)[0]


def _changed(apart: _Apart, inputs: Tensor, state: Callable[[], bytes]) -> tuple[bool, list[Tensor]]:
    """The same of a copy, and what it gave first. A model that draws random numbers is run again and again until it shows."""
    before = state()
    first = apart(inputs)
    drew = state() != before
    if _differ(first, apart(inputs), _rounding(first)):
        return True, first
    if not drew:
        return False, first
    inputs = inputs.repeat(-(-ROWS // len(inputs)), *[1] * (inputs.ndim - 1))
    many = apart(inputs)
    return any(_differ(many, apart(inputs), _rounding(many)) for _ in range(DRAWS)), first


def _rounding(outputs: list[Tensor]) -> float:
    """What two runs on the same inputs may differ by: nothing on most machines, the order of a sum on some."""
    return 64 * _coarsest(outputs)


def _couples(model: nn.Module, inputs: Tensor, without: Callable[[nn.Module], str] | None = None) -> bool:
    """Whether samples differ together and alone."""
    with _own_randomness(inputs):
        apart = _Apart(model, without)
        mixes = _depends(apart, inputs, apart(inputs))
    return mixes and _confirmed(model, inputs, without)


def _confirmed(model: nn.Module, inputs: Tensor, without: Callable[[nn.Module], str] | None = None) -> bool:
    """Whether what was seen in the model's precision is seen in double precision, too."""
    with _own_randomness(inputs):
        try:
            apart = _Apart(model, without, torch.float64)
            return _depends(apart, inputs, apart(inputs))
        except Misuse:
            return True  # it runs in its own precision only: what was seen there counts


def _depends(model: _Apart, inputs: Tensor, outputs: list[Tensor]) -> bool:
    """Whether samples alone give something else than together, of which ``outputs`` are what the model gave."""
    if len(inputs) < 2:
        return False
    together = [tensor for tensor in outputs if tensor.ndim and len(tensor) == len(inputs)]
    for one in (slice(0, 1), slice(len(inputs) - 1, None)):  # the last sees what runs along the batch
        try:
            alone = [tensor for tensor in model(inputs[one]) if tensor.ndim and len(tensor) == 1]
        except Misuse:
            return True  # statistics of the batch need a batch
        if _differ([tensor[one] for tensor in together], alone, _coarsest(together) ** 0.5):
            return True
    return False


def _cause(
    model: nn.Module,
    inputs: Tensor,
    names: Callable[[nn.Module], str],
    found: Callable[[nn.Module, Tensor, Callable[[nn.Module], str]], bool],
) -> str:
    """The first layer of a kind that would explain what was measured, if without all of the kind it is gone; else nothing."""
    suspects = [(name, names(module)) for name, module in model.named_modules() if names(module)]
    if not suspects or found(model, inputs, names):
        return ""
    name, told = suspects[0]
    return told.format(name)


def _draws(module: nn.Module) -> str:
    """What to say of a layer that draws at random."""
    if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
        return f"an active {type(module).__name__} layer ({{!r}}, p={module.p:g})"
    return ""


def _mixes(module: nn.Module) -> str:
    """What to say of a layer that normalizes with the statistics of the batch."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return ""
    if module.running_mean is None:
        return f"{type(module).__name__} without running statistics ({{!r}})"
    return f"{type(module).__name__} in train mode ({{!r}})" if module.training else ""


def _silence(module: nn.Module) -> None:
    """Let a layer that draws or mixes do neither."""
    module.eval()
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        module.running_mean, module.running_var = torch.zeros(module.num_features), torch.ones(module.num_features)


def _differ(one: list[Tensor], other: list[Tensor], slack: float) -> bool:
    """Whether a sample's outputs differ by more than a share of the largest of them."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return True
    for left, right in zip(one, other, strict=True):
        if not left.is_floating_point() or not left.numel():
            if not torch.equal(left, right):
                return True
            continue
        rows, others = (tensor.reshape(len(tensor) if tensor.ndim else 1, -1) for tensor in (left, right))
        size = rows.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=1, keepdim=True)
        same = (rows == others) | (rows.isnan() & others.isnan()) | ((rows - others).abs() <= slack * size)
        if not bool(same.all()):
            return True
    return False


def _coarsest(outputs: list[Tensor]) -> float:
    """Rounding of the least precise of the outputs."""
    return max((torch.finfo(tensor.dtype).eps for tensor in outputs if tensor.is_floating_point()), default=torch.finfo(torch.float64).eps)


@contextmanager
def _own_randomness(inputs: Tensor) -> Iterator[Callable[[], bytes]]:
    """Puts every global random state back at the end: torch's, Python's, NumPy's. Yields what they are, to see whether one has moved."""
    cuda = [inputs.device] if inputs.device.type == "cuda" else []

    def state() -> bytes:
        torchs = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
        return pickle.dumps(([one.numpy().tobytes() for one in torchs], random.getstate(), np.random.get_state(legacy=False)))  # noqa: NPY002

    python, arrays = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002  (a model may still draw from it)
    with torch.random.fork_rng(devices=cuda):
        try:
            yield state
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
