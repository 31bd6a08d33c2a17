"""Which tables a model looks its inputs up in, and whether a row that has a gradient must have been looked up.

∂L/∂E of an embedding E has a row for every token, and the row is zero for all that were not looked up, if E enters the model by lookups
alone. That is read off the calls of one pass, where every function that is handed E, or a view of it, is seen; and tried: tokens of one
half of the vocabulary must leave the rows of the other half at zero. What a row says of the input is tried too, with every token there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.errors import Misuse
from unbatch.swap import called_with
from unbatch.trace import model_errors, tensors_in

__all__ = ["Table", "tables"]

TRIED = 64
"""Tokens of which samples of nothing else are made."""

NUMBERS = 1 << 22
"""Looked-up numbers of a pass at most."""


@dataclass(frozen=True, eq=False)
class Table:
    """One parameter that the model looks something up in.

    Attributes:
        weight: its name.
        rows: V, how many rows it has.
        axis: 0 where a row is a row of the parameter; 1 where it is a column, as in an adapter of an embedding.
        padding: the row that has no gradient whatever is looked up, or None.
        fixed: (V,) rows that are looked up whatever the input is: of positions, of tokens that the model adds by itself.
        by_input: whether the input decides what is looked up.
        named: whether the row that is looked up is the token itself, for every token.
        other: what else uses the parameter, as names of functions; empty where nothing does.
        reached: share of the rows that random inputs looked up, without padding, that got a gradient: a maximum passes none on to the rest.
    """

    weight: str
    rows: int
    axis: int
    padding: int | None
    fixed: Tensor
    by_input: bool
    named: bool
    other: tuple[str, ...]
    reached: float

    def of(self, tensor: Tensor) -> Tensor:
        """(V, d) a tensor of the parameter's shape, a row a token."""
        return tensor if self.axis == 0 else tensor.T


@dataclass(frozen=True, eq=False)
class _Call:
    weight: str
    axis: int
    padding: int | None
    indices: Tensor


class _EnoughError(Exception):
    """Ends a pass that has looked up all that it was started for."""


