"""What all checks share: promises that are kept or broken, each told by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import is_dataclass

import torch
from torch import Tensor, nn

from unbatch import plugins
from unbatch.contracts import Plugin
from unbatch.errors import UnbatchError, named
from unbatch.types import Observation

__all__ = ["ContractBroken", "Promises", "require", "same", "unmoved", "untouched"]


class ContractBroken(UnbatchError, AssertionError):
    """A plug-in does not keep the contract of its kind: the message names every promise that it breaks, and how."""


def require(kept: bool, came: str) -> None:
    """Raise, unless it is kept, with what came instead."""
    if not kept:
        raise ContractBroken(came)


class Promises:
    """The promises of one plug-in.

    Args:
        plugin: to be checked.
        kind: of it, a folder of this package.

    Raises:
        ContractBroken: it is no plug-in of this kind at all.

    Example:
        >>> promises = Promises(plugins.build("models", "mlp"), "models")
        >>> with promises.kept("a network is deep"):
        ...     require(False, "3 layers")
        >>> promises.settle()
        Traceback (most recent call last):
        unbatch.testing.promises.ContractBroken: mlp breaks its contract:
          a network is deep: 3 layers
    """

    def __init__(self, plugin: Plugin, kind: str) -> None:
        from unbatch import contracts

        contract = getattr(contracts, plugins.CONTRACTS[kind])
        if not isinstance(plugin, contract):
            raise ContractBroken(f"expected an object derived from unbatch.contracts.{contract.__name__}, got {type(plugin).__name__}")
        self.broken: list[str] = []
        self.name = repr(plugin)
        with self.kept("it is a frozen dataclass"):
            settings = vars(type(plugin)).get("__dataclass_params__")
            require(is_dataclass(plugin) and getattr(settings, "frozen", False), f"{type(plugin).__name__} without @dataclass(frozen=True)")
        with self.kept("its specification builds it again"):
            self.name = plugin.spec
            if self.name.partition(":")[0] in plugins.names(kind):
                require(plugins.build(kind, self.name) == plugin, f"{self.name} builds another one")

    @contextmanager
    def kept(self, promise: str) -> Iterator[None]:
        """Note the promise as broken if anything is raised inside."""
        try:
            yield
        except ContractBroken as error:
            self.broken.append(f"{promise}: {error}")
        except Exception as error:  # noqa: BLE001  (a stranger's code may fail in any way)
            self.broken.append(f"{promise}: {named(error)}")

    def settle(self) -> None:
        """Raise if any promise was broken.

        Raises:
            ContractBroken: with all of them.
        """
        if self.broken:
            raise ContractBroken("\n  ".join([f"{self.name} breaks its contract:", *self.broken]))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@contextmanager
def untouched(model: nn.Module | None = None, tensors: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Require that the global random state, a model and some tensors are the same at the end as at the beginning."""
    random, given = torch.get_rng_state(), {name: tensor.clone() for name, tensor in (tensors or {}).items()}
    state = {} if model is None else {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield
    require(torch.equal(torch.get_rng_state(), random), "it draws from the global random state: draw from the generator or the seed")
    require(same(tensors or {}, given), "it writes to the tensors that it is given")
    if model is not None:
        require(same(model.state_dict(), state), "it changes the model's weights or buffers")
        require(all(parameter.grad is None for parameter in model.parameters()), "it leaves gradients in the model")


def unmoved(observation: Observation) -> AbstractContextManager[None]:
    """``untouched``, for all that an observation holds."""
    return untouched(observation.model, observation.update)
