"""The network up to what one Linear layer is fed: from a picture to its features, and how much of the picture these fix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


class _ReachedError(Exception):
    """Ends a forward pass that has come to the layer."""

    def __init__(self, fed: Tensor) -> None:
        super().__init__()
        self.fed = fed


class _Until(TorchFunctionMode):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.linear and (args[1] if len(args) > 1 else kwargs.get("weight")) is self.weight:
            raise _ReachedError(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)


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
        try:
            with _Until(self.weight):
                self.model(inputs)
        except _ReachedError as reached:
            return reached.fed
        raise AssertionError("the layer was not reached")


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
