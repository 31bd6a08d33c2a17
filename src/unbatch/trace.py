"""Run any module in double precision and see which Linear layers it used, and how.

A tracer of the *calls* (``torch.overrides.TorchFunctionMode``) rather than of the module tree: it sees ``F.linear`` wherever it is
called from, knows what the layer was fed and what was applied to its output, and needs no cooperation from the module.
The model is never changed: parameters and buffers enter by ``swap`` in float64, except the weights of very wide layers, which are read
in blocks so that no second copy of them exists. Buffers are copies. Parameters that have the type already are shared, as in the runs that
showed the model to be deterministic; in a trial, which may be the first pass of all, they are copies, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.errors import Misuse, UnbatchError, named, wants_more_inputs
from unbatch.linalg.blocks import times_transposed
from unbatch.swap import Moved, called_with, tensors_in

__all__ = ["TRIAL", "LinearCall", "LooksUp", "Run", "linear_layers", "model_errors", "probe", "run", "tensors_in", "trial"]

LARGE = 1 << 24
"""Weights with at least this many entries are read in blocks instead of being copied to float64."""

TRIAL = 2
"""Samples of noise that a model is looked at on. Chosen: with one, an axis of the batch could not be told from others."""

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
        raw: whether its input is the model's input, flattened, unchanged: for the inputs of this run; from ``linear_layers`` for inputs
            of every size.
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

    def made_by(self, weight: str) -> Tensor:
        """What the first call of the layer with this weight came to."""
        return next(call.output for call in self.linears if call.weight == weight)


class LooksUp(RuntimeError):
    """The model looks its inputs up in an embedding, but they are no whole numbers.

    Attributes:
        rows: how many the embedding has.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(f"the model looks its inputs up in an embedding of {rows} rows: they must be whole numbers below that")
        self.rows = rows


class _Recorder(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], large: set[int], inputs: Tensor, known: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names, self.large, self.inputs, self.known = names, large, inputs, known
        self.calls: list[LinearCall] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if _inactive_dropout(func, args, kwargs):
            return args[0]  # what comes after it is what the layer's output meets
        if func in _LOOKUPS and args[0].is_floating_point():
            raise LooksUp(int(args[1].shape[0]))
        self._note_activation(func, args, kwargs)
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        name = self.names.get(id(weight))
        if name is not None and name in self.known and all(call.weight != name for call in self.calls):
            output = self.known[name].detach().to(input.dtype).requires_grad_()
        elif id(weight) in self.large and weight.dtype != input.dtype:
            output = times_transposed(input, weight)
            output = output if bias is None else output + bias
        else:
            output = F.linear(input, weight, bias)
        if name is None:
            return output
        # A clone is handed out, so that an in-place activation leaves the recorded pre-activation alone.
        handed_out = output.clone()
        bias_name = None if bias is None else self.names.get(id(bias))
        self.calls.append(LinearCall(name, bias_name, input, output, handed_out, raw=_same(input, self.inputs)))
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


def run(
    model: nn.Module,
    inputs: Tensor,
    *,
    large: int = LARGE,
    dtype: torch.dtype = torch.float64,
    known: Mapping[str, Tensor] = MappingProxyType({}),
    own: bool = False,
) -> Run:
    """Run the model on a batch in ``dtype`` without touching it.

    Args:
        model: any module that takes one tensor and returns one tensor.
        inputs: (b, *input_shape), any float type; or tokens, which are whole numbers and stay what they are.
        large: weights of Linear layers with at least this many entries are read in blocks.
        dtype: the precision of the pass.
        known: weight name -> what that Linear layer makes of these inputs where it is first used, bias included, if that is known
            already: it is then not computed, and a leaf of the graph.
        own: whether parameters are copied that have the type already.

    Returns:
        the outputs with their graph, and every call of a Linear layer.

    Raises:
        Misuse: the model does not run on the inputs; its own exception is named.
        LooksUp: the inputs are no tokens, but the model expects some.
    """
    blocked = _blocked(model, large)
    leaves = {
        name: parameter.detach().to(dtype, copy=own).requires_grad_() for name, parameter in model.named_parameters() if name not in blocked
    }
    inputs = inputs.detach().to(dtype) if inputs.is_floating_point() else inputs.detach()
    tensors = {**leaves, **blocked}
    recorder = _Recorder({id(tensor): name for name, tensor in tensors.items()}, {id(tensor) for tensor in blocked.values()}, inputs, known)
    with torch.enable_grad(), model_errors(inputs), recorder:
        outputs = called_with(model, {**tensors, **_buffers(model, dtype)}, inputs.clone())
    return Run(outputs, leaves, recorder.calls)


