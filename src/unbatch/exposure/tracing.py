"""Which parameters a forward pass uses, in which function, and what that function was fed.

A second tracer around ``trace.run``: that one knows Linear layers well, this one knows every function a little. A tensor that was made of
parameters and constants alone (a transposed weight, a normalized one) stands for those parameters; the first function that joins it with
data is the parameters' use. What is neither parameter nor constant counts as data.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unbatch.errors import Misuse, wants_more_inputs
from unbatch.exposure.findings import Sees
from unbatch.trace import LinearCall, LooksUp, Run, run, tensors_in, trial

__all__ = ["USER_ERRORS", "ParameterTrace", "TracedModule", "Use", "noise", "precision", "trace_parameters"]

SAMPLES = 8
"""Noise inputs of a trace."""

USER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the code of a model may raise on inputs that it is not made for."""


@dataclass(eq=False)
class Use:
    """One call that joined parameters with data.

    Attributes:
        function: name of the function.
        source: the first data that it was given.
        output: the first tensor that it returned.
        computed: whether it was given something computed of the parameters instead of themselves.
    """

    function: str
    source: Tensor
    output: Tensor | None
    computed: bool


@dataclass(eq=False)
class TracedModule:
    """A module with parameters of its own, or what of it is used together.

    Attributes:
        name: path in the model.
        kind: class name.
        parameters: name -> parameter; a tied one under the name that it has in the model's own list.
        uses: calls that its parameters took part in.
        calls: the Linear calls among them.
    """

    name: str
    kind: str
    parameters: dict[str, nn.Parameter]
    uses: list[Use] = field(default_factory=list)
    calls: list[LinearCall] = field(default_factory=list)


@dataclass(eq=False)
class ParameterTrace:
    """What one forward pass on noise showed.

    Attributes:
        modules: every module with parameters, in the model's order.
        inputs: (8, *input_shape) the noise.
        ran: the pass itself.
        footprint: numbers in all intermediate results, per sample.
        followers: for every Linear call, by its id, the first function that took its output.
        zeros: for every Linear call, by its id, the share of exact zeros among its sensitivities.
        vocabulary: how many tokens there are, of a model that looks its inputs up; 0 for one that takes numbers.
    """

    modules: list[TracedModule]
    inputs: Tensor
    ran: Run
    footprint: int
    followers: dict[int, str]
    zeros: dict[int, float]
    vocabulary: int = 0

    def sees(self, source: Tensor) -> Sees:
        """Whether something that a layer was fed is the raw input; noise has no two equal numbers, which tells them apart."""
        given, raw = source.detach().double(), self.inputs.double()
        if given.numel() != raw.numel():
            return "raw input, in part" if given.numel() and bool(torch.isin(given, raw).all()) else "features"
        given, raw = given.reshape(len(raw), -1), raw.reshape(len(raw), -1)
        if torch.equal(given, raw):
            return "raw input"
        if torch.equal(given.flatten().sort().values, raw.flatten().sort().values):
            return "raw input, rearranged"
        slope = (given[0] - given[1]) / (raw[0] - raw[1])
        error = given[0] - given[2] - slope * (raw[0] - raw[2])
        same = bool((error.abs() <= 1e-3 * (1 + (given[0] - given[2]).abs())).all()) and bool((slope != 0).all())
        return "raw input, scaled" if same else "features"


