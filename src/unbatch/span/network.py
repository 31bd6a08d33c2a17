"""The model as a function of samples that are given in the coordinates of one layer's gradient.

The gradient of a Linear layer factors as U R, and what the layer was fed in sample i is x_i = Rᵀ p_i with b numbers p_i. All that the model
does behind the layer depends on p alone, through W x + bias = (W Rᵀ) p + bias, so that one product with the wide weight is enough.
As in ``trace``, the calls of ``F.linear`` are seen and not the tree of modules: any model will do, and it is never changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.linalg.lowrank import multiply
from unbatch.losses import Loss, loss_function, slopes_alone
from unbatch.swap import called_with
from unbatch.trace import LinearCall

__all__ = ["MovingNetwork", "Network", "network_behind"]


@dataclass(frozen=True, eq=False)
class Network:
    """See the module's text.

    Attributes:
        model: as broadcast.
        tensors: its parameters and buffers in float64; the weights of the entered layers are left as they are, they are not read.
        entries: weight name -> (W Rᵀ (m, b), bias (m,)) of the layers that are entered by p.
        right: (b, n) R.
        input_shape: of one sample.
        passes: whether the input also goes past the entered layers, so that x = Rᵀ p itself has to be fed.
        loss: the client's.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    entries: Mapping[str, tuple[Float[Tensor, "m b"], Float[Tensor, " m"]]]
    right: Float[Tensor, "b n"]
    input_shape: tuple[int, ...]
    passes: bool
    loss: Loss

    def restricted(self, basis: Float[Tensor, "b r"]) -> Network:
        """The same for samples p = basis @ p', as a function of p'."""
        entries = {name: (seen @ basis, bias) for name, (seen, bias) in self.entries.items()}
        return replace(self, entries=entries, right=basis.T @ self.right)

    def outputs(
        self, points: Float[Tensor, "k b"], shifts: Mapping[str, Tensor], fed: Sequence[str] = ()
    ) -> tuple[Float[Tensor, "k c"], dict[str, Tensor]]:
        """The scores of the samples, and what the layers named in ``fed`` were fed.

        Args:
            points: the samples p.
            shifts: weight name -> (k, m) added to the pre-activations of that layer: the loss is differentiated with respect to them.
            fed: weight names.
        """
        inputs = (points @ self.right).reshape(-1, *self.input_shape) if self.passes else self._blank(len(points))
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        with _Entering(names, points, self.entries, shifts, fed) as entering:
            scores = called_with(self.model, dict(self.tensors), inputs)
        return scores, entering.seen

    def fed(self, points: Float[Tensor, "k b"], layers: Sequence[str]) -> dict[str, Tensor]:
        """What some layers are fed; what comes behind them is not computed."""
        inputs = (points @ self.right).reshape(-1, *self.input_shape) if self.passes else self._blank(len(points))
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        entering = _Entering(names, points, self.entries, {}, layers, only=True)
        with contextlib.suppress(_Enough), entering:
            called_with(self.model, dict(self.tensors), inputs)
        return entering.seen

    def _blank(self, count: int) -> Tensor:
        return self.right.new_zeros(1).expand(count, *self.input_shape)

    def losses(self, scores: Float[Tensor, "k c"], labels: Int64[Tensor, " k"]) -> Tensor:
        """The sum of the samples' own losses."""
        if self.loss == "cross_entropy":
            return F.cross_entropy(scores, labels, reduction="sum")
        measure = loss_function(self.loss)
        try:
            return torch.func.vmap(lambda row, label: measure(row[None], label[None]))(scores, labels).sum()
        except RuntimeError:  # something in the loss is not made for vmap
            return torch.stack([measure(row[None], label[None]) for row, label in zip(scores, labels, strict=True)]).sum()

    def sensitivities(
        self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], layers: Sequence[str], fed: Sequence[str] = ()
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """∂ℓ/∂z of some layers, (k, m) each, and what some layers are fed, (k, n) each; differentiable in the points."""

        def total(shifts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            scores, seen = self.outputs(points, shifts, fed)
            return self.losses(scores, labels), seen

        shifts = {name: points.new_zeros((len(points), self._width(name))) for name in layers}
        if not len(points):  # no model, and no loss, of a client's is made for none
            return shifts, {name: points.new_zeros((0, self.tensors[name].shape[1])) for name in fed}
        if not shifts:
            return {}, self.fed(points, fed)
        columns, seen = torch.func.grad(total, has_aux=True)(shifts)
        return columns, seen

    def by_label(self, points: Float[Tensor, "k b"], layer: str, classes: Int64[Tensor, " c"]) -> Float[Tensor, "c k m"]:
        """∂ℓ/∂z of one layer for every one of these labels."""
        shift = points.new_zeros((len(points), self._width(layer)))
        if not len(points):
            return shift.expand(len(classes), *shift.shape)
        scores, back, *_ = torch.func.vjp(lambda shift: self.outputs(points, {layer: shift})[0], shift)

        parts = torch.split(classes, max(1, (1 << 24) // max(1, shift.numel())))
        return torch.cat([torch.func.vmap(lambda slopes: back(slopes)[0])(slopes_alone(self.loss, scores, part)) for part in parts])

    def _width(self, name: str) -> int:
        return len(self.tensors[name])


@dataclass(frozen=True, eq=False)
class MovingNetwork:
    """A model whose weights moved while it was trained: ∂ℓ/∂z is the mean over the weights that it passed.

    Attributes:
        networks: one for each of these.
        shares: what each counts; their sum is 1.
    """

    networks: tuple[Network, ...]
    shares: tuple[float, ...]

    @property
    def right(self) -> Float[Tensor, "b n"]:
        """See ``Network``."""
        return self.networks[0].right

    def restricted(self, basis: Float[Tensor, "b r"]) -> MovingNetwork:
        """See ``Network.restricted``."""
        return replace(self, networks=tuple(network.restricted(basis) for network in self.networks))

    def sensitivities(
        self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], layers: Sequence[str], fed: Sequence[str] = ()
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The means of ``Network.sensitivities``."""
        each = [network.sensitivities(points, labels, layers, fed) for network in self.networks]
        means = [{name: self._mean([parts[kind][name] for parts in each]) for name in names} for kind, names in enumerate((layers, fed))]
        return means[0], means[1]

    def by_label(self, points: Float[Tensor, "k b"], layer: str, classes: Int64[Tensor, " c"]) -> Float[Tensor, "c k m"]:
        """The mean of ``Network.by_label``."""
        return self._mean([network.by_label(points, layer, classes) for network in self.networks])

    def _mean(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([share * tensor for share, tensor in zip(self.shares, tensors, strict=True)]).sum(dim=0)


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001
    return F.relu6(x + 3) / 6


def _rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False) -> Tensor:
    return F.rrelu(x, lower, upper, training, inplace) if training else F.leaky_relu(x, (lower + upper) / 2)


_DIFFERENTIABLE: Mapping[Callable[..., Any], Callable[..., Tensor]] = {F.hardsigmoid: _hardsigmoid, F.rrelu: _rrelu}
"""What PyTorch has no forward derivative of, or no rule under vmap, and the same function written with what it has them of."""


class _Enough(Exception):
    """All that was asked for has been seen."""


class _Entering(TorchFunctionMode):
    """Replaces what the entered layers compute, shifts pre-activations, and keeps what layers are fed."""

    def __init__(
        self,
        names: Mapping[int, str],
        points: Tensor,
        entries: Mapping[str, tuple[Tensor, Tensor]],
        shifts: Mapping[str, Tensor],
        fed: Sequence[str],
        *,
        only: bool = False,
    ) -> None:
        super().__init__()
        self.only = only
        self.names, self.points, self.entries, self.shifts, self.fed = names, points, entries, shifts, fed
        self.seen: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DIFFERENTIABLE:
            return _DIFFERENTIABLE[func](*args, **kwargs)
        if func is not F.linear or len(args) < 2 or (name := self.names.get(id(args[1]))) is None:
            return func(*args, **kwargs)
        if name in self.fed:
            self.seen[name] = args[0]
            if self.only and len(self.seen) == len(self.fed):
                raise _Enough
        if name in self.entries:
            seen, bias = self.entries[name]
            output = self.points @ seen.T + bias
        else:
            output = func(*args, **kwargs)
        return output + self.shifts[name] if name in self.shifts else output


def network_behind(
    model: nn.Module, calls: Sequence[LinearCall], right: Float[Tensor, "b n"], input_shape: tuple[int, ...], loss: Loss
) -> Network | None:
    """The model behind some layers that are fed with the same x = Rᵀ p.

    Args:
        model: as broadcast.
        calls: the layers, applied once a sample; they see the raw input, or are one inner layer.
        right: R.
        input_shape: of one sample.
        loss: the client's.

    Returns:
        the function, or None where the model's scores depend on more than what an inner layer is fed.
    """
    entered = {call.weight for call in calls}
    parameters = dict(model.named_parameters())
    entries = {}
    for call in calls:
        weight = parameters[call.weight].detach()
        bias = right.new_zeros(len(weight)) if call.bias is None else parameters[call.bias].detach().double()
        entries[call.weight] = (multiply(weight, right), bias)
    tensors = {name: tensor.detach() if name in entered else tensor.detach().double() for name, tensor in parameters.items()}
    tensors |= {name: (t.double() if t.is_floating_point() else t).detach().clone() for name, t in model.named_buffers()}
    raw = all(call.raw for call in calls)
    network = Network(model, tensors, entries, right, input_shape, False, loss)
    fixed = torch.Generator().manual_seed(0)
    points = torch.randn((2, len(right)), generator=fixed, dtype=torch.float64).to(right) / right.norm()
    blind = network.outputs(points, {})[0]
    if raw:
        fed = replace(network, passes=True)
        return network if torch.equal(fed.outputs(points, {})[0], blind) else fed
    return network if _pure(network, points, blind) else None


def _pure(network: Network, points: Tensor, blind: Tensor) -> bool:
    """Whether other inputs leave the scores alone, as long as the inner layer is fed the same."""
    noise = torch.randn((2, *network.input_shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(points)
    names = {id(tensor): name for name, tensor in network.tensors.items()}
    with _Entering(names, points, network.entries, {}, ()):
        scores = called_with(network.model, dict(network.tensors), noise)
    return torch.equal(scores, blind)
