"""What every attack must keep."""

from __future__ import annotations

import torch

from unbatch.contracts import Attack, Yield
from unbatch.testing.promises import ContractBroken, Promises, require, unmoved
from unbatch.testing.scenes import SHAPE, network, observe, random_model, scenes
from unbatch.types import Observation, Reconstruction, Status

__all__ = ["check_attack"]


def check_attack(attack: Attack, observation: Observation | None = None) -> None:
    """Hold an attack to its contract.

    It is run a few times, with the settings that it has: give it few steps and a small budget.

    Args:
        attack: to be checked.
        observation: that it is made for; without one, the first of some plain ones that it takes.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_attack(build("attacks", "one_sample"))
    """
    promises = Promises(attack, "attacks")
    with promises.kept("it declares what it yields and costs"):
        require(bool(attack.yields) and all(isinstance(each, Yield) for each in attack.yields), "no set of unbatch.contracts.Yield")
        require(bool(attack.cost.strip()), "an empty line of cost")
    with promises.kept("it says of every observation whether it can be used"):
        for scene in scenes():
            reason = attack.obstacle(scene)
            require(reason is None or (isinstance(reason, str) and bool(reason.strip())), f"{reason!r} instead of a reason or None")
    with promises.kept("a model that draws at random is not applicable, with the reason"):
        model, update = random_model(), observe(network()).update
        found = attack(Observation(model, dict(update), SHAPE))
        require(found.status is Status.NOT_APPLICABLE and "Dropout" in found.reason, f"{found.status.name}: {found.reason}")
    with promises.kept("the same seed gives the same, and nothing else is touched"):
        seen = observation if observation is not None else _suited(attack, torch.float64)
        with unmoved(seen):
            first, second = attack(seen, seed=3), attack(seen, seed=3)
        _require_same(first, second)
        _require_form(seen, first)
    with promises.kept("what it finds in float32 is float32"):
        if observation is None:
            single = _suited(attack, torch.float32)
            _require_form(single, attack(single))
    promises.settle()


def _suited(attack: Attack, dtype: torch.dtype) -> Observation:
    for scene in scenes(dtype):
        if attack.obstacle(scene) is None:
            return scene
    raise ContractBroken("it takes none of the plain observations: give one that it is made for with observation=")


def _require_same(first: Reconstruction, second: Reconstruction) -> None:
    require(first.status is not Status.BROKE_DOWN, f"it broke down: {first.reason}")
    require(first.status is second.status, f"{first.status.name}, then {second.status.name}")
    for one, other in ((first.inputs, second.inputs), (first.features, second.features)):
        require((one is None) == (other is None), "samples in one run and none in another")
        # Not to the last bit: threaded linear algebra may sum in another order.
        equal = one is None or other is None or (one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-10))
        require(equal, "other samples in the second run")
    counted = [{key: value for key, value in found.stats.items() if isinstance(value, (int, str))} for found in (first, second)]
    require(counted[0] == counted[1], f"it counts {counted[0]}, then {counted[1]}")


def _require_form(seen: Observation, found: Reconstruction) -> None:
    require(found.status is not Status.BROKE_DOWN, f"it broke down: {found.reason}")
    require(found.inputs is not None or found.features is not None, f"nothing ({found.status.name}: {found.reason})")
    if found.inputs is not None:
        expected = torch.promote_types(seen.dtype, torch.float32)
        require(found.inputs.dtype == expected, f"samples of type {found.inputs.dtype}")
        require(tuple(found.inputs.shape[1:]) == seen.input_shape, f"samples of shape {tuple(found.inputs.shape[1:])}")
        require(found.labels is None or found.labels.dtype == torch.int64, "labels that are not int64")
