"""Run any module in double precision and see which Linear layers it used, and how.

A tracer of the *calls* (``torch.overrides.TorchFunctionMode``) rather than of the module tree: it sees ``F.linear`` wherever it is
called from, knows what the layer was fed and what was applied to its output, and needs no cooperation from the module.
The model is never changed: parameters and buffers enter by ``torch.func.functional_call`` as copies in float64, except
the weights of very wide layers, which are read in blocks so that no second copy of them exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["LinearCall", "LooksUp", "Run", "linear_layers", "run", "trial"]

LARGE = 1 << 24
"""Weights with at least this many entries are read in blocks instead of being copied to float64."""

_RELU: set[Callable[..., Any]] = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_CLAMP: set[Callable[..., Any]] = {torch.clamp, torch.clamp_min, Tensor.clamp, Tensor.clamp_min, Tensor.clamp_, torch.clamp_}
_LOOKUPS: set[Callable[..., Any]] = {F.embedding, F.embedding_bag}
_SILENT: set[str] = {"__get__", "__len__", "size", "dim", "ndimension", "numel", "nelement", "stride", "clone", "detach", "requires_grad_"}


@dataclass(eq=False)
class LinearCall:
    """One call of a Linear layer.

    Attributes:
        weight: name of its weight among the model's parameters.
        bias: name of its bias, or None.
        input: (..., n) what it was fed.
        output: (..., m) its pre-activation, a node of the graph.
        activation: ``"relu"``, the name of the first other function applied to the output, or None.
        raw: whether its input is the model's input, flattened, unchanged.
    """

    weight: str
    bias: str | None
    input: Tensor
    output: Tensor
    handed_out: Tensor
    activation: str | None = None
    raw: bool = False


@dataclass(eq=False)
class Run:
    """What one forward pass left: outputs, parameters as used, Linear calls in order.

    ``parameters`` holds leaves in float64; the large weights, which are read in blocks, are missing from it: their gradient
    is ``output.grad.T @ input`` of their calls. ``vocabulary`` is how many tokens the embedding knows that a trial run found the model to
    look its inputs up in; 0 where inputs are numbers.
    """

    outputs: Tensor
    parameters: dict[str, Tensor]
    linears: list[LinearCall] = field(default_factory=list)
    vocabulary: int = 0


class LooksUp(RuntimeError):
    """The model looks its inputs up in an embedding, but they are no whole numbers.

    Attributes:
        rows: how many the embedding has.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(f"the model looks its inputs up in an embedding of {rows} rows: they must be whole numbers below that")
        self.rows = rows


