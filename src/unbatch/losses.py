"""The client's loss: one of those with a name, or any function of the client's own, made to run wherever we run it.

A loss is written for the client's training: whole batches, the client's precision. We ask more of it. It is run on samples alone, many at
a time (``torch.func.vmap``), and in double precision on the outputs of a model in single. So a function of the client's gets copies, which
it may write to; its own tensors (class weights) are taken to the precision of the outputs; and what it raises is said to be its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.errors import Misuse, named

__all__ = ["Loss", "loss_function", "quiet_vmap", "slopes", "slopes_alone", "softmax_less"]

Loss = str | Callable[[Tensor, Tensor], Tensor]
"""A name (``"cross_entropy"``) or a function (outputs (b, C), labels (b,)) -> mean loss over the batch, a scalar."""


def _mse(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - _marks(outputs, labels)).square().mean()


def _bce(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, _marks(outputs, labels))


def _marks(outputs: Tensor, labels: Tensor) -> Tensor:
    """One-hot labels, where ``F.one_hot`` cannot run: under vmap. Of one score a sample, the labels themselves."""
    if outputs.shape[-1] == 1:
        return labels[..., None].to(outputs)
    return (labels[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)).to(outputs)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "nll": F.nll_loss,
    "mse": _mse,
    "bce": _bce,
}
"""Of class indices; the last two against one-hot labels, or against the labels themselves where there is one score a sample."""


def _cross_entropy(settings: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy with ``label_smoothing=0.1``, ``weight=1|2|0.5`` (one a class), or both, as PyTorch has them."""
    expected = "cross_entropy:label_smoothing=0.1 or cross_entropy:weight=1|2|0.5"
    given = dict(setting.partition("=")[::2] for setting in settings.split(","))
    if unknown := given.keys() - {"label_smoothing", "weight"}:
        raise Misuse(expected, repr(min(unknown)), "name a setting that there is")
    try:
        smoothing = float(given.get("label_smoothing", "0"))
        weight = torch.tensor([float(part) for part in given["weight"].split("|")], dtype=torch.float64) if "weight" in given else None
    except ValueError as error:
        raise Misuse(expected, repr(settings), "give it a number, or one a class") from error
    if not 0 <= smoothing < 1 or (weight is not None and not bool((weight > 0).all())):
        raise Misuse("a label smoothing from 0 to below 1, and weights above 0", repr(settings), "give those of the client")

    def measure(outputs: Tensor, labels: Tensor) -> Tensor:
        classes = outputs.shape[-1]
        if weight is not None and len(weight) != classes:
            raise Misuse(f"{classes} weights, one a class", str(len(weight)), "give one for each")
        each = outputs.new_ones(classes) if weight is None else weight.to(outputs)
        marks = _marks(outputs, labels)
        target = (1 - smoothing) * marks + smoothing / classes
        return -(target * each * outputs.log_softmax(dim=-1)).sum() / (marks * each).sum()

    return measure