def _blocked(model: nn.Module, large: int = LARGE) -> dict[str, Tensor]:
    """The weights that are never copied."""
    linear_weights = {f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: p.detach() for name, p in model.named_parameters() if name in linear_weights and p.numel() >= large}


def _buffers(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: (buffer.to(dtype) if buffer.is_floating_point() else buffer).clone() for name, buffer in model.named_buffers()}


@contextmanager
def model_errors(inputs: Tensor) -> Iterator[None]:
    """Whatever a model raises inside, as one sentence that names the model's own exception.

    Args:
        inputs: (b, *shape) what it was given.

    Raises:
        Misuse: the model raised anything but what unbatch itself raises, or a lack of memory.
    """
    try:
        yield
    except (UnbatchError, LooksUp, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "not enough memory" in str(error):
            raise
        shape = tuple(inputs.shape[1:])
        if (several := wants_more_inputs(error)) is not None:
            raise several from error
        raise Misuse(f"a model that runs on inputs of shape {shape}", named(error), "check the input shape and the model") from error


def linear_layers(model: nn.Module, input_shape: Sequence[int], samples: int = TRIAL) -> list[LinearCall]:
    """The Linear layers that a forward pass uses, in order, seen on ``samples`` fixed noise inputs.

    What sees the raw input is asked again over the range that inputs can have: a clamp, a rounding, a tanh leaves most noise alone. And
    nothing but moves of numbers may lie before it: what stands for a missing value may be any number, and none of these.

    Raises:
        Misuse: the model does not run on inputs of this shape.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> [(call.weight, call.activation, call.raw) for call in linear_layers(net, (3, 2, 2))]
        [('1.weight', 'relu', True), ('3.weight', None, False)]
    """
    calls = trial(model, input_shape, samples).linears
    order = _occurrences(call.weight for call in calls)
    if asked := {key for call, key in zip(calls, order, strict=True) if call.raw}:
        raw = _raw_over_the_range(model, input_shape, asked)
        for call, key in zip(calls, order, strict=True):
            call.raw = call.raw and all(key in fed for fed in raw)
    return calls


def trial(model: nn.Module, input_shape: Sequence[int], samples: int = TRIAL) -> Run:
    """One forward pass on fixed noise in the model's own precision (float32 at least): to look, not to measure.

    A model that looks its inputs up in an embedding is given random tokens instead.

    Example:
        >>> trial(nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(24, 2)), (3,)).vocabulary
        50

    Raises:
        Misuse: the model does not run on inputs of this shape.
    """
    first = next(model.parameters(), torch.zeros(()))
    dtype, generator = torch.promote_types(first.dtype, torch.float32), torch.Generator().manual_seed(0)
    noise = torch.randn((samples, *input_shape), generator=generator, dtype=torch.float64)
    try:
        return run(model, noise.to(first.device), dtype=dtype, own=True)
    except Misuse:  # a model may index something else before it looks its tokens up
        rows = next((module.num_embeddings for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))), 0)
        if not rows:
            raise
        tokens = torch.randint(rows, (samples, *input_shape), generator=generator)
        return replace(run(model, tokens.to(first.device), dtype=dtype, own=True), vocabulary=rows)
    except LooksUp as lookup:
        tokens = torch.randint(lookup.rows, (samples, *input_shape), generator=generator)
        return replace(run(model, tokens.to(first.device), dtype=dtype, own=True), vocabulary=lookup.rows)


