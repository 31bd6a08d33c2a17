"""What flows between the parts: the secret batch, what the server sees of it, what an attack makes of that, and the score.

    Batch ── protocol ── Observation ── attack ── Reconstruction ── audit ── Finding

Only protocols, the audit and what comes after it may know a ``Batch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from unbatch.errors import BadUpdate, Misuse, ReconstructionFailed, some
from unbatch.gradients import Loss, loss_function
from unbatch.schema import Schema
from unbatch.trace import trial
from unbatch.training import LocalTraining

__all__ = ["Batch", "Counts", "Finding", "Knowledge", "LocalTraining", "Observation", "Reconstruction", "Schema", "Status"]

HUGE, TINY = 1e30, 1e-60
"""A number above the first, or an update wholly below the second, is damage: its powers leave the range of float64."""


@dataclass(frozen=True)
class Batch:
    """The secret: ``inputs`` (b, *shape) as the network sees them, ``labels`` (b,) int64, and how to read them."""

    inputs: Tensor
    labels: Tensor
    schema: Schema = field(default_factory=Schema)

    def __len__(self) -> int:
        """How many samples."""
        return len(self.inputs)


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


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        """Check everything that can be checked without an attack."""
        object.__setattr__(self, "input_shape", _checked_shape(self.input_shape))
        object.__setattr__(self, "update", _checked_update(self.model, self.update))
        object.__setattr__(self, "schema", self.schema or Schema.guess(self.input_shape))
        loss_function(self.loss)
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise Misuse("a batch size above zero", repr(self.batch_size), "give the number of samples, or None if it is unknown")
        classes = _classes(self.model, self.input_shape)
        if self.labels is not None:
            _check_labels(self.labels, self.batch_size, classes)

    @property
    def knowledge(self) -> Knowledge:
        """What the adversary was told."""
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "a function")
        remarks = self.remarks if self.factor_known else (*self.remarks, "not the factor by which the update was scaled")
        return Knowledge(self.protocol, loss, self.batch_size is not None, self.labels is not None, False, remarks)

    @property
    def one_gradient(self) -> bool:
        """Whether the update is a gradient at the broadcast weights, up to a factor, and not a sum over weights that moved."""
        return self.training is None or self.training.one_step(self.batch_size)

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

    @property
    def classes(self) -> int:
        """How many classes the model scores, C."""
        return _classes(self.model, self.input_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest floating type among the update's tensors."""
        return max((tensor.dtype for tensor in self.update.values()), key=lambda dtype: torch.finfo(dtype).eps)

    @property
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
    return torch.equal(seen.to(dtype).to(seen.dtype), seen)


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
        # The extremes instead of isfinite(): they need no copy of a gradient that may be gigabytes.
        extremes = torch.stack(tensor.aminmax()) if tensor.numel() else tensor
        if not bool(extremes.isfinite().all()):
            raise BadUpdate(f"finite numbers in {name!r}", "NaN or infinity", "capture the update again: it overflowed or was damaged")
        size = float(extremes.double().abs().max()) if tensor.numel() else 0.0
        if size > HUGE:
            raise BadUpdate(f"numbers up to {HUGE:g} in {name!r}", f"{size:.1e}", "capture the update again: it overflowed or was damaged")
        largest = max(largest, size)
    if largest < TINY:
        came = f"none above {largest:.1e}" if largest else "zeros in every tensor"
        raise BadUpdate("an update that is not zero", came, "check that the client trained and that its update was saved")
    return {name: tensor.detach() for name, tensor in update.items()}


