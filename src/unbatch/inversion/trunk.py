"""The network up to what one Linear layer is fed: from a picture to its features, and how much of the picture these fix.

Features that come out of ReLU or Leaky ReLU tell what these were given: a positive one exactly, a negative one through the slope, and a
zero that it was not positive. As equations that is worth much more than the features: a slope of 0.01 makes three quarters of them a
hundredth as heavy, and where a guess is on the wrong side of zero the features do not say which way to go.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.types import Observation

__all__ = ["Trunk", "dimensions"]

SMALL = 1e-6
"""A direction along which features change by less than this share of the most is not determined by them. Chosen."""

LARGEST = 4096
"""Up to so many directions are counted; beyond, only a bound is given."""


_RELU: Final = (F.relu, torch.relu, Tensor.relu)

_COMMUTE: Final = (
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze),
    *(Tensor.flatten, Tensor.reshape, Tensor.permute, Tensor.transpose, Tensor.squeeze, Tensor.unsqueeze, Tensor.view, Tensor.contiguous),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)
"""What may stand between an activation that never falls and the layer: the same done to what the activation was given tells the same."""


@dataclass(frozen=True, eq=False)
class _Given:
    """What an activation was given, and what came of it.

    Attributes:
        output: kept, so that no other tensor gets its identity.
        before: what it was given.
        slope: below zero; it is 1 above.
    """

    output: Tensor
    before: Tensor
    slope: float


class _ReachedError(Exception):
    """Ends a forward pass that has come to the layer."""

    def __init__(self, fed: Tensor, given: _Given | None) -> None:
        super().__init__()
        self.fed, self.given = fed, given


class _Until(TorchFunctionMode):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.given: dict[int, _Given] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        first: Any = args[0] if args else kwargs.get("input")
        if func is F.linear and (args[1] if len(args) > 1 else kwargs.get("weight")) is self.weight:
            raise _ReachedError(first, self.given.get(id(first)))
        slope = 0.0 if func in _RELU else self._slope(args, kwargs) if func is F.leaky_relu else None
        if slope is not None and isinstance(first, Tensor):
            made = F.leaky_relu(first, slope)  # never in place: what it was given is kept
            self.given[id(made)] = _Given(made, first, slope)
            return made
        made = func(*args, **kwargs)
        known = self.given.get(id(first))
        if known is not None and func in _COMMUTE and isinstance(made, Tensor):
            rest = args[1:] if args else ()
            named = {name: value for name, value in kwargs.items() if name != "input"}
            self.given[id(made)] = _Given(made, func(known.before, *rest, **named), known.slope)
        return made

    @staticmethod
    def _slope(args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
        return float(slope) if 0 <= slope <= 1 else None


@dataclass(frozen=True, eq=False)
class Trunk:
    """Inputs -> what a layer is fed, differentiable. Build it with ``Trunk.of``.

    Attributes:
        model: a copy.
        weight: of the layer, in the copy.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
        >>> seen = Observation(net, {name: torch.ones_like(p) for name, p in net.named_parameters()}, (1, 4, 4))
        >>> fed = Trunk.of(seen, "3.weight", torch.float32)(torch.zeros(5, 1, 4, 4))
        >>> fed.shape, bool(torch.allclose(fed, net[:3](torch.zeros(5, 1, 4, 4))))
        (torch.Size([5, 8]), True)
    """

    model: nn.Module
    weight: Tensor

    @staticmethod
    def of(observation: Observation, layer: str, dtype: torch.dtype) -> Trunk:
        """The trunk before the layer whose weight has this name."""
        with torch.no_grad():
            model = copy.deepcopy(observation.model).to(dtype).requires_grad_(False)
        return Trunk(model, dict(model.named_parameters())[layer])

    def __call__(self, inputs: Float[Tensor, " k *shape"]) -> Float[Tensor, "k n"]:
        """(k, *shape) -> (k, n)."""
        return self._run(inputs).fed

    def misfit(self, inputs: Float[Tensor, " k *shape"], wanted: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """How far features are from those wanted, as a share of these, told before the last activation where it can be undone.

        Zero where and only where the features are those wanted.

        Args:
            inputs: (k, *shape).
            wanted: (k, n).

        Example:
            >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(4, 4))
            >>> net[0].weight.data.fill_(1.0).shape
            torch.Size([1, 1, 1, 1])
            >>> seen = Observation(net, {name: torch.ones_like(p) for name, p in net.named_parameters()}, (1, 2, 2))
            >>> trunk = Trunk.of(seen, "3.weight", torch.float64)
            >>> trunk.misfit(torch.zeros(1, 1, 2, 2).double(), torch.tensor([[0.0, 3.0, -0.4, 0.0]]).double())
            tensor([[ 0.0000, -0.6000,  0.8000,  0.0000]], dtype=torch.float64)
        """
        reached = self._run(inputs)
        if reached.given is None:
            return (reached.fed - wanted) / _length(wanted)
        before, slope = reached.given.before, reached.given.slope
        if slope:
            target = torch.where(wanted < 0, wanted / slope, wanted)
            return (before - target) / _length(target)
        return torch.where(wanted > 0, before - wanted, before.clamp_min(0)) / _length(wanted)

    def _run(self, inputs: Float[Tensor, " k *shape"]) -> _ReachedError:
        try:
            with _Until(self.weight):
                self.model(inputs)
        except _ReachedError as reached:
            return reached
        raise AssertionError("the layer was not reached")


def _length(rows: Float[Tensor, "k n"]) -> Float[Tensor, "k 1"]:
    return rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def dimensions(trunk: Trunk, sample: Float[Tensor, " *shape"], generator: torch.Generator) -> tuple[int, bool]:
    """How many directions of a sample change its features: the rank of their Jacobian there, and whether it was counted or is a bound.

    Random sums of features stand for them where there are more features than numbers in a sample: their Jacobian has the same rank.

    Args:
        trunk: from samples to features, in float64.
        sample: one, as far as it is known.
        generator: of the sums.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 3, bias=False), nn.Identity(), nn.Linear(3, 2)).double()
        >>> seen = Observation(net, {name: torch.ones_like(p) for name, p in net.named_parameters()}, (6,))
        >>> dimensions(Trunk.of(seen, "2.weight", torch.float64), torch.zeros(6).double(), torch.Generator())
        (3, True)
    """
    inputs = sample[None].detach().clone().requires_grad_()
    with torch.enable_grad():
        features = trunk(inputs)
    count, size = features.shape[1], sample.numel()
    if min(count, size) > LARGEST:
        return min(int((features != 0).sum()), size), False
    if count <= size + 32:
        directions = torch.eye(count, dtype=features.dtype, device=features.device)
    else:
        directions = torch.randn((size + 32, count), generator=generator, dtype=features.dtype, device=generator.device)
    rows = [
        torch.autograd.grad(features, inputs, part[:, None].to(features.device), is_grads_batched=True, retain_graph=True)[0].flatten(1)
        for part in torch.split(directions, 64)
    ]
    jacobian = torch.cat(rows)
    jacobian = jacobian[jacobian.abs().amax(dim=1) > 0]
    if not len(jacobian):
        return 0, True
    gram = jacobian @ jacobian.T if len(jacobian) < size else jacobian.T @ jacobian
    most = float(torch.linalg.matrix_norm(gram, ord="fro"))
    floor = SMALL**2 * most
    if int(torch.linalg.cholesky_ex(gram - floor * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).info) == 0:
        return len(gram), True
    return int((torch.linalg.eigvalsh(gram) > floor).sum()), True