def probe(model: nn.Module, input_shape: Sequence[int], vocabulary: int = 0) -> Tensor:
    """(4, *input_shape) inputs to try a model on, of its device and type: fractions from 0 to 1, noise, bytes, and large noise.

    Args:
        model: for its device and type.
        input_shape: of one sample.
        vocabulary: of a model that looks its inputs up in an embedding, which then are tokens; 0 for numbers.
    """
    first = next(model.parameters(), torch.zeros(()))
    if vocabulary:
        return torch.randint(vocabulary, (4, *input_shape), generator=torch.Generator().manual_seed(0)).to(first.device)
    kinds = [kind[0] for kind in _over_the_range(input_shape, ("fractions", "noise", "bytes", "large"))]
    return torch.stack(kinds).to(first)


_RANGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "noise": lambda noise, _: noise,
    "fractions": lambda _, fractions: fractions,
    "bytes": lambda _, fractions: (256 * fractions).floor(),
    "large": lambda noise, _: 1e4 * noise,
    "tiny": lambda noise, _: 1e-9 * noise,
    "of all sizes": lambda noise, fractions: noise.sign() * 10 ** (24 * fractions - 12),
    "positive": lambda _, fractions: 100 * fractions,
    "negative": lambda _, fractions: -100 * fractions,
    "zero": lambda noise, _: torch.zeros_like(noise),
    "even": lambda noise, _: torch.full_like(noise, 3.0),
}
"""Inputs of every kind that a client may have, made of noise and of fractions from 0 to 1."""


def _over_the_range(shape: Sequence[int], kinds: Iterable[str] = _RANGE) -> Iterator[Tensor]:
    """(2, *shape) of every kind, each apart, for a model may look at its batch before it decides."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    fractions = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    for kind in kinds:
        yield _RANGE[kind](noise, fractions)


class _Enough(UnbatchError):
    """Every call that was asked for has been seen: the rest of the pass says nothing."""


class _Feeds(TorchFunctionMode):
    """Sees what every Linear layer is fed; none is computed, so that a pass costs next to nothing however wide they are.

    Args:
        names: of the weights, by the tensor's identity.
        inputs: of the model.
        asked: the calls, by weight and number, after which the pass may end.
    """

    def __init__(self, names: Mapping[int, str], inputs: Tensor, asked: set[tuple[str, int]]) -> None:
        super().__init__()
        self.names, self.wanted, self.left = names, inputs.clone(), set(asked)
        self.count: Counter[str] = Counter()
        self.raw: set[tuple[str, int]] = set()
        self.moved = Moved(inputs)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if _inactive_dropout(func, args, kwargs):
            return args[0]
        result = func(*args, **kwargs)
        self.moved.note(func, args, kwargs, result)
        return result

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if (name := self.names.get(id(weight))) is None:
            return F.linear(input, weight, bias)
        self.count[name] += 1
        key = (name, self.count[name])
        if input in self.moved and _same(input, self.wanted):
            self.raw.add(key)
        if key in self.left:
            self.left.remove(key)
            if not self.left:
                raise _Enough
        return input.new_zeros((*input.shape[:-1], weight.shape[0]))


def _raw_over_the_range(model: nn.Module, input_shape: Sequence[int], asked: set[tuple[str, int]]) -> list[set[tuple[str, int]]]:
    """For every kind of input that the model takes: the Linear calls, by weight and number, that were fed it raw, of those asked."""
    first = next(model.parameters(), torch.zeros(()))
    dtype, blocked = torch.promote_types(first.dtype, torch.float32), _blocked(model)
    tensors = blocked | {name: p.detach().to(dtype) for name, p in model.named_parameters() if name not in blocked}
    names, found = {id(tensor): name for name, tensor in tensors.items()}, []
    for kind in _over_the_range(input_shape):
        inputs = kind.to(first.device, dtype)
        watch = _Feeds(names, inputs, asked)
        try:
            with torch.no_grad(), suppress(_Enough), model_errors(inputs), watch:
                called_with(model, {**tensors, **_buffers(model, dtype)}, inputs)
        except Misuse:  # inputs that the model refuses are none that it sees changed
            continue
        found.append(watch.raw)
    return found


def _occurrences(names: Iterable[str]) -> list[tuple[str, int]]:
    """Every name with how often it has come."""
    count: Counter[str] = Counter()
    numbered = []
    for name in names:
        count[name] += 1
        numbered.append((name, count[name]))
    return numbered


def _inactive_dropout(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return func is F.dropout and not kwargs.get("training", args[2] if len(args) > 2 else True)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))
