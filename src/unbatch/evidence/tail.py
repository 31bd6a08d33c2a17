"""The network from one Linear layer on, as a function of that layer's pre-activation.

A sample enters the update through the first layer that sees it. What comes after depends on z = W x + bias alone, so a sample is tried by
its z: m numbers in place of the whole input, whatever the module tree behind it. Every pass is float64 and by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.errors import Misuse, UnbatchError
from unbatch.evidence.slopes import pulled_back, slopes_of
from unbatch.swap import structure_of
from unbatch.trace import model_errors
from unbatch.types import Observation

__all__ = ["Seen", "Tail", "tail_of"]

OTHER = 0.5
"""What is put in the place of a layer's inputs a second time: any number but the first, which is 0, shows whether they are still used.
Chosen."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What samples leave at one Linear layer.

    Attributes:
        inputs: (k, n) what the layer is fed; None for the layer that the tail starts with.
        columns: (k, m) ∂ℓ/∂z of every sample's own loss; None where only the forward pass was asked for.
    """

    inputs: Float[Tensor, "k n"] | None
    columns: Float[Tensor, "k m"] | None


class _EnoughError(UnbatchError):
    """Ends a forward pass that has shown what it was started for."""


@dataclass(eq=False)
class _Calls(TorchFunctionMode):
    """Puts z in the place of one layer's output, and notes what the Linear layers behind it are fed and give."""

    names: Mapping[int, str]
    start: str
    z: Tensor
    stop: str | None = None
    starts: int = 0
    noted: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear:
            return func(*args, **kwargs)
        fed = args[0] if args else kwargs["input"]
        name = self.names.get(id(args[1] if len(args) > 1 else kwargs["weight"]))
        if name == self.start:
            self.starts += 1
            return self.z.clone()  # an in-place activation must not change z itself
        if name is None:
            return func(*args, **kwargs)
        if not fed.requires_grad:  # it lies before the first layer, or beside it
            return func(*args, **kwargs)
        if name == self.stop:
            self.noted.append((name, fed, fed))
            raise _EnoughError
        output = func(*args, **kwargs)
        self.noted.append((name, fed, output))
        return output.clone()


@dataclass(frozen=True, eq=False)
class Tail:
    """See the module. Build it with ``tail_of``.

    Attributes:
        observation: what the server saw.
        start: name of the weight of the layer that it starts with.
        model: a copy in float64, but for the weight of the first layer, which is not used.
        layers: names of the weights of the layers behind it that see one row a sample and are used once.
    """

    observation: Observation
    start: str
    model: nn.Module
    layers: tuple[str, ...] = ()

    def __call__(
        self, z: Float[Tensor, "k m"], labels: Int64[Tensor, " k"] | None = None, stop: str | None = None, dummy: float = 0.0
    ) -> dict[str, Seen]:
        """One pass of k samples, each by itself.

        Args:
            z: (k, m) pre-activations of the first layer.
            labels: (k,); without them there is no backward pass.
            stop: name of a layer at which the forward pass may end.
            dummy: what stands in the place of the model's input, which the tail must not depend on.
        """
        outputs, calls, z = self._forward(z, stop, dummy)
        names = [name for name, _, _ in calls.noted]
        columns: list[Tensor | None] = [None] * (len(names) + 1)
        if labels is not None and outputs is not None:
            slopes = slopes_of(self.observation, outputs.detach(), labels)
            columns = pulled_back(outputs, [z, *(out for _, _, out in calls.noted)], slopes)
        seen = {self.start: Seen(None, columns[0])}
        for (name, fed, _), column in zip(calls.noted, columns[1:], strict=True):
            if name in self.layers:
                seen[name] = Seen(fed.detach(), column)
        return seen

    def pulled(self, z: Float[Tensor, "k m"], slopes: Float[Tensor, "s k c"]) -> Float[Tensor, "s k m"]:
        """The columns that slopes of the outputs cause at z."""
        outputs, _, z = self._forward(z, None, 0.0)
        found = [pulled_back(outputs, [z], slope.to(outputs), again=True)[0] for slope in slopes]
        return torch.stack([torch.zeros_like(z) if columns is None else columns for columns in found])

    def turned(
        self, z: Float[Tensor, "k m"], labels: Int64[Tensor, " k"], ways: Float[Tensor, "a m"]
    ) -> tuple[Float[Tensor, "k m"], Float[Tensor, "a k m"]]:
        """The columns at z, and how they turn as every z moves along each way.

        Raises:
            RuntimeError: something behind the layer cannot be differentiated twice.
        """
        outputs, _, z = self._forward(z, None, 0.0)
        with torch.enable_grad():
            slopes = slopes_of(self.observation, outputs, labels)
            columns: Tensor = torch.autograd.grad(outputs, [z], slopes, create_graph=True)[0]
            if not columns.requires_grad:
                return columns.detach(), torch.zeros((len(ways), *z.shape), dtype=z.dtype, device=z.device)
            across = torch.zeros_like(columns, requires_grad=True)
            back = torch.autograd.grad(columns, [z], across, create_graph=True, allow_unused=True)[0]
            if back is None or not back.requires_grad:
                return columns.detach(), torch.zeros((len(ways), *z.shape), dtype=z.dtype, device=z.device)
            found = [torch.autograd.grad(back, [across], way.expand_as(z), retain_graph=True)[0] for way in ways]
        return columns.detach(), torch.stack(found).nan_to_num(0.0)

    def outputs(self, z: Float[Tensor, "k m"], dummy: float = 0.0) -> Tensor:
        """(k, C) class scores."""
        outputs: Tensor = self._forward(z, None, dummy)[0]
        return outputs.detach()

    def _forward(self, z: Tensor, stop: str | None, dummy: float) -> tuple[Any, _Calls, Tensor]:
        """Outputs (None where it stopped before), the calls noted, and z as a leaf of the graph."""
        parameters = dict(self.model.named_parameters())
        z = z.detach().double().requires_grad_()
        calls = _Calls({id(tensor): name for name, tensor in parameters.items()}, self.start, z, stop)
        inputs = torch.full((1, *self.observation.input_shape), dummy, dtype=z.dtype, device=z.device)
        outputs = None
        with suppress(_EnoughError), torch.enable_grad(), model_errors(inputs), calls:
            outputs = self.model(inputs.expand(len(z), *self.observation.input_shape))
        return outputs, calls, z


def tail_of(observation: Observation, start: str) -> Tail | None:
    """The tail from this layer on, or None where what follows depends on more than its pre-activation.

    Args:
        observation: what the server saw.
        start: name of a Linear layer's weight.
    """
    parameters = dict(observation.model.named_parameters())
    with torch.no_grad():
        model = structure_of(observation.model, [parameters[start]])  # which may be gigabytes, and is not used
        for name, parameter in model.named_parameters():
            if name != start:
                parameter.requires_grad_(False)
                parameter.data = parameter.data.double()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.double()
    tail = Tail(observation, start, model)
    generator = torch.Generator(observation.device).manual_seed(0)
    z = torch.randn((3, len(parameters[start])), generator=generator, dtype=torch.float64, device=observation.device)
    try:
        first, calls, _ = tail._forward(z, None, 0.0)
        second, _, _ = tail._forward(z, None, OTHER)
    except Misuse:
        return None
    if calls.starts != 1 or first is None or second is None or first.ndim != 2 or not torch.equal(first, second):
        return None
    names = [name for name, _, _ in calls.noted]
    once = tuple(name for name, fed, _ in calls.noted if names.count(name) == 1 and fed.ndim == 2 and len(fed) == len(z))
    return Tail(observation, start, model, tuple(name for name in once if name in observation.update))