class _Watch(TorchFunctionMode):
    """Notes every lookup in a parameter, and every other function that is handed one or a view of one."""

    def __init__(self, leaves: Mapping[str, Tensor], stop_after: int = 0) -> None:
        super().__init__()
        self.leaves, self.stop_after = leaves, stop_after
        self.names = {leaf.untyped_storage().data_ptr(): name for name, leaf in leaves.items() if leaf.numel()}
        self.calls: list[_Call] = []
        self.lookups = 0
        self.others: dict[str, set[str]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (F.embedding, F.embedding_bag):
            return self._looked_up(func, args, kwargs)
        given = [name for tensor in tensors_in([*args, *kwargs.values()]) if (name := self._name(tensor))]
        result = func(*args, **kwargs)
        called = str(getattr(func, "__name__", func))
        writes = called == "__setitem__" or (called.endswith("_") and not called.startswith("__") and called != "requires_grad_")
        made = list(tensors_in([result]))
        if given and (writes or any(self._name(tensor) is None for tensor in made)):
            for name in given:
                self.others.setdefault(name, set()).add(called)
        return result

    def _name(self, tensor: Tensor) -> str | None:
        """The parameter that a tensor is, or is a view of."""
        return self.names.get(tensor.untyped_storage().data_ptr()) if tensor.layout is torch.strided and tensor.numel() else None

    def _looked_up(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        names = ("input", "weight", "padding_idx") if func is F.embedding else ("input", "weight")
        told = dict(zip(names, args, strict=False)) | kwargs
        indices, weight = told["input"], told["weight"]
        if (name := self._name(weight)) is not None:
            leaf, padding = self.leaves[name], told.get("padding_idx")
            axis = next((axis for axis, view in enumerate((leaf, leaf.T if leaf.ndim == 2 else leaf)) if _same_view(view, weight)), None)
            if axis is None:
                self.others.setdefault(name, set()).add("a lookup in a part of it")
            else:
                padding = None if padding is None else int(padding) % len(weight)
                self.calls.append(_Call(name, axis, padding, indices.detach().clone()))
        self.lookups += 1
        if not self.stop_after:
            return func(*args, **kwargs)
        if self.lookups >= self.stop_after:
            raise _EnoughError
        shape = (*indices.shape, weight.shape[1]) if func is F.embedding else (len(told.get("offsets", indices)), weight.shape[1])
        return weight.detach().new_zeros(()).expand(shape)


def _same_view(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride() and one.storage_offset() == other.storage_offset()


def tables(model: nn.Module, input_shape: Sequence[int], vocabulary: int) -> tuple[Table, ...]:
    """The parameters that the model looks something up in, in the order in which it does.

    Args:
        model: as broadcast. It is not changed, nor is the global randomness.
        input_shape: of one sample.
        vocabulary: how many tokens there are.

    Raises:
        Misuse: the model does not run on tokens of this shape.

    Example:
        >>> net = nn.Sequential(nn.Embedding(50, 8, padding_idx=0), nn.Flatten(), nn.Linear(24, 2))
        >>> [(table.weight, table.rows, table.padding, table.named, table.other) for table in tables(net, (3,), 50)]
        [('0.weight', 50, 0, True, ())]
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(vocabulary, generator=generator)
    halves = [half for half in (order[: vocabulary // 2], order[vocabulary // 2 :]) if len(half)]
    first, stray, reached = None, set[str](), dict[str, list[bool]]()
    for half in halves:
        tokens = half[torch.randint(len(half), (4, *input_shape), generator=generator)]
        watch, touched = _with_slopes(model, tokens)
        for name, rows in touched.items():
            mine = [call for call in watch.calls if call.weight == name]
            used = torch.cat([call.indices.flatten() for call in mine]).unique()  # type: ignore[no-untyped-call]
            padding = {call.padding for call in mine}
            reached.setdefault(name, []).extend(bool(rows[row]) for row in used.tolist() if row not in padding)
            rows[used] = False
            stray |= {name} if bool(rows.any()) else set()
        first = first or watch
    if first is None:
        return ()
    names = dict.fromkeys(call.weight for call in first.calls)
    seen = _Seen(model, tuple(input_shape), vocabulary, first.lookups, order)
    return tuple(_table(name, first, seen, stray, reached.get(name, [])) for name in names)


def _table(name: str, watch: _Watch, seen: _Seen, stray: set[str], reached: list[bool]) -> Table:
    mine = [call for call in watch.calls if call.weight == name]
    leaf, axis = watch.leaves[name], mine[0].axis
    other = sorted(watch.others.get(name, set())) or (["something that was not seen"] if name in stray else [])
    if any(call.axis != axis for call in mine):
        other.append("a lookup in its transpose")
    padding = {call.padding for call in mine}
    fixed, by_input, named = seen.of(name, leaf.shape[axis])
    share = sum(reached) / len(reached) if reached else 0.0
    return Table(name, leaf.shape[axis], axis, padding.pop() if len(padding) == 1 else None, fixed, by_input, named, tuple(other), share)


def _leaves(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of parameters and buffers, float32 at least."""
    finer = {name: torch.promote_types(p.dtype, torch.float32) for name, p in model.named_parameters()}
    leaves = {name: p.detach().to(finer[name], copy=True).requires_grad_() for name, p in model.named_parameters()}
    kind = next(iter(finer.values()), torch.float32)
    buffers = {name: b.detach().to(kind, copy=True) if b.is_floating_point() else b.clone() for name, b in model.named_buffers()}
    return leaves, buffers


def _run(model: nn.Module, leaves: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Tensor, watch: _Watch) -> Any:
    tokens = tokens.to(next(iter(leaves.values())).device)
    cuda = [tokens.device] if tokens.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), model_errors(tokens), watch, suppress(_EnoughError):
        torch.manual_seed(0)
        return called_with(model, {**leaves, **buffers}, tokens)
    return None


def _with_slopes(model: nn.Module, tokens: Tensor) -> tuple[_Watch, dict[str, Tensor]]:
    """One whole pass; and of each table, which rows have a gradient."""
    leaves, buffers = _leaves(model)
    watch = _Watch(leaves)
    with torch.enable_grad():
        outputs = [tensor for tensor in _outputs(_run(model, leaves, buffers, tokens, watch)) if tensor.requires_grad]
    names = list(dict.fromkeys(call.weight for call in watch.calls))
    if not outputs or not names:
        return watch, {}
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) for tensor in outputs]
    slopes = torch.autograd.grad(outputs, [leaves[name] for name in names], directions, allow_unused=True)
    touched = {}
    for name, slope in zip(names, slopes, strict=True):
        axis = next(call.axis for call in watch.calls if call.weight == name)
        rows = leaves[name].new_zeros(leaves[name].shape) if slope is None else slope.to_dense()
        touched[name] = (rows if axis == 0 else rows.T).ne(0).flatten(1).any(dim=1)
    return watch, touched


