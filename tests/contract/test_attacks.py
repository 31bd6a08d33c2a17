"""What every attack must keep, whichever attacks there are."""

import dataclasses

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.auditing import audit
from unbatch.contracts import Attack, Needs
from unbatch.testing import check_attack
from unbatch.testing.scenes import network, observe
from unbatch.types import Candidate, LocalTraining, Observation, Reconstruction, Status

ATTACKS = plugins.names("attacks")


def built(name: str) -> Attack:
    return plugins.load("attacks", name)()


def quick(name: str) -> Attack:
    """With few steps, where it takes steps: none of these tests needs a good answer."""
    attack = built(name)
    return dataclasses.replace(attack, steps=30) if "steps" in {field.name for field in dataclasses.fields(attack)} else attack


@pytest.mark.parametrize("name", ATTACKS)
def test_keeps_the_contract(name: str) -> None:
    check_attack(quick(name))


@pytest.mark.parametrize("name", ATTACKS)
def test_its_default_settings_are_built_from_its_name(name: str) -> None:
    assert plugins.build("attacks", name) == built(name)
    assert all(words and len(words) < 100 for words in built(name).needs.words)


@dataclasses.dataclass(frozen=True)
class Liar(Attack):
    """Claims a batch that it made up."""

    def unsupported(self, observation: Observation) -> str | None:
        return None

    def reconstruct(self, observation, generator, progress):  # type: ignore[no-untyped-def]
        noise = torch.randn((5, *observation.input_shape), generator=generator, dtype=torch.float64)
        return Candidate(noise, torch.zeros(5, dtype=torch.int64))


def test_a_made_up_batch_is_never_called_a_reconstruction() -> None:
    found: Reconstruction = Liar()(observe(network()))
    assert found.status is Status.INCONSISTENT
    assert found.residual is not None
    assert found.residual > 0.1


@dataclasses.dataclass(frozen=True)
class Asked(Attack):
    """Counts how often it is asked whether it can be used."""

    batch_size: int | None = None
    times: list[int] = dataclasses.field(default_factory=list)

    def unsupported(self, observation: Observation) -> str | None:
        self.times.append(1)
        return None

    def reconstruct(self, observation, generator, progress):  # type: ignore[no-untyped-def]
        return Candidate(reason="nothing found")


def test_is_asked_once_whether_it_can_be_used() -> None:
    attack = Asked()
    assert attack(observe(network())).status is Status.INCONSISTENT
    assert attack.times == [1]


class Signs(nn.Module):
    """Its gradient does not change with its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sign()


PLAIN = observe(network())
STEPS = LocalTraining(learning_rate=0.1, epochs=2)


@pytest.mark.parametrize(
    ("needs", "observation", "why"),
    [
        (Needs(batch_size=True), PLAIN, "assume one with batch_size="),
        (Needs(labels=True), PLAIN, "labels are not known"),
        (Needs(samples=1), observe(network(), batch_size=5), "holds 5 samples"),
        (Needs(kinds=frozenset({"table"})), PLAIN, "kind 'image'"),
        (Needs(one_gradient=True), dataclasses.replace(PLAIN, training=STEPS), "weights that moved"),
        (Needs(scale=True), dataclasses.replace(PLAIN, factor_known=False), "a factor that the server does not know"),
        (Needs(entrance="Linear"), observe(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten())), "runs no Linear layer"),
        (Needs(entrance="Linear"), observe(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten(), nn.Linear(8, 4))), "sees its raw input"),
        (Needs(second_order=True), observe(nn.Sequential(nn.Flatten(), Signs(), nn.Linear(48, 4))), "twice differentiable"),
        (Needs(uncoupled=True), observe(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 4))), "BatchNorm1d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unmet_need_is_the_reason_and_the_attack_is_not_asked(needs: Needs, observation: Observation, why: str) -> None:
    attack = type("Needy", (Asked,), {"needs": needs})()
    found = attack(observation)
    assert found.status is Status.NOT_APPLICABLE
    assert why in found.reason
    assert attack.times == []
    assert needs.words


def test_a_need_that_is_met_is_no_obstacle() -> None:
    met = Needs("Linear", frozenset({"image"}), 5, batch_size=True, one_gradient=True, scale=True, second_order=True, uncoupled=True)
    assert met.unmet(observe(network(nn.Sigmoid), batch_size=5)) is None


def test_auxiliary_data_is_declared_knowledge() -> None:
    attack = type("Informed", (Asked,), {"needs": Needs(auxiliary="public pictures like the client's")})()
    assert audit(observe(network()), attack=attack).knowledge.auxiliary_data
    assert not audit(observe(network()), attack=Asked()).knowledge.auxiliary_data