class _BlockedLinear(torch.autograd.Function):
    """x Wᵀ in float64 with W of any float type, read in column blocks; differentiable in x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        out = x.new_zeros((*x.shape[:-1], weight.shape[0]))
        for block in _blocks(weight):
            out += x[..., block] @ weight[:, block].to(x.dtype).T
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        (gradient,), weight = gradients, ctx.weight
        return torch.cat([gradient @ weight[:, block].to(gradient.dtype) for block in _blocks(weight)], dim=-1), None


def _blocks(weight: Tensor) -> list[slice]:
    width = max(1, LARGE // 8 // weight.shape[0])
    return [slice(start, start + width) for start in range(0, weight.shape[1], width)]


class _Recorder(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], large: set[int], inputs: Tensor) -> None:
        super().__init__()
        self.names, self.large, self.inputs = names, large, inputs
        self.calls: list[LinearCall] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is F.dropout and not kwargs.get("training", args[2] if len(args) > 2 else True):
            return args[0]  # inactive: what comes after it is what the layer's output meets
        if func in _LOOKUPS and args[0].is_floating_point():
            raise LooksUp(int(args[1].shape[0]))
        self._note_activation(func, args, kwargs)
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) in self.large:
            output: Tensor = _BlockedLinear.apply(input, weight)  # type: ignore[no-untyped-call]
            output = output if bias is None else output + bias
        else:
            output = F.linear(input, weight, bias)
        if (name := self.names.get(id(weight))) is None:
            return output
        # A clone is handed out, so that an in-place activation leaves the recorded pre-activation alone.
        handed_out = output.clone()
        raw = (
            input.dtype == self.inputs.dtype
            and input.numel() == self.inputs.numel()
            and torch.equal(input.reshape(-1), self.inputs.reshape(-1))
        )
        bias_name = None if bias is None else self.names.get(id(bias))
        self.calls.append(LinearCall(name, bias_name, input, output, handed_out, raw=raw))
        return handed_out

    def _note_activation(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if getattr(func, "__name__", "") in _SILENT:
            return
        given = [part for value in (*args, *kwargs.values()) for part in (value if isinstance(value, (list, tuple)) else (value,))]
        for call in self.calls:
            if call.activation is None and any(part is call.handed_out for part in given):
                first = bool(args) and args[0] is call.handed_out
                call.activation = _activation(func, args[1:], kwargs) if first else _named(func)


def _activation(func: Callable[..., Any], rest: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if func in _RELU:
        return "relu"
    low = kwargs.get("min", rest[0] if rest else None)
    high = kwargs.get("max", rest[1] if len(rest) > 1 else None)
    if func in _CLAMP and isinstance(low, (int, float)) and low == 0 and high is None:
        return "relu"
    return _named(func)


def _named(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


def run(model: nn.Module, inputs: Tensor, *, large: int = LARGE, dtype: torch.dtype = torch.float64) -> Run:
    """Run the model on a batch in ``dtype`` without touching it.

    Args:
        model: any module that takes one tensor and returns one tensor.
        inputs: (b, *input_shape), any float type; or tokens, which are whole numbers and stay what they are.
        large: weights of Linear layers with at least this many entries are read in blocks.
        dtype: the precision of the pass.

    Returns:
        the outputs with their graph, and every call of a Linear layer.

    Raises:
        LooksUp: the inputs are no tokens, but the model expects some.
    """
    linear_weights = {f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    blocked: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name in linear_weights and parameter.numel() >= large:
            blocked[name] = parameter.detach()
        else:
            leaves[name] = parameter.detach().to(dtype, copy=True).requires_grad_()
    buffers = {name: (buffer.to(dtype) if buffer.is_floating_point() else buffer).clone() for name, buffer in model.named_buffers()}
    inputs = inputs.detach().to(dtype) if inputs.is_floating_point() else inputs.detach()
    tensors = {**leaves, **blocked}
    recorder = _Recorder({id(tensor): name for name, tensor in tensors.items()}, {id(tensor) for tensor in blocked.values()}, inputs)
    with torch.enable_grad(), recorder:
        outputs = torch.func.functional_call(model, {**tensors, **buffers}, (inputs,), tie_weights=True)
    return Run(outputs, leaves, recorder.calls)


def linear_layers(model: nn.Module, input_shape: Sequence[int], samples: int = 2) -> list[LinearCall]:
    """The Linear layers that a forward pass uses, in order, seen on ``samples`` fixed noise inputs.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> [(call.weight, call.activation, call.raw) for call in linear_layers(net, (3, 2, 2))]
        [('1.weight', 'relu', True), ('3.weight', None, False)]
    """
    return trial(model, input_shape, samples).linears


def trial(model: nn.Module, input_shape: Sequence[int], samples: int = 2) -> Run:
    """One forward pass on fixed noise in the model's own precision (float32 at least): to look, not to measure.

    A model that looks its inputs up in an embedding is given random tokens instead.

    Example:
        >>> trial(nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(24, 2)), (3,)).vocabulary
        50
    """
    first = next(model.parameters(), torch.zeros(()))
    dtype, generator = torch.promote_types(first.dtype, torch.float32), torch.Generator().manual_seed(0)
    noise = torch.randn((samples, *input_shape), generator=generator, dtype=torch.float64)
    try:
        return run(model, noise.to(first.device), dtype=dtype)
    except LooksUp as lookup:
        tokens = torch.randint(lookup.rows, (samples, *input_shape), generator=generator)
        return replace(run(model, tokens.to(first.device), dtype=dtype), vocabulary=lookup.rows)
