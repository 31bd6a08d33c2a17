"""The update that a candidate batch would have caused, differentiable in the candidate: gradients of gradients.

Restarts go through the model side by side (``torch.func.vmap`` over a copy of the parameters for each), so that one backward pass gives
the gradient of every restart. Batch statistics are those of the candidate where the client's model used those of its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unbatch.gradients import loss_function
from unbatch.swap import called_with
from unbatch.types import LocalTraining, Observation

__all__ = ["DifferentiableReplay", "Replayed", "Statistics", "not_twice_differentiable"]

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Batch-norm layer's name -> mean and biased variance of what the layer is fed, (r, channels) or (channels,) each."""

_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Replayed:
    """What a candidate would have caused, still part of the graph.

    Attributes:
        update: parameter name -> (r, *parameter shape), in the scale of ``Observation.update``.
        statistics: of the candidate, (r, channels) each, at the weights as broadcast.
    """

    update: dict[str, Tensor]
    statistics: Statistics


class DifferentiableReplay:
    """Candidate -> update, as the client would have computed it: a gradient, or the average over unrolled steps of local training.

    Local training is unrolled in the order in which the samples stand, the same in every epoch. Time and memory grow with the steps.

    Args:
        observation: model, loss and local training. The model is copied, never changed.
        dtype: of the computation.
        unroll: False to take the gradient at the broadcast weights for the average over the steps.

    Attributes:
        side_by_side: whether restarts share one graph; found to be False where ``vmap`` cannot follow the model.
        running: the model's running statistics, (channels,) each.

    Example:
        >>> from unbatch.gradients import capture
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
        >>> x, y = torch.ones(1, 3), torch.tensor([1])
        >>> seen = Observation(net, capture(net, x, y), (3,))
        >>> guesses = torch.stack([x, 2 * x]).requires_grad_()
        >>> replayed = DifferentiableReplay(seen, torch.float32)(guesses, torch.stack([y, y])).update["0.weight"]
        >>> replayed.shape, bool(torch.allclose(replayed[0], seen.update["0.weight"], atol=1e-6))
        (torch.Size([2, 4, 3]), True)
        >>> (replayed[1] - seen.update["0.weight"]).square().sum().backward()
        >>> bool(guesses.grad[1].any()), bool(guesses.grad[0].any())
        (True, False)
    """

    def __init__(self, observation: Observation, dtype: torch.dtype, *, unroll: bool = True) -> None:
        self.loss = observation.loss
        self.training = observation.training if unroll and not observation.one_gradient else None
        self.model = _prepared(observation.model, dtype)
        named = dict(self.model.named_parameters())
        self.trained = {name: p.detach() for name, p in named.items() if p.requires_grad and name in observation.update}
        self.fixed = {name: p.detach() for name, p in named.items() if name not in self.trained} | dict(self.model.named_buffers())
        self.side_by_side = True
        self.running: Statistics = {}
        self._fed: Statistics = {}
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                self.running[name] = module.running_mean, module.running_var
                module.register_forward_pre_hook(self._noting(name))

    def __call__(self, inputs: Float[Tensor, "r b *shape"], targets: Shaped[Tensor, "r b *c"]) -> Replayed:
        """Replay every restart.

        Args:
            inputs: (r, b, *shape).
            targets: (r, b) class indices, or (r, b, C) probabilities of the classes.
        """
        weights = {name: p.expand(len(inputs), *p.shape).requires_grad_() for name, p in self.trained.items()}
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
            if self.training is None:
                return Replayed(*self._gradient(weights, inputs, targets))
            return self._unrolled(weights, inputs, targets, self.training)

    def _unrolled(self, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor, local: LocalTraining) -> Replayed:
        count, rate = inputs.shape[1], local.learning_rate or 0.0
        moved: dict[str, Tensor] = {}
        velocity: dict[str, Tensor] = {}
        statistics: Statistics = {}
        for step, part in enumerate(local.parts(count) * local.epochs):
            gradient, fed = self._gradient(weights, inputs[:, part], targets[:, part])
            if step == 0:
                moved = velocity = gradient
                statistics = fed
            else:
                velocity = {name: local.momentum * velocity[name] + gradient[name] for name in gradient}
                moved = {name: moved[name] + velocity[name] for name in velocity}
            weights = {name: weights[name] - rate * velocity[name] for name in weights}
        return Replayed({name: tensor / local.total(count) for name, tensor in moved.items()}, statistics)

    def _gradient(self, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Statistics]:
        """The mean gradient of every restart at its own weights, (r, *parameter shape) each."""
        losses, statistics = self._values(weights, inputs, targets)
        gradients = torch.autograd.grad(losses.sum(), list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True)
        return dict(zip(weights, gradients, strict=True)), statistics

    def _values(self, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Statistics]:
        """(r,) mean losses, and statistics (r, channels)."""
        if len(inputs) == 1:
            loss, fed = self._value({name: w.squeeze(0) for name, w in weights.items()}, inputs[0], targets[0])
            return loss[None], {name: (mean[None], variance[None]) for name, (mean, variance) in fed.items()}
        if self.side_by_side:
            try:
                together: tuple[Tensor, Statistics] = torch.func.vmap(self._value)(weights, inputs, targets)
            except RuntimeError:  # the model does what vmap cannot follow (it branches on its data): one restart after the other
                self.side_by_side = False
            else:
                return together
        rows = [self._value({name: w[i] for name, w in weights.items()}, inputs[i], targets[i]) for i in range(len(inputs))]
        names = rows[0][1]
        return torch.stack([loss for loss, _ in rows]), {
            name: (torch.stack([fed[name][0] for _, fed in rows]), torch.stack([fed[name][1] for _, fed in rows])) for name in names
        }

    def _value(self, weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Statistics]:
        """The mean loss of one batch at these weights, and what batch-norm layers are fed."""
        self._fed = {}
        outputs = called_with(self.model, {**self.fixed, **weights}, inputs)
        if targets.is_floating_point():
            logarithms = outputs if self.loss == "nll" else torch.log_softmax(outputs, dim=-1)
            return -(targets * logarithms).sum(dim=-1).mean(), self._fed
        return loss_function(self.loss)(outputs, targets), self._fed

    def _noting(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            over = [axis for axis in range(given[0].ndim) if axis != 1]
            self._fed[name] = given[0].mean(dim=over), given[0].var(dim=over, correction=0)

        return note


def _prepared(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that leaves running statistics alone."""
    with torch.no_grad():
        copied = copy.deepcopy(model).to(dtype)
    for module in copied.modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.track_running_stats = False
    return copied


def not_twice_differentiable(observation: Observation, samples: int = 2) -> str | None:
    """Why no attack can follow the gradient of this model's gradient, or None if it can: seen on a trial with noise."""
    dtype = torch.promote_types(observation.dtype, torch.float32)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((1, samples, *observation.input_shape), generator=generator, dtype=dtype).to(observation.device).requires_grad_()
    targets = torch.zeros((1, samples), dtype=torch.int64, device=observation.device)
    try:
        update = DifferentiableReplay(observation, dtype, unroll=False)(inputs, targets).update
        size = torch.stack([tensor.square().sum() for tensor in update.values()]).sum()
        torch.autograd.backward(size)  # not autograd.grad: that goes round the error of a function that is differentiable once
    except (RuntimeError, NotImplementedError) as error:
        return f"the model is not twice differentiable: {str(error).splitlines()[0]}"
    if inputs.grad is None or not bool(inputs.grad.any()):
        return "the model is not twice differentiable in effect: its gradient does not change with its input"
    return None
