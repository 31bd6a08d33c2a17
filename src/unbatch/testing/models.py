"""What every victim network must keep."""

from __future__ import annotations

import torch
from torch.nn.utils import parameters_to_vector

from unbatch.contracts import Model
from unbatch.gradients import capture, check_deterministic
from unbatch.testing.promises import Promises, require, untouched
from unbatch.trace import probe

__all__ = ["check_model"]


def check_model(model: Model, input_shape: tuple[int, ...] = (3, 32, 32), classes: int = 7) -> None:
    """Hold the builder of a network to its contract.

    Args:
        model: to be checked.
        input_shape: of one sample.
        classes: to be scored.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_model(build("models", "mlp"))
    """
    promises = Promises(model, "models")
    with promises.kept("it is built from its seed, and touches nothing else"):
        with untouched():
            built, again, other = (model.build(input_shape, classes, seed) for seed in (0, 0, 1))
        first, same, others = (parameters_to_vector(each.parameters()) for each in (built, again, other))
        require(torch.equal(first, same), "one seed gives two networks")
        require(not torch.equal(first, others), "two seeds give one network")
        require(first.dtype == torch.float32, f"weights of type {first.dtype}")
    with promises.kept("it scores every class, and nothing in it is random"):
        inputs = probe(built, input_shape)
        scores = built(inputs)
        require(tuple(scores.shape) == (len(inputs), classes), f"scores of shape {tuple(scores.shape)} for {len(inputs)} samples")
        check_deterministic(built, inputs)
    with promises.kept("all of it can be trained"):
        update = capture(built, inputs, torch.arange(len(inputs)) % classes)
        lost = [name for name, tensor in update.items() if not bool(tensor.isfinite().all())]
        require(not lost, f"NaN or infinity in the gradient of {', '.join(lost)}")
        require(any(bool(tensor.any()) for tensor in update.values()), "a gradient of zero")
    promises.settle()
