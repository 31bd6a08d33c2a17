"""One seed, five roles: reproducible together, and no draw of one role is a draw of another."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from unbatch import plugins, seeds
from unbatch.contracts import Attack
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.training import LocalTraining, shuffled, train
from unbatch.types import Batch, Candidate, Observation, Progress

ROLES: tuple[seeds.Role, ...] = ("data", "weights", "protocol", "defense", "attack")
NOISE = "gaussian_noise:deviation=0.5,unit=absolute"


def test_every_role_draws_its_own() -> None:
    drawn = {(seed, role): seeds.derive(seed, role) for seed, role in itertools.product((*range(200), 2**62, seeds.LARGEST), ROLES)}
    assert len(set(drawn.values())) == len(drawn)
    assert all(0 <= value <= seeds.LARGEST for value in drawn.values())
    assert not set(drawn.values()) & set(range(1000))  # nor is any the seed itself


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert seeds.derive(0, "defense") == 5093883402136656957
    assert seeds.derive(np.int64(0), "defense") == seeds.derive(0, "defense")


@pytest.mark.parametrize("seed", [10**24, 2**63, -1, 1.0, "1", None, float("nan")])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    for take in (
        lambda: seeds.checked(seed),
        lambda: seeds.generator(seed, "data"),
        lambda: plugins.build("datasets", "digits").batch(3, seed),
        lambda: plugins.build("models", "mlp:width=5,depth=2").build((4,), 3, seed),
        lambda: observed(seed),
    ):
        with pytest.raises(Misuse, match="a seed from 0 to"):
            take()


def secret() -> tuple[torch.nn.Module, Batch]:
    model = plugins.build("models", "mlp:width=30,depth=3").build((8,), 4, 0).double()
    x = torch.randn((12, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, Batch(x, torch.arange(12) % 4)


def observed(seed: int, protocol: str = "fedsgd") -> Observation:
    return plugins.build("protocols", protocol).observe(*secret(), defenses=[plugins.build("defenses", NOISE)], seed=seed)


@dataclass(frozen=True)
class Thief(Attack):
    """Draws what it takes for the client's noise from generators of its own, and from the one that it is handed."""

    drawn: ClassVar[list[dict[str, Tensor]]] = []
    own: int = 0

    def unsupported(self, observation: Observation) -> str | None:
        return None

    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        for guess in (
            torch.Generator().manual_seed(self.own),
            torch.Generator().manual_seed(generator.initial_seed()),
            generator,
        ):
            self.drawn.append({name: drawn_like(tensor, guess) for name, tensor in observation.update.items()})
        return Candidate(reason="it came for the noise")


def drawn_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """What ``gaussian_noise`` adds, from this generator."""
    return 0.5 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def left(seen: Observation, clean: dict[str, Tensor], seed: int) -> float:
    """The share of the noise that is left when the best multiple of the best of the thief's guesses is subtracted."""
    Thief.drawn.clear()
    Thief(own=seed)(seen, seed=seed)
    assert len(Thief.drawn) == 3
    noise = torch.cat([(seen.update[name] - clean[name]).flatten() for name in clean])
    guesses = [torch.cat([drawn[name].flatten() for name in clean]) for drawn in Thief.drawn]
    return min(float((noise - (noise @ guess) / (guess @ guess) * guess).norm() / noise.norm()) for guess in guesses)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_thief_with_the_clients_seed_subtracts_its_noise(seed: int) -> None:
    """What it was like while client and attack opened their generators with the same number: the theft works, so the test below tests."""
    model, batch = secret()
    clean = capture(model, batch.inputs, batch.labels)
    noisy = plugins.build("defenses", NOISE)(clean, torch.Generator().manual_seed(seed))
    assert left(Observation(model, noisy, (8,)), clean, seed) < 1e-12


@pytest.mark.parametrize("protocol", plugins.names("protocols"))
@pytest.mark.parametrize("seed", [0, 7])
def test_the_noise_of_a_round_cannot_be_drawn_again_from_its_seed(seed: int, protocol: str) -> None:
    model, batch = secret()
    clean = plugins.build("protocols", protocol).observe(model, batch, seed=seed).update
    assert left(observed(seed, protocol), dict(clean), seed) > 0.99


def test_the_order_of_the_samples_is_drawn_by_the_protocol_alone() -> None:
    model, batch = secret()
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.3)
    seen = plugins.build("protocols", "fedavg:epochs=2,batch_size=4,learning_rate=0.3").observe(model, batch, seed=5)

    def explains(generator: torch.Generator) -> bool:
        moved = train(model, batch.inputs, batch.labels, local, shuffled(2, 12, generator))
        return all(torch.allclose(moved[name] / (local.factor(12) or 1), seen.update[name], rtol=0, atol=1e-12) for name in moved)

    assert [role for role in ROLES if explains(seeds.generator(5, role))] == ["protocol"]
    assert not explains(torch.Generator().manual_seed(5))


def test_defense_and_protocol_draw_apart() -> None:
    """A defense that draws more or less does not deal out the samples in another order."""
    model, batch = secret()
    local = plugins.build("protocols", "fedavg:epochs=1,batch_size=4,learning_rate=0.3")
    plain = local.observe(model, batch, seed=5).update
    silent = local.observe(model, batch, defenses=[plugins.build("defenses", "gaussian_noise:deviation=0")], seed=5).update
    assert all(torch.equal(plain[name], silent[name]) for name in plain)
