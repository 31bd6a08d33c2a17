"""What a server sees of one client, checked when it is built, and what it was told besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unbatch import scores
from unbatch.determinism import Behavior, behavior
from unbatch.errors import BadUpdate, Misuse, some
from unbatch.gradients import Loss, loss_function
from unbatch.schema import Schema
from unbatch.trace import TRIAL, LinearCall, Run, linear_layers, probe, trial
from unbatch.training import LocalTraining

__all__ = ["HUGE", "Knowledge", "Observation", "largest_number"]

ONLY_MOVED = (
    "the optimizer changed the size of every number (Adam, several steps or rounded weights), so that the update is no gradient and no"
    " batch can be replayed"
)

HUGE, TINY = 1e30, 1e-60
"""A number above the first, or an update wholly below the second, is damage: its powers leave the range of float64."""


MOST = 10**12
"""Samples that a batch may be told to have. Chosen: more than there are, and a share of one is still told from none in float64."""


@dataclass(frozen=True)
class Knowledge:
    """What the adversary was told besides the model and the update. Printed on every report.

    Attributes:
        protocol: how the update came about.
        loss: the client's loss.
        batch_size: whether the number of samples was given.
        labels: whether the labels were given.
        auxiliary_data: whether data like the client's was given.
        remarks: anything else that a reader must know.
    """

    protocol: str = "fedsgd"
    loss: str = "cross_entropy"
    batch_size: bool = False
    labels: bool = False
    auxiliary_data: bool = False
    remarks: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """The same for people, one fact a line."""
        return [
            f"the model as broadcast, and one update under {self.protocol}",
            f"the loss: {self.loss}",
            "the batch size" if self.batch_size else "not the batch size",
            "the labels" if self.labels else "not the labels",
            "data like the client's" if self.auxiliary_data else "no data like the client's",
            *self.remarks,
        ]


@dataclass(frozen=True, eq=False, repr=False)
class Observation:
    """What a server sees of one client, and all that an attack may use.

    Args:
        model: the module as broadcast, in the mode (train or eval) in which the client ran it.
        update: parameter name -> mean gradient over the batch; after local training its average over the steps, in which every step
            counts as its momentum makes it count: (weights before − weights after) / ``training.factor(samples)``.
        input_shape: the shape of one sample, without the batch.
        loss: the client's loss, a name or a function (outputs, labels) -> mean.
        batch_size: number of samples, where the server knows it.
        labels: (b,) int64, where the server knows them.
        protocol: how the update came about.
        schema: how to read an input; guessed from the shape where it is not given.
        remarks: anything else that the adversary was told.
        training: how the client trained before it sent the difference of its weights; None for a gradient.
        only_moved: whether all that the update tells is which numbers moved, because an optimizer changed the size of every one of them.
        factor_known: whether ``update`` has the scale that it says. False where it is multiplied by a positive number that the server
            does not know: the learning rate, or what the update, or a sample's gradient, was clipped by.

    Raises:
        Misuse: a shape, a batch size or a loss that cannot be; a model that does not run on the shape.
        BadUpdate: tensors that are missing, extra, wrongly shaped, not finite, or all zero.

    Example:
        >>> Observation(nn.Linear(2, 3), {"weight": torch.ones(3, 2)}, (2,))
        Traceback (most recent call last):
        unbatch.errors.BadUpdate: expected a gradient for every trained parameter of the model, got none for 'bias': ...
    """

    model: nn.Module
    update: Mapping[str, Tensor]
    input_shape: tuple[int, ...]
    loss: Loss = "cross_entropy"
    batch_size: int | None = None
    labels: Tensor | None = None
    protocol: str = "fedsgd"
    schema: Schema | None = None
    remarks: tuple[str, ...] = ()
    training: LocalTraining | None = None
    factor_known: bool = True
    only_moved: bool = False
    classes: int = field(init=False, default=0)
    """How many classes the model scores, C."""
    places: bool = field(init=False, default=False)
    """Whether it scores them at every place of a sample, as a language model does."""

    def __post_init__(self) -> None:
        """Check everything that can be checked without an attack."""
        object.__setattr__(self, "input_shape", _checked_shape(self.input_shape))
        object.__setattr__(self, "update", _checked_update(self.model, self.update))
        loss_function(self.loss)
        if self.training is not None and self.factor_known and self.training.factor(self.batch_size) is None:
            object.__setattr__(self, "factor_known", False)  # a difference of weights that nobody can divide by its steps
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or not 0 < self.batch_size <= MOST):
            wanted = (
                "a batch size above zero" if not isinstance(self.batch_size, int) or self.batch_size < 1 else f"a batch size up to {MOST:,}"
            )
            raise Misuse(wanted, repr(self.batch_size), "give the number of samples, or None if it is unknown")
        ran = self._run_as_scores()
        guess = Schema("tokens", vocabulary=ran.vocabulary) if ran.vocabulary else Schema.guess(self.input_shape)
        object.__setattr__(self, "schema", self.schema or guess)
        object.__setattr__(self, "classes", int(ran.outputs.shape[-1]))
        object.__setattr__(self, "places", ran.outputs.ndim == 3)
        _check_schema(self.schema or guess, self.input_shape, ran.vocabulary)
        if self.labels is not None:
            _check_labels(self.labels, self.batch_size, self.classes)

    def _run_as_scores(self) -> Run:
        """A trial run, after which the model gives a plain row of scores a sample, and two where it has one that no softmax can read."""
        ran = trial(self.model, self.input_shape)
        if (found := scores.plain(ran.outputs)) is not ran.outputs:
            object.__setattr__(self, "model", scores.plainly(self.model))
        ran = replace(ran, outputs=_checked_scores(found, ran.vocabulary))
        if found.ndim != 2 or found.shape[1] != 1 or self.loss in ("cross_entropy", "nll"):
            return ran
        object.__setattr__(self, "model", scores.beside_zero(self.model))
        exact = self.loss == "bce"
        object.__setattr__(self, "loss", "cross_entropy" if exact else scores.mse)
        object.__setattr__(self, "remarks", (*self.remarks, scores.BCE if exact else scores.REGRESSION))
        object.__setattr__(self, "factor_known", self.factor_known and exact)
        if not exact and self.labels is not None:
            raise Misuse("no labels of a model of one score that is no classifier", "some", "leave them out: targets are no class indices")
        return replace(ran, outputs=found.expand(-1, 2))

    @property
    def knowledge(self) -> Knowledge:
        """What the adversary was told."""
        own = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", type(self.loss).__name__)
        loss = "bce" if scores.BCE in self.remarks else own
        remarks = self.remarks if self.factor_known else (*self.remarks, "not the factor by which the update was scaled")
        return Knowledge(self.protocol, loss, self.batch_size is not None, self.labels is not None, False, remarks)

    @property
    def one_gradient(self) -> bool:
        """Whether the update is a gradient at the broadcast weights, up to a factor, and not a sum over weights that moved."""
        return self.training is None or self.training.one_step(self.batch_size)

    @property
    def classified(self) -> bool:
        """Whether a sample has a class: not where the model gives one score that cross-entropy cannot read, nor in a regression."""
        return self.classes > 1 and self.loss is not scores.mse

    @property
    def unreadable(self) -> str:
        """Why no batch can be replayed and held against the update, so that only the rows of its tables can be read; or nothing."""
        if self.places:
            return "the model gives class scores at every place, where one row of class scores a sample is needed to replay a batch"
        return ONLY_MOVED if self.only_moved else ""

    @property
    def resolution(self) -> float:
        """The relative error that the update carries because it is a difference of rounded weights; 0 for a gradient."""
        if self.training is None:
            return 0.0
        factor = self.training.factor(self.batch_size) or 1.0
        size = sum(float(tensor.double().square().sum()) for tensor in self.update.values()) ** 0.5 * factor
        kept = {name: parameter for name, parameter in self.model.named_parameters() if name in self.update}
        rounded = sum(float(p.detach().double().square().sum()) * torch.finfo(p.dtype).eps ** 2 for p in kept.values()) ** 0.5
        return rounded * (1 + self.training.steps(self.batch_size or 1)) ** 0.5 / size

    def __repr__(self) -> str:
        """What it is, never a number of it."""
        return f"Observation({self.summary()})"

    def summary(self) -> str:
        """In one line what was observed."""
        size = "unknown" if self.batch_size is None else str(self.batch_size)
        what = f"{self.protocol} update of {len(self.update)} tensors, {self.dtype}, from {type(self.model).__name__}"
        return f"{what}, samples of shape {self.input_shape}, {self.classes} classes, batch size {size}"

    @property
    def probe(self) -> Tensor:
        """(4, *input_shape) inputs to try the model on: see ``trace.probe``."""
        return probe(self.model, self.input_shape, self.schema.vocabulary if self.schema else 0)

    @cached_property
    def layers(self) -> tuple[LinearCall, ...]:
        """The Linear layers that the model uses, in order, on two samples of noise, without their graph: see ``trace.linear_layers``."""
        calls = linear_layers(self.model, self.input_shape)
        return tuple(replace(c, input=c.input.detach(), output=c.output.detach(), handed_out=c.output.detach()) for c in calls)

    @cached_property
    def behavior(self) -> Behavior:
        """Whether runs of the model differ, and whether its samples depend on each other: see ``determinism.behavior``."""
        return behavior(self.model, self.probe)

    @property
    def coupled(self) -> bool:
        """Whether what the model says of a sample depends on the samples beside it."""
        return self.behavior.couples

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest floating type among the update's tensors."""
        return max((tensor.dtype for tensor in self.update.values()), key=lambda dtype: torch.finfo(dtype).eps)

    @cached_property
    def rounding(self) -> torch.dtype:
        """The coarsest floating type that holds the update's numbers, whatever type they are stored in: what its rounding is judged by.

        Where tensors are stored in different types, at least the coarsest of these.
        """
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if dtype == self.dtype or all(_fits(tensor, dtype) for tensor in self.update.values()):
                return dtype
        return self.dtype

    @property
    def device(self) -> torch.device:
        """Where the update lies."""
        return next(iter(self.update.values())).device


