"""A pass of a model with other tensors in the place of its own, which leaves the model as it was; and what it does to its input first.

Trying inputs of many kinds shows a clamp or a rounding. It does not show what a model puts in the place of the one number that stands for
a missing value (NaN, −1, −999). So the functions between an input and a layer are seen, too: such as are known to move numbers, no others.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unbatch.errors import Misuse

__all__ = ["Moved", "called_with", "structure_of", "tensors_in"]

_MOVES: set[str] = {
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "permute", "transpose", "t"),
    *("movedim", "moveaxis", "swapaxes", "swapdims", "contiguous", "clone", "detach", "alias", "to", "type", "type_as", "float", "double"),
    *("cpu", "cuda", "expand", "expand_as", "requires_grad_", "__get__", "__getitem__", "split", "chunk", "unbind", "narrow", "select"),
}
_JOINS: set[str] = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"}
_BY_NUMBERS: set[str] = {"add", "sub", "mul", "div", "true_divide", "__add__", "__radd__", "__sub__", "__mul__", "__rmul__", "__truediv__"}
"""With a number beside the tensor they do the same to all numbers: what they leave alone in a trial, they leave alone."""


class Moved:
    """The tensors that hold numbers of an input that nothing was done to, each with its version: one that was written to has another.

    Args:
        inputs: of the model.
    """

    def __init__(self, inputs: Tensor) -> None:
        self.known = [(inputs, inputs._version)]

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether nothing was done to these numbers."""
        return any(tensor is known and tensor._version == version for known, version in self.known)

    def note(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Take in what a function made of its arguments."""
        called, given = getattr(func, "__name__", ""), list(tensors_in([*args, *kwargs.values()]))
        asked = given[:1] if called in _MOVES else given if called in _JOINS or (called in _BY_NUMBERS and len(given) == 1) else []
        if asked and all(tensor in self for tensor in asked):
            self.known += [(made, made._version) for made in tensors_in(result)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a function is given or returns: itself, or those in lists, tuples and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)


def structure_of(model: nn.Module, shared: Iterable[Tensor]) -> nn.Module:
    """A deep copy of the model, but for the tensors that it is to share.

    A module holds a dozen dictionaries of hooks, nearly always empty: made anew by hand they take a third of what deepcopy takes for all.

    Args:
        model: any module.
        shared: parameters or buffers that the copy holds as well.

    Raises:
        Exception: what deepcopy raises where a module holds what cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for module in model.modules():
        memo |= {id(part): type(part)() for part in vars(module).values() if type(part) in (dict, OrderedDict, set) and not part}
    return copy.deepcopy(model, memo)


def called_with(model: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Any:
    """What the model returns with these tensors, under all names that each of its own has.

    Not torch's ``functional_call``: where one module stands under two names, as an embedding that an encoder and a decoder share, it puts
    back what was given, and the client's parameter is gone; and it takes as long as a pass of a small network.

    Args:
        model: any module that takes one tensor.
        tensors: name of a parameter or buffer -> what stands in its place; buffers that the model replaces are replaced here.
        inputs: (b, *shape).

    Raises:
        Misuse: the model is compiled by torch.jit, which lets nothing stand in.

    Example:
        >>> shared = nn.PReLU()
        >>> net = nn.Sequential(shared, shared)
        >>> called_with(net, {"0.weight": torch.tensor([0.5])}, torch.tensor([[-4.0]])).tolist(), shared.weight is net[1].weight
        ([[-1.0]], True)
        >>> type(shared.weight).__name__
        'Parameter'
    """
    places = _places(model, tensors)
    try:
        for place in places:
            place.slots[place.leaf] = place.given  # a module computes with any tensor there
        return model(inputs)
    finally:
        for place in places:
            last, place.slots[place.leaf] = place.slots.get(place.leaf), place.own
            if place.name in tensors and last is not None:
                tensors[place.name] = last


class _Place(NamedTuple):
    """Where a module holds a tensor of its own in the place of which another is to stand."""

    slots: dict[str, Tensor | None]
    leaf: str
    own: Tensor
    name: str
    given: Tensor


def _places(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[_Place]:
    """Every place once, by one walk over the modules: a second takes as long as a pass of a small network."""
    found: dict[tuple[int, str], tuple[dict[str, Tensor | None], str, Tensor, str]] = {}
    given: dict[int, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            advice = "give the model as it was before torch.jit.script or trace"
            raise Misuse("a model of Python modules", "one compiled by torch.jit", advice)
        for slots in (module._parameters, module._buffers):
            for leaf, own in slots.items():
                if own is None:
                    continue
                name = f"{prefix}.{leaf}" if prefix else leaf
                found.setdefault((id(slots), leaf), (slots, leaf, own, name))
                if name in tensors:
                    given[id(own)] = tensors[name]
    return [_Place(*place, given[id(place[2])]) for place in found.values() if id(place[2]) in given]