def _outputs(made: Any) -> list[Tensor]:
    return list(tensors_in([made if not hasattr(made, "to_tuple") else made.to_tuple()]))


class _Seen:
    """What samples of every token look up, in which table."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], vocabulary: int, lookups: int, order: Tensor) -> None:
        self.leaves, self.buffers = _leaves(model)
        self.model, self.lookups = model, lookups
        length = torch.Size(shape).numel()
        wide = max((leaf.shape[-1] for leaf in self.leaves.values() if leaf.ndim == 2), default=1)
        self.step = max(1, NUMBERS // (length * min(wide, 1 << 12)))
        ends = torch.tensor([0, vocabulary - 1])
        alone = torch.cat([ends, order[~torch.isin(order, ends)][: TRIED - 2]]).unique()  # type: ignore[no-untyped-call]
        self.alone = self._passes(alone[:, None].expand(-1, length).reshape(-1, *shape))
        every = torch.cat([order, order[: -vocabulary % length] if vocabulary >= length else order.repeat(length)])
        every = every[: -(-vocabulary // length) * length]
        self.every = self._passes(every.reshape(-1, *shape))

    def _passes(self, tokens: Tensor) -> list[tuple[Tensor, list[_Call]]] | None:
        """Tokens and the lookups that they led to, a pass each; None where the model does not take them."""
        found = []
        for part in torch.split(tokens, self.step):
            watch = _Watch(self.leaves, self.lookups)
            try:
                with torch.no_grad():
                    _run(self.model, self.leaves, self.buffers, part, watch)
            except Misuse:
                return None
            found.append((part, watch.calls))
        return found

    def of(self, name: str, rows: int) -> tuple[Tensor, bool, bool]:
        """Rows that are looked up whatever the input; whether the input decides any; and whether every row is the token itself."""
        fixed, moved = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
        if self.alone is None or self.every is None:
            return torch.zeros(rows, dtype=torch.bool), True, False
        for part, calls in self.alone:
            for index in range(len(part)):
                hit = torch.zeros(rows, dtype=torch.bool)
                for call in calls:
                    if call.weight == name:
                        own = call.indices.cpu()
                        own = own.reshape(len(part), -1)[index] if own.numel() % len(part) == 0 and len(own) == len(part) else own
                        hit[own.flatten()] = True
                fixed &= hit
                moved |= hit
        named = all(
            _are_tokens(call.indices.cpu(), part, fixed)
            for part, calls in (*self.alone, *self.every)
            for call in calls
            if call.weight == name
        )
        return fixed, bool((moved & ~fixed).any()), named


def _are_tokens(indices: Tensor, tokens: Tensor, fixed: Tensor) -> bool:
    """Whether what was looked up are the tokens of each sample, or rows that always are."""
    if indices.numel() == tokens.numel() and torch.equal(indices.flatten(), tokens.flatten()):
        return True
    if bool(fixed[indices.flatten()].all()):
        return True
    if len(indices) != len(tokens):
        return False
    own = (indices.reshape(len(tokens), -1, 1) == tokens.reshape(len(tokens), 1, -1)).any(dim=2)
    return bool((own | fixed[indices].reshape(len(tokens), -1)).all())