def _check_labels(labels: Tensor, batch_size: int | None, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise Misuse("labels of shape (b,) and type int64", f"shape {tuple(labels.shape)} and type {labels.dtype}", "give class indices")
    if batch_size is not None and len(labels) != batch_size:
        raise Misuse(f"{batch_size} labels, one a sample", str(len(labels)), "make batch_size and labels agree")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise Misuse(
            f"labels from 0 to {classes - 1}", f"{int(labels.min())} to {int(labels.max())}", "give indices of the model's classes"
        )


def _classes(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """How many classes the model scores, seen on a trial run."""
    try:
        outputs = trial(model, input_shape).outputs
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Misuse(f"a model that runs on inputs of shape {input_shape}", f"{reason!r}", "check the input shape and the model") from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        came = f"shape {tuple(outputs.shape)} for 2 samples" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise Misuse("a model that gives one row of class scores a sample", came, "wrap the model so that it returns a tensor (b, classes)")
    return int(outputs.shape[1])


class Status(Enum):
    """How an attack ended, as advice."""

    RECONSTRUCTED = "the whole batch was reconstructed and its replay gives the observed update: treat these samples as disclosed"
    PARTIAL = "some samples were reconstructed, each certified by itself: treat at least those as disclosed"
    APPROXIMATE = "a batch was found that explains the update up to the residual, not exactly: judge by the pictures whether it is safe"
    INCONSISTENT = "a batch was found but its replay does not give the observed update: check that model, loss and mode are the client's"
    BUDGET_EXHAUSTED = "the search ended before it found the batch: raise the budget before you call the update safe"
    FEATURES = "the inputs of an inner layer were recovered and fit its weights and zeros: treat what they encode as disclosed"
    UNPROVEN = "a batch was found that cannot be replayed for lack of labels: do not call the update safe"
    NOT_APPLICABLE = "this attack cannot be used on this update: read the reason, and try another attack before you call the update safe"

    @property
    def disclosed(self) -> bool:
        """Whether samples were proved to be disclosed."""
        return self in (Status.RECONSTRUCTED, Status.PARTIAL)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack made of an observation.

    Attributes:
        status: decided by replay, never by the attack.
        inputs: (b, *input_shape), or None if nothing was found.
        labels: (b,) int64, or None.
        residual: ‖replayed update − observed update‖ / ‖observed update‖, or None where it could not be replayed.
        reason: one sentence on why it did not go further, or empty.
        stats: what the attack counted: tools used, subsets drawn, seconds.
        attack: the attack's name and settings.
        features: (b, n) inputs of an inner layer, where the attack was pointed at one.
    """

    status: Status
    inputs: Tensor | None = None
    labels: Tensor | None = None
    residual: float | None = None
    reason: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    attack: str = ""
    features: Tensor | None = None

    def or_raise(self) -> Reconstruction:
        """Itself if it is ``RECONSTRUCTED``.

        Raises:
            ReconstructionFailed: with the status and the reason, for any other status.

        Example:
            >>> Reconstruction(Status.BUDGET_EXHAUSTED, reason="3 of 8 directions").or_raise()
            Traceback (most recent call last):
            unbatch.errors.ReconstructionFailed: BUDGET_EXHAUSTED: ...
        """
        if self.status is Status.RECONSTRUCTED:
            return self
        raise ReconstructionFailed(f"{self.status.name}: {self.status.value}" + (f" ({self.reason})" if self.reason else ""))


@dataclass(frozen=True, eq=False)
class Counts:
    """What a label restorer made of an observation.

    Attributes:
        counts: (C,) int64, samples of each class: none negative, their sum the batch size. None where the method does not give them.
        presence: (C,) bool, whether a class has samples at all. None where the method did not apply.
        reason: one sentence on why there are no counts, or on what a reader must know of them; or empty.
        estimate: (C,) float64, the counts before rounding, or None.
        stats: what the method measured; ``expected_error`` is the error that it expects of one count, in samples.
        restorer: the method's name and settings.
    """

    counts: Tensor | None = None
    presence: Tensor | None = None
    reason: str = ""
    estimate: Tensor | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    restorer: str = ""

    @property
    def applicable(self) -> bool:
        """Whether the method gave an answer.

        Example:
            >>> Counts(reason="the last layer has no bias").applicable
            False
        """
        return self.presence is not None


@dataclass(frozen=True, eq=False)
class Finding:
    """A reconstruction held against the truth, where the truth is known.

    Attributes:
        reconstruction: what the attack made of the observation.
        knowledge: what the adversary was told.
        schema: how to read inputs.
        input_shape: the shape of one sample.
        seed: of the attack.
        seconds: wall time of the attack.
        truth: the client's batch, or None.
        order: (b,) for every true sample the index of the reconstruction matched to it, −1 where there is none.
        scores: metric name -> (b,) values, by true sample; NaN where undefined.
        notes: metric name -> why it is undefined.
        exact: (b,) whether the true sample was recovered exactly.
        labels_right: (b,) whether its label was.
        counts: samples of each class, from the samples that the attack proved, the last layer, or both: ``restorer`` says which.
        environment: versions and machine.
    """

    reconstruction: Reconstruction
    knowledge: Knowledge
    schema: Schema
    input_shape: tuple[int, ...]
    seed: int
    seconds: float
    truth: Batch | None = None
    order: tuple[int, ...] = ()
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    exact: tuple[bool, ...] = ()
    labels_right: tuple[bool, ...] = ()
    counts: Counts | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The one sentence that a reader takes away."""
        made = self.reconstruction
        count = 0 if made.inputs is None else len(made.inputs)
        head = {
            Status.RECONSTRUCTED: f"This update gives away its whole batch: all {count} samples were reconstructed and proved by replay.",
            Status.PARTIAL: f"This update gives away part of its batch: {count} samples were reconstructed, each with a certificate.",
            Status.APPROXIMATE: f"This update gives away an approximation of its batch ({count} samples); nothing was proved exact.",
            Status.INCONSISTENT: "No reconstruction was proved: what was found does not give the observed update.",
            Status.BUDGET_EXHAUSTED: "No reconstruction was proved within the budget; this does not show that the update is safe.",
            Status.FEATURES: "This update gives away what an inner layer sees of its batch; the samples themselves were not reconstructed.",
            Status.UNPROVEN: f"A batch of {count} samples was found, but it cannot be proved without labels.",
            Status.NOT_APPLICABLE: "This attack does not apply to this update; this does not show that the update is safe.",
        }
        return head[made.status]