def _fits(tensor: Tensor, dtype: torch.dtype, most: int = 100_000) -> bool:
    """Whether (evenly spaced) numbers of a tensor survive a round trip through the type."""
    seen = tensor.flatten()[:: max(1, tensor.numel() // most)]
    return all(torch.equal(part.to(dtype).to(part.dtype), part) for part in (seen[:FIRST], seen))


FIRST = 100
"""Numbers of which one is nearly always enough to tell that a tensor does not fit."""


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise Misuse(
            "an input shape of positive whole numbers", repr(sizes), "give the shape of one sample, without the batch: (3, 32, 32)"
        )
    return sizes


def _checked_update(model: nn.Module, update: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    advice = "check that the update comes from this very model"
    if missing := sorted(trained - update.keys()):
        raise BadUpdate("a gradient for every trained parameter of the model", f"none for {some(missing)}", advice)
    if extra := sorted(update.keys() - parameters.keys()):
        raise BadUpdate("only tensors named like parameters of the model", some(extra), advice)
    if not update:
        raise BadUpdate("at least one gradient", "an empty update", "check that the model has trained parameters")
    largest = 0.0
    for name, tensor in update.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.itemsize < 2:
            raise BadUpdate(f"floating-point numbers in {name!r}", str(getattr(tensor, "dtype", type(tensor).__name__)), advice)
        if tensor.shape != parameters[name].shape:
            raise BadUpdate(f"{name!r} of shape {tuple(parameters[name].shape)}", f"{tuple(tensor.shape)}", advice)
        largest = max(largest, largest_number(name, tensor))
    if largest < TINY:
        came = f"none above {largest:.1e}" if largest else "zeros in every tensor"
        raise BadUpdate("an update that is not zero", came, "check that the client trained and that its update was saved")
    return {name: tensor.detach() for name, tensor in update.items()}


def largest_number(name: str, tensor: Tensor) -> float:
    """The largest absolute value in a tensor of an update.

    Raises:
        BadUpdate: a number is not finite, or larger than any gradient.
    """
    if not tensor.numel():
        return 0.0
    # The extremes instead of isfinite(): they need no copy of a gradient that may be gigabytes.
    extremes = torch.stack(tensor.detach().aminmax())
    if not bool(extremes.isfinite().all()):
        raise BadUpdate(f"finite numbers in {name!r}", "NaN or infinity", "capture the update again: it overflowed or was damaged")
    size = float(extremes.double().abs().max())
    if size > HUGE:
        raise BadUpdate(f"numbers up to {HUGE:g} in {name!r}", f"{size:.1e}", "capture the update again: it overflowed or was damaged")
    return size


def _check_labels(labels: Tensor, batch_size: int | None, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise Misuse("labels of shape (b,) and type int64", f"shape {tuple(labels.shape)} and type {labels.dtype}", "give class indices")
    if batch_size is not None and len(labels) != batch_size:
        raise Misuse(f"{batch_size} labels, one a sample", str(len(labels)), "make batch_size and labels agree")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise Misuse(
            f"labels from 0 to {classes - 1}", f"{int(labels.min())} to {int(labels.max())}", "give indices of the model's classes"
        )


def _check_schema(schema: Schema, input_shape: tuple[int, ...], vocabulary: int) -> None:
    """Refuse a schema that contradicts what the model takes."""
    schema.check(input_shape)
    if schema.vocabulary != vocabulary:
        came = f"{schema.vocabulary} for an embedding of {vocabulary} rows" if vocabulary else "tokens for a model that looks nothing up"
        raise Misuse("the vocabulary of the model's embedding", came, "make the schema and the model's input agree")


def _checked_scores(outputs: Any, vocabulary: int) -> Tensor:
    """What a trial run returned: one row of scores a sample, or one at every place of a sample of tokens."""
    if isinstance(outputs, Tensor) and outputs.ndim in ((2, 3) if vocabulary else (2,)) and len(outputs) == TRIAL:
        return outputs
    came = f"shape {tuple(outputs.shape)} for {TRIAL} samples" if isinstance(outputs, Tensor) else type(outputs).__name__
    raise Misuse(
        "a model that gives one row of class scores a sample",
        came,
        "wrap the model so that it returns a tensor (b, classes), as docs/updates.md shows",
    )