def loss_function(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The function behind a loss: (outputs (b, C), labels (b,)) -> scalar.

    Raises:
        Misuse: no loss has this name, or it is neither a name nor a function. The function that is returned raises it too, where the
            client's own raises anything, or returns no single number.

    Example:
        >>> import torch
        >>> weighted = loss_function(torch.nn.CrossEntropyLoss(torch.tensor([1.0, 3.0])))
        >>> round(float(weighted(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))), 3)
        0.693
    """
    if isinstance(loss, str):
        if loss in _LOSSES:
            return _LOSSES[loss]
        name, colon, settings = loss.partition(":")
        if name == "cross_entropy" and colon:
            return _cross_entropy(settings)
        came = repr(loss)
    elif callable(loss):
        return _Own(loss)
    else:
        came = type(loss).__name__
    raise Misuse(
        f"a loss among {', '.join(_LOSSES)}, or cross_entropy with settings",
        came,
        "name one of them, or give a function (outputs, labels) -> mean loss: --loss FILE.py:FUNCTION",
    )


def slopes(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """What every sample's outputs count in the loss of the batch, times b: b ∂L/∂outputs, (b, C).

    Where the loss is a mean over samples that is the slope of each sample's own loss. Where it is not (class weights divide by the sum of
    the batch's weights) it is the sample's part in the common loss, and the parts of all still have the mean that the client follows.
    """
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        value = loss_function(loss)(leaf, labels)
        return len(outputs) * _gradient(value, leaf)


def slopes_alone(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """∂ℓ(outputs_i, y)/∂outputs_i of every sample i by itself, with every given label y: (c, b, C).

    Args:
        loss: of a batch of one.
        outputs: (b, C).
        labels: (c,).
    """
    if loss == "cross_entropy":
        return softmax_less(outputs, F.one_hot(labels, outputs.shape[1]).bool()[:, None])
    if not len(outputs) or not len(labels):
        return outputs.new_zeros((len(labels), *outputs.shape))
    measure = loss_function(loss)

    def summed(outputs: Tensor, label: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: measure(row[None], label[None]))(outputs).sum()

    try:
        with quiet_vmap():
            each = outputs.expand(len(labels), *outputs.shape)  # written to in place by some losses
            at_once = torch.func.vmap(torch.func.grad(summed))(each, labels)
        if bool(at_once.any()):  # zeros may also mean that there is no gradient
            return at_once
    except RuntimeError:  # something in the loss is not made for vmap
        pass
    one_by_one = [slopes(loss, row[None], label[None]) for label in labels for row in outputs]
    return torch.cat(one_by_one).reshape(len(labels), *outputs.shape)


def softmax_less(outputs: Tensor, mark: Tensor) -> Tensor:
    """softmax(outputs) − mark, the slope of cross-entropy, without cancellation where the network is sure of the class that is marked.

    Args:
        outputs: (b, C).
        mark: (b, C), or any shape that goes with it, one class of each marked.
    """
    others = torch.softmax(outputs, dim=-1).masked_fill(mark, 0.0)
    return torch.where(mark, -others.sum(dim=-1, keepdim=True), others)


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Without the warnings that an operation has no fast way under vmap."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    try:
        (slope,) = torch.autograd.grad(value, leaf)
    except RuntimeError as error:
        raise Misuse("a loss that can be differentiated in the model's outputs", named(error), "check the loss") from error
    return slope


class LossFailed(Misuse, RuntimeError):
    """A loss of the client's own raised something. It is a ``RuntimeError`` too, as for all that fails under vmap: alone it may run."""


class _Own:
    """A loss of the client's own."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        expected = f"a loss that takes outputs of shape {tuple(outputs.shape)} and labels of shape {tuple(labels.shape)}"
        try:
            with _InPrecisionOf(outputs):
                value = self.loss(outputs.clone(), labels.clone())
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise LossFailed(expected, named(error), "check the loss, a function (outputs, labels) -> mean loss") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"numbers of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise Misuse("a loss that returns one number, a mean over the batch", came, "reduce it: reduction='mean'")
        return value.reshape(())


class _InPrecisionOf(TorchFunctionMode):
    """Takes floating tensors that stand beside more precise ones to their precision, as for class weights; and knows one_hot under vmap."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.dtype = outputs.dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.one_hot:
            return _one_hot(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point()]
        if any(value.dtype == self.dtype for value in given) and not getattr(func, "__name__", "_").endswith("_"):
            args = [self._raised(value) for value in args]
            kwargs = {name: self._raised(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _raised(self, value: Any) -> Any:
        narrow = isinstance(value, Tensor) and value.is_floating_point() and torch.finfo(value.dtype).eps > torch.finfo(self.dtype).eps
        return value.to(self.dtype) if narrow else value


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    try:
        return F.one_hot(tensor, num_classes)
    except RuntimeError as error:
        if "vmap" not in str(error) or num_classes < 1:
            raise
        return (tensor[..., None] == torch.arange(num_classes, device=tensor.device)).to(torch.int64)
