"""What is said of plug-ins that break their contract: one broken promise each, named."""

# ruff: noqa: ARG005

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from unbatch import plugins
from unbatch.attacks.one_sample import OneSample
from unbatch.contracts import Attack, Yield
from unbatch.datasets.digits import Digits
from unbatch.defenses.clipping import Clipping
from unbatch.defenses.gaussian_noise import GaussianNoise
from unbatch.labels.ilrg import ILRG
from unbatch.metrics.mse import Mse
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedsgd import FedSgd
from unbatch.testing import (
    ContractBroken,
    check_attack,
    check_dataset,
    check_defense,
    check_metric,
    check_model,
    check_protocol,
    check_restorer,
)
from unbatch.testing.scenes import observe
from unbatch.types import Candidate


def broken(check: Any, plugin: Any, **given: Any) -> str:
    with pytest.raises(ContractBroken) as caught:
        check(plugin, **given)
    return str(caught.value)


def changed(base: type[Any], changes: dict[str, Any]) -> Any:
    """The same plug-in, but for one thing."""
    return dataclass(frozen=True)(type("Changed", (base,), changes))()


@dataclass(frozen=True)
class Toy(Attack):
    """Made for batches of five; proposes noise."""

    yields = frozenset({Yield.PICTURE})
    cost = "nothing"

    def reconstruct(self, observation, generator, progress):  # type: ignore[no-untyped-def]
        noise = torch.randn((5, *observation.input_shape), generator=generator, dtype=torch.float64)
        return Candidate(noise, torch.zeros(5, dtype=torch.int64))


def test_an_honest_toy_keeps_the_contract() -> None:
    check_attack(Toy())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cost": ""}, "declares what it yields and costs: an empty line of cost"),
        ({"yields": frozenset()}, "declares what it yields and costs: no set of unbatch.contracts.Yield"),
        ({"unsupported": lambda self, observation: True}, "True instead of a reason or None"),
        ({"unsupported": lambda self, observation: "never"}, "takes none of the plain observations: give one"),
        ({"reconstruct": lambda self, observation, generator, progress: Candidate(torch.zeros(5, 2))}, "broke down: the attack returned"),
        ({"reconstruct": lambda self, observation, generator, progress: 1 / 0}, "broke down: the attack failed with ZeroDivisionError"),
        ({"reconstruct": lambda self, observation, generator, progress: Candidate(torch.randn(1, 3, 4, 4))}, "global random state"),
    ],
)
def test_a_broken_attack_is_told_what_it_breaks(changes: dict[str, Any], complaint: str) -> None:
    assert complaint in broken(check_attack, changed(Toy, changes))


def test_an_attack_is_held_to_the_observation_that_it_is_made_for() -> None:
    three = observe(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)), samples=3)
    check_attack(Toy(), observation=three)
    assert "got Mlp" in broken(check_attack, Mlp())


def test_several_broken_promises_are_told_at_once() -> None:
    told = broken(check_attack, changed(Toy, {"cost": "", "yields": frozenset(), "unsupported": lambda self, seen: "never"}))
    assert told.count("\n") == 3


def _writes(self: Any, gradients: Any, generator: torch.Generator) -> Any:
    for tensor in gradients.values():
        tensor.zero_()
    return gradients


def _global(self: Any, gradients: Any, generator: torch.Generator) -> Any:
    return {name: tensor + torch.randn(tensor.shape).to(tensor) for name, tensor in gradients.items()}


@pytest.mark.parametrize(
    ("check", "base", "changes", "complaint"),
    [
        (check_defense, GaussianNoise, {"__call__": _writes}, "writes to the tensors that it is given"),
        (check_defense, GaussianNoise, {"__call__": _global}, "the same generator gives the same: another update"),
        (check_defense, Clipping, {"stage": "client"}, "the stage 'client'"),
        (check_restorer, ILRG, {"unsupported": lambda self, observation: "never"}, "no answer: never"),
        (check_metric, Mse, {"higher_is_better": True}, "for guesses that get worse"),
        (check_metric, Mse, {"kinds": frozenset()}, "kinds set()"),
        (check_model, Mlp, {"build": lambda self, shape, classes, seed=0: torch.nn.Flatten()}, "built from its seed"),
        (check_protocol, FedSgd, {"observe": lambda self, *given, **more: 1 / 0}, "ZeroDivisionError"),
        (check_dataset, Digits, {"input_shape": (1, 2, 2)}, "inputs of shape (5, 1, 8, 8), not (5, 1, 2, 2)"),
    ],
)
def test_the_other_kinds(check: Any, base: Any, changes: dict[str, Any], complaint: str) -> None:
    assert complaint in broken(check, changed(base, changes))


def test_a_model_that_draws_from_the_global_state_is_told() -> None:
    def build(self: Any, shape: Any, classes: int, seed: int = 0) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, classes))

    assert "global random state" in broken(check_model, changed(Mlp, {"build": build}))


def test_a_plugin_that_is_not_frozen_is_told() -> None:
    class Thawed(OneSample):
        pass

    assert "Thawed without @dataclass(frozen=True)" in broken(check_attack, Thawed())


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_there_is_a_check_for_every_kind(kind: str) -> None:
    from unbatch import testing

    check = {"labels": "check_restorer"}.get(kind, f"check_{kind.removesuffix('s')}")
    assert check in testing.__all__
