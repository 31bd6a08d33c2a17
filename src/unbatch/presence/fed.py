"""What the Linear layers of a network are fed by given records, and which layers can witness that a record was there.

A layer is a witness where every record feeds it by itself: the same whatever lies beside it in a batch, and each time that it is run.
Dropout, statistics of the batch, or weights that move while the client trains take that away from what lies behind them, and only there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.evidence.replay import slices
from unbatch.evidence.slopes import pulled_back
from unbatch.swap import called_with
from unbatch.trace import LARGE, LinearCall, Run, model_errors, run
from unbatch.types import Observation

__all__ = ["CHUNK", "Passes", "Witness", "near", "passes_of", "witnesses"]

NEVER = 1 << 62
"""No weight is so large: none is read in blocks, which would hide on which weights a layer depends."""

CHUNK = 1 << 21
"""Numbers of records that are passed at a time: the memory of 16 MB is then used again for the next ones, and not given back between."""

SAME = 1e-9
"""Two runs of a record, in float64, agree when they differ by less than this share. Chosen: a few million roundings."""


@dataclass(frozen=True)
class Witness:
    """A Linear layer that every record feeds by itself.

    Attributes:
        weight: name of its weight.
        bias: name of its bias, or None.
        linear: whether what it is fed is an affine function of the record, so that mixtures of records feed it mixtures.
    """

    weight: str
    bias: str | None
    linear: bool


class _EnoughError(Exception):
    """Ends a forward pass that has shown what it was started for."""


@dataclass(eq=False)
class _Feeds(TorchFunctionMode):
    """Notes what Linear layers of these names are fed, and ends the pass when all were seen.

    Attributes:
        names: of weights, by the identity of what stands in their place.
        wanted: names of the layers' weights.
        given: what layers return without being run.
        graph: whether what is noted keeps its graph.
        fed: what was noted.
        made: what the last of these layers made of it, where that is asked for.
    """

    names: Mapping[int, str]
    wanted: frozenset[str]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    makes: bool = False
    graph: bool = False
    fed: dict[str, list[Tensor]] = field(default_factory=dict)
    made: Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            name = self.names.get(id(args[1] if len(args) > 1 else kwargs["weight"]))
            if name is not None and name in self.given:
                return self.given[name].clone()  # an activation may write to it
            if name in self.wanted:
                given = args[0] if args else kwargs["input"]
                given = given if self.graph else given.detach()
                last = self.fed.keys() | {str(name)} == self.wanted
                self.fed.setdefault(str(name), []).append(given if last else given.clone())  # nothing writes to it after the last
                if last:
                    self.made = func(*args, **kwargs) if self.makes else None
                    raise _EnoughError
        return func(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of records through the network, in float64, as far as the layers that are asked.

    Attributes:
        observation: whose model it is.
        tensors: the model's parameters, in float64: turned once for all passes.
        buffers: its buffers.
    """

    observation: Observation
    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]

    def __call__(
        self, records: Tensor, weights: Sequence[str], seed: int = 0, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """What the layers are fed by the records, run together: weight -> (k, t, n), with t rows a record.

        Layers that are not reached once, or not with rows of every record, are missing. Global randomness is put back.

        Args:
            records: (k, *shape).
            weights: names of the layers' weights.
            seed: of what the model draws.
            given: (k, …) what layers return, by their weights' names, in place of what they would make of the records.
        """
        watch = _Feeds(self._names, frozenset(weights), given or {})
        self._run(records, watch, seed)
        count = len(records)
        return {
            name: fed[0].reshape(count, -1, fed[0].shape[-1])
            for name, fed in watch.fed.items()
            if len(fed) == 1 and fed[0].ndim >= 2 and len(fed[0]) == count
        }

    def made(self, records: Tensor, weight: str) -> Tensor | None:
        """(k, …) what a layer makes of the records, as ``given`` takes it; None where it is not reached, or not with every record."""
        watch = _Feeds(self._names, frozenset([weight]), makes=True)
        self._run(records, watch, 0)
        return watch.made if watch.made is not None and len(watch.made) == len(records) else None

    def rounded(self, records: Tensor, weight: str, shift: float) -> Float[Tensor, " k"]:
        """By what share the rounding of the client's own pass moves what each record feeds a layer with, a number more of size ``shift``.

        Next to nothing, unless all of it cancels, as where a record stands at the kinks of all neurons before.
        """
        generator = torch.Generator(records.device).manual_seed(0)
        coarse = {self.observation.rounding, next(self.observation.model.parameters()).dtype} != {torch.float64}
        size = torch.finfo(torch.float32 if coarse else torch.float64).eps
        found = []
        for part in self.parts(records, [weight]):
            given = records[part].double()
            moved = given * (1 + size * torch.randn(given.shape, generator=generator, dtype=given.dtype, device=given.device))
            fed = self(given, [weight])[weight]
            length = torch.hypot(fed.norm(dim=2), fed.new_tensor(shift)).clamp_min(torch.finfo(fed.dtype).tiny)
            found.append(((self(moved, [weight])[weight] - fed).norm(dim=2) / length).amax(dim=1))
        return torch.cat(found)

    def slopes(self, records: Tensor, weights: Sequence[str]) -> Tensor:
        """(k, *shape) by how much a drawn sum of all that the layers are fed changes with each number of the records.

        Zero where it does not follow them, as behind what a model computes without gradients.

        Args:
            records: (k, *shape), no tokens.
            weights: names of the layers' weights.
        """
        leaf = records.detach().double().requires_grad_()
        watch = _Feeds(self._names, frozenset(weights), graph=True)
        self._run(leaf, watch, 0)
        generator = torch.Generator().manual_seed(0)
        total = leaf.new_zeros(())
        for fed in itertools.chain.from_iterable(watch.fed.values()):
            total = total + (fed * torch.randn(fed.shape, generator=generator, dtype=torch.float64).to(fed)).sum()
        (found,) = pulled_back(total, [leaf], torch.ones_like(total))
        return torch.zeros_like(leaf) if found is None else found

    @property
    def _names(self) -> dict[int, str]:
        return {id(tensor): name for name, tensor in self.tensors.items()}

    def _run(self, records: Tensor, watch: _Feeds, seed: int) -> None:
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}  # a model may write to them, and to its input
        records = records if watch.graph else records.detach()
        inputs = records.to(torch.float64 if records.is_floating_point() else records.dtype, copy=True)
        cuda = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.set_grad_enabled(watch.graph), model_errors(inputs), watch, suppress(_EnoughError):
            torch.manual_seed(seed)
            called_with(self.observation.model, {**self.tensors, **buffers}, inputs)

    def parts(self, records: Tensor, weights: Sequence[str]) -> list[slice]:
        """Slices of the records, so few each that neither these nor what they feed the layers with is more than ``CHUNK`` numbers.

        Args:
            records: (k, *shape), one at least.
            weights: names of the layers' weights.
        """
        fed = self(records[:1], weights)
        return slices(len(records), CHUNK // max(1, records[0].numel(), *(one.numel() for one in fed.values())))


def passes_of(observation: Observation) -> Passes:
    """Through the observation's model."""
    model = observation.model
    tensors = {name: p.detach().double() for name, p in model.named_parameters()}
    return Passes(observation, tensors, {name: b.double() if b.is_floating_point() else b for name, b in model.named_buffers()})


def witnesses(passes: Passes) -> list[Witness]:
    """The layers in the update that can witness, in the order in which they are reached."""
    observation = passes.observation
    probe = observation.probe
    moving = None if observation.one_gradient else observation.update.keys()
    ran = run(observation.model, probe, large=NEVER if moving is not None else LARGE)
    calls = [call for call in ran.linears if call.weight in observation.update]
    uses = [call.weight for call in ran.linears]
    calls = [call for call in calls if uses.count(call.weight) == 1 and not (moving is not None and _moves(ran.parameters, call, moving))]
    calls = _not_used_elsewhere(ran, calls)
    names = [call.weight for call in calls]
    if not names:
        return []
    together, beside = passes(probe[:2], names), passes(probe[[0, 2]], names, seed=1)
    mixed: dict[str, Tensor] = {}
    if probe.is_floating_point():
        one, other = probe[:1].double(), probe[1:2].double()
        mixed = passes(torch.cat([one, other, (one + other) / 2]), names)
    found = []
    for call in calls:
        first, second = together.get(call.weight), beside.get(call.weight)
        if first is not None and second is not None and near(first[0], second[0]):
            fed = mixed.get(call.weight)
            linear = fed is not None and near((fed[0] + fed[1]) / 2, fed[2])
            found.append(Witness(call.weight, call.bias if call.bias in observation.update else None, linear))
    return found


def _moves(parameters: Mapping[str, Tensor], call: LinearCall, moving: Any) -> bool:
    """Whether what the layer is fed depends on weights that the client trained."""
    if call.raw or not call.input.requires_grad:
        return False
    leaves = [leaf for name, leaf in parameters.items() if name in moving]
    slopes = torch.autograd.grad(call.input.sum(), leaves, retain_graph=True, allow_unused=True)
    return any(slope is not None for slope in slopes)


def _not_used_elsewhere(ran: Run, calls: list[LinearCall]) -> list[LinearCall]:
    """The layers whose weight's gradient comes from what they are fed, and not from a product with the same weight beside (tied ones)."""
    leaves = [ran.parameters.get(call.weight, call.output) for call in calls]
    head = torch.arange(1.0, 1 + ran.outputs.numel(), dtype=ran.outputs.dtype, device=ran.outputs.device).sin().reshape(ran.outputs.shape)
    pulled = pulled_back(ran.outputs, [*leaves, *(call.output for call in calls)], head, again=True)
    kept = []
    for call, leaf, gradient, slope in zip(calls, leaves, pulled, pulled[len(calls) :], strict=False):
        if leaf is call.output or gradient is None or slope is None:
            kept.append(call)  # read in blocks, or not followed
        elif near(slope.flatten(0, -2).T @ call.input.detach().flatten(0, -2), gradient):
            kept.append(call)
    return kept


def near(one: Tensor, other: Tensor) -> bool:
    """Whether two passes of the same record gave the same, but for rounding."""
    return one.shape == other.shape and bool((one - other).norm() <= SAME * one.norm())
