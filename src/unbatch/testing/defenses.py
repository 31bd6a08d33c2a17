"""What every defense must keep."""

from __future__ import annotations

import torch
from torch import Tensor

from unbatch import plugins, seeds
from unbatch.contracts import Defense, Stage
from unbatch.testing.promises import Promises, require, same, untouched
from unbatch.testing.scenes import CLASSES, SHAPE, drawn, network
from unbatch.types import Batch

__all__ = ["check_defense"]

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGE = 10_000
"""Times a normal draw: inputs whose gradients leave something to clip."""


def check_defense(defense: Defense) -> None:
    """Hold a defense to its contract, with the settings that it has; they must change something.

    Args:
        defense: to be checked.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_defense(build("defenses", "gaussian_noise"))
    """
    promises = Promises(defense, "defenses")
    with promises.kept("it says at which stage it works"):
        require(isinstance(defense.stage, Stage), f"the stage {defense.stage!r}")
        require(isinstance(defense.rescales, bool), f"rescales = {defense.rescales!r}")
    given = _gradients(defense, torch.float64)
    with promises.kept("it makes new tensors and touches nothing else"):
        with untouched(tensors=given):
            made = defense(given, _seeded())
        require(not same(made, given), "it changes nothing: give it settings that do")
        shared = {tensor.data_ptr() for tensor in made.values()} & {tensor.data_ptr() for tensor in given.values()}
        require(not shared, "it returns tensors that it was given")
    with promises.kept("the same generator gives the same"):
        require(same(defense(given, _seeded()), defense(given, _seeded())), "another update the second time")
    with promises.kept("names, shapes and types are kept, and numbers stay finite"):
        for dtype in TYPES:
            _require_form(_gradients(defense, dtype), defense)
        _require_form({name: torch.zeros_like(tensor) for name, tensor in given.items()}, defense)
    for name in plugins.names("protocols"):
        with promises.kept(f"it works under {name}"):
            _require_told(defense, name)
    promises.settle()


def _seeded() -> torch.Generator:
    return seeds.generator(3, "defense")


def _gradients(defense: Defense, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of the stage's form: one row a sample before they are averaged."""
    rows = (5,) if defense.stage is Stage.EXAMPLE else ()
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "scale": ()}
    return {name: drawn((*rows, *shape), seed).to(dtype) for seed, (name, shape) in enumerate(shapes.items())}


def _require_form(given: dict[str, Tensor], defense: Defense) -> None:
    made = defense(given, _seeded())
    require(list(made) == list(given), f"tensors named {', '.join(made)}")
    for name, tensor in made.items():
        kept = (tensor.shape, tensor.dtype, tensor.device) == (given[name].shape, given[name].dtype, given[name].device)
        require(kept, f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype} on {tensor.device}")
        require(bool(tensor.isfinite().all()), f"NaN or infinity in {name}, in {tensor.dtype}")


def _require_told(defense: Defense, protocol: str) -> None:
    rounds, model = plugins.load("protocols", protocol)(), network().double()
    batch = Batch(LARGE * drawn((10, *SHAPE)), torch.arange(10) % CLASSES)
    with untouched(model):
        seen, again = (rounds.observe(model, batch, defenses=[defense], seed=3) for _ in range(2))
    require(same(seen.update, again.update), "another update the second time")
    require(not same(seen.update, rounds.observe(model, batch, seed=3).update), "the update is what it is without it")
    told = f"that the update was defended by {defense.told}"
    require(told in seen.knowledge.remarks, "the server is not told of it")
    require(seen.factor_known is not defense.rescales, f"factor_known = {seen.factor_known} where rescales = {defense.rescales}")