class _Watch(TorchFunctionMode):
    """Follows parameters and constants; see the module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = list(model.named_parameters())
        self.owners: dict[int, frozenset[str]] = {id(parameter): frozenset({name}) for name, parameter in named}
        self.owners |= {id(buffer): frozenset() for buffer in model.buffers()}  # nobody's: constants
        self.kept: list[Any] = [parameter for _, parameter in named] + list(model.buffers())  # so that no id is given away twice
        self.plain = set(self.owners)
        self.uses: list[tuple[frozenset[str], Use]] = []
        self.followers: dict[int, str] = {}
        self.numbers = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", func))
        self._note(name, list(tensors_in([*args, *(kwargs or {}).values()])), args[0] if name == "__setitem__" else result)
        return result

    def _note(self, name: str, given: list[Tensor], result: Any) -> None:
        results = list(tensors_in([result]))
        data = [tensor for tensor in given if id(tensor) not in self.owners]
        parameters = [tensor for tensor in given if self.owners.get(id(tensor))]
        owners = frozenset[str]().union(*(self.owners[id(tensor)] for tensor in parameters))
        for tensor in data if results else ():
            self.followers.setdefault(id(tensor), name)
        for tensor in results:
            if not any(tensor is old for old in given):
                self.followers.pop(id(tensor), None)  # of a tensor that is gone and had the same id
        if data:
            self.numbers += sum(tensor.numel() for tensor in results)
            for tensor in results:
                self.owners.pop(id(tensor), None)  # a constant that data was written into
            if owners and results:
                computed = any(id(tensor) not in self.plain for tensor in parameters)
                self.uses.append((owners, Use(name, data[0], results[0], computed)))
            return
        copied = name in ("detach", "to", "requires_grad_", "clone", "double", "float") and all(
            id(tensor) in self.plain for tensor in parameters
        )
        for tensor in results:
            self.owners[id(tensor)] = owners
            self.kept.append(tensor)
            if copied:
                self.plain.add(id(tensor))


def trace_parameters(model: nn.Module, input_shape: tuple[int, ...]) -> ParameterTrace:
    """Run the model on noise, or on random tokens, and see what it does with its parameters. Model and global randomness are left alone.

    Raises:
        Misuse: the model does not run on inputs of this shape.
    """
    inputs, vocabulary = _inputs(model, input_shape)
    watch = _Watch(model)
    with torch.random.fork_rng(devices=_cuda(inputs)):
        torch.manual_seed(0)
        try:
            with watch:
                ran = run(model, inputs, large=sys.maxsize, dtype=precision(model))  # nothing in blocks: they would hide a use
        except (Misuse, LooksUp) as error:
            raise _does_not_run(model, input_shape, error.__cause__ or error) from error.__cause__
    modules = [part for module in _modules(model) for part in _parts(module, watch.uses, ran)]
    followers = {id(call): watch.followers[id(call.handed_out)] for call in ran.linears if id(call.handed_out) in watch.followers}
    inputs = inputs if vocabulary else inputs.to(precision(model))
    return ParameterTrace(modules, inputs, ran, max(1, watch.numbers // SAMPLES), followers, _zeros(ran), vocabulary)


def _inputs(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """Noise, or tokens for a model that looks its inputs up, and how many of these there are."""
    generator = torch.Generator().manual_seed(0)
    inputs = noise(model, input_shape, SAMPLES, generator)
    try:
        vocabulary = trial(model, input_shape).vocabulary
    except Misuse:  # what it is asked for again says why
        return inputs, 0
    if not vocabulary:
        return inputs, 0
    return torch.randint(vocabulary, (SAMPLES, *input_shape), generator=generator).to(inputs.device), vocabulary


def _zeros(ran: Run) -> dict[int, float]:
    """Share of exact zeros in what a random direction of the outputs sends back to every Linear call; of rows that get anything."""
    generator = torch.Generator().manual_seed(0)
    outputs = [tensor for tensor in tensors_in([ran.outputs]) if tensor.requires_grad]
    directions = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) for tensor in outputs]
    if not outputs or not ran.linears:
        return {}
    gradients = torch.autograd.grad(outputs, [call.output for call in ran.linears], directions, allow_unused=True)
    shares = {}
    for call, gradient in zip(ran.linears, gradients, strict=True):
        if gradient is not None and bool((rows := gradient.flatten(0, -2)).any()):
            shares[id(call)] = float((rows[rows.any(dim=1)] == 0).double().mean())
    return shares


def _modules(model: nn.Module) -> Iterator[TracedModule]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        own = {names[id(parameter)]: parameter for _, parameter in module.named_parameters(recurse=False)}
        if own:
            yield TracedModule(path or "(model)", type(module).__name__, own)


def _parts(module: TracedModule, uses: list[tuple[frozenset[str], Use]], ran: Run) -> list[TracedModule]:
    """A module taken apart into what is used together: a Linear call's weight and bias, then whatever enters the same calls."""
    groups: list[list[str]] = []
    left = list(module.parameters)
    for call in ran.linears:
        if call.weight in left:
            groups.append([name for name in (call.weight, call.bias) if name in left])
            left = [name for name in left if name not in groups[-1]]
    together: dict[tuple[int, ...], list[str]] = {}
    for name in left:
        together.setdefault(tuple(id(use) for owners, use in uses if name in owners), []).append(name)
    groups += together.values()
    parts = []
    for group in sorted(groups, key=lambda group: list(module.parameters).index(group[0])):
        local = group[0].rpartition(".")[2]
        name = module.name if len(groups) == 1 else local if module.name == "(model)" else f"{module.name}.{local}"
        mine = [use for owners, use in uses if not owners.isdisjoint(group)]
        calls = [call for call in ran.linears if call.weight in group]
        parts.append(TracedModule(name, module.kind, {name: module.parameters[name] for name in group}, mine, calls))
    return parts


def precision(model: nn.Module) -> torch.dtype:
    """The model's own, float32 at least: to look, not to measure."""
    return torch.promote_types(next(model.parameters()).dtype, torch.float32)


def noise(model: nn.Module, input_shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    """White noise of variance 1, (count, *input_shape), drawn on the CPU and moved to the model's device."""
    return torch.randn((count, *input_shape), generator=generator).to(next(model.parameters()).device)


def _cuda(inputs: Tensor) -> list[torch.device]:
    return [inputs.device] if inputs.device.type == "cuda" else []


def _does_not_run(model: nn.Module, shape: tuple[int, ...], error: BaseException) -> Misuse:
    lookup = next((name for name, module in model.named_modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))), None)
    message = str(error).strip().splitlines()
    if lookup is not None and ("embedding" in str(error) or "indices" in str(error) or "scalar type" in str(error) or "Long" in str(error)):
        return Misuse(
            "a model that takes float inputs",
            f"one that looks its inputs up in the embedding {lookup!r}",
            "give the part of the model behind the embedding, with the shape of what the embedding returns",
        )
    numbers = math.prod(shape)
    if (several := wants_more_inputs(error)) is not None:
        return several
    return Misuse(
        f"a model that runs on float inputs of shape {shape} ({numbers:,} numbers a sample)",
        repr(message[0][:200] if message else type(error).__name__),
        "check the input shape and the model",
    )
