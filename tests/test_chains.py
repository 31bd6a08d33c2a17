"""A guess made exact: handed in, or made by another attack. The truth is used to plant and to check."""

import pytest
import torch
from torch import Tensor, nn

import unbatch
from unbatch import plugins
from unbatch.attacks.span import Span
from unbatch.chains import Chain
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.types import Observation, Reconstruction, Status

SHAPE = (1, 8, 8)


def network(activation: nn.Module | None = None, width: int = 40) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        first, second = nn.Linear(64, width), nn.Linear(width, 4)
        return nn.Sequential(nn.Flatten(), first, activation or nn.GELU(), second).double()


def pictures(size: int) -> tuple[Tensor, Tensor]:
    """Smooth, from 0 to 1."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand((size, 1, 5, 5), generator=generator, dtype=torch.float64)
    smooth = nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear", align_corners=True)
    return smooth, torch.randint(4, (size,), generator=generator)


def observe(size: int = 6) -> tuple[Observation, Tensor, Tensor]:
    x, y = pictures(size)
    model = network()
    return Observation(model, capture(model, x, y), SHAPE), x, y


def psnr(one: Tensor, other: Tensor) -> float:
    return -10 * float((one - other).square().mean().log10())


def noisy(x: Tensor, decibels: float, seed: int = 0) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return x + noise * 10 ** (-decibels / 20)


def worst(found: Reconstruction, x: Tensor) -> float:
    assert found.inputs is not None
    return float((x.flatten(1)[:, None] - found.inputs.flatten(1)).norm(dim=2).amin(dim=1).max())


@pytest.mark.parametrize("decibels", [18, 25])
def test_noisy_pictures_become_a_proof(decibels: float) -> None:
    observation, x, _ = observe()
    guess = noisy(x, decibels)
    assert abs(psnr(guess, x) - decibels) < 1
    found = unbatch.polish(observation, guess)
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert worst(found, x) < 1e-9
    assert found.attack == "guess+span:search=False"
    assert (found.stats["guesses"], found.stats["led"]) == (6, 6)


def test_a_mixture_of_pictures_becomes_a_proof_too() -> None:
    observation, x, _ = observe()
    found = unbatch.polish(observation, 0.85 * x + 0.15 * x.roll(1, dims=0))
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert worst(found, x) < 1e-9


def test_of_two_pictures_two_are_proved() -> None:
    observation, x, _ = observe()
    found = unbatch.polish(observation, noisy(x[:2], 25))
    assert found.status is Status.PARTIAL
    assert worst(found, x[:2]) < 1e-9
    assert "2 guesses led to 2 of 6 samples" in found.reason


def test_far_from_it_says_so() -> None:
    observation, x, y = observe(14)
    guess = 3 * torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(1)).double()
    found = unbatch.polish(observation, guess, y[:1])
    assert not found.status.disclosed
    assert "1 guesses led to 0 of 14 samples: they are too far" in found.reason
    assert worst(found, x) > 1


def test_what_a_guess_does_not_lead_to_may_be_searched_for() -> None:
    observation, x, _ = observe()
    found = unbatch.polish(observation, noisy(x[:1], 25), attack="span")
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert found.stats["led"] == 1
    assert worst(found, x) < 1e-9


def test_features_are_polished_where_their_layer_is_named() -> None:
    x, y = pictures(5)
    first, second, last = nn.Linear(64, 32), nn.Linear(32, 30), nn.Linear(30, 4)
    model = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Tanh(), last).double()
    observation, truth = Observation(model, capture(model, x, y), SHAPE), torch.tanh(first(x.flatten(1))).detach()
    found = unbatch.polish(observation, noisy(truth, 25), layer="3.weight")
    assert found.status is Status.FEATURES, found.reason
    assert found.features is not None
    assert float((truth[:, None] - found.features).norm(dim=2).amin(dim=1).max()) < 1e-9


@pytest.mark.parametrize("then", ["span", "span:search=false"])
def test_behind_an_attack_that_only_approximates(then: str) -> None:
    model = network(nn.Sigmoid(), 30)
    x, y = pictures(2)
    observation = Observation(model, capture(model, x, y), SHAPE, labels=y, batch_size=2)
    alone = unbatch.invert(observation, "inverting_gradients:steps=60", 1)
    assert not alone.status.disclosed
    found = unbatch.invert(observation, f"inverting_gradients:steps=60+{then}", 1)
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert worst(found, x) < 1e-9
    assert found.attack.startswith("inverting_gradients:steps=60+span")
    again = unbatch.invert(observation, found.attack, 1)
    assert found.inputs is not None
    assert again.inputs is not None
    assert torch.equal(found.inputs, again.inputs)


def test_where_it_cannot_be_polished_the_first_answer_stands() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(108, 4)).double()
    x, y = pictures(1)
    observation = Observation(model, capture(model, x, y), SHAPE, labels=y, batch_size=1)
    alone = unbatch.invert(observation, "inverting_gradients:steps=20", 1)
    found = unbatch.invert(observation, "inverting_gradients:steps=20+span", 1)
    assert found.status is alone.status
    assert found.inputs is not None
    assert alone.inputs is not None
    assert torch.equal(found.inputs, alone.inputs)
    assert "span could not polish it" in found.reason


def test_a_chain_is_built_from_its_spec_and_says_what_it_does_not_take() -> None:
    built = plugins.build("attacks", "dlg:steps=50+span:seconds=5")
    assert isinstance(built, Chain)
    assert plugins.build("attacks", built.spec) == built
    observation, x, _ = observe()
    with pytest.raises(Misuse, match=r"an attack after \+ that starts from a guess"):
        plugins.build("attacks", "span+dlg")
    with pytest.raises(Misuse, match="an attack that starts from a guess, such as span"):
        unbatch.polish(observation, x, attack="dlg")
    with pytest.raises(Misuse, match="guesses of shape"):
        unbatch.polish(observation, torch.zeros(2, 5))
    with pytest.raises(Misuse, match="at least one approximate sample"):
        unbatch.polish(observation, torch.zeros(0, *SHAPE))
    with pytest.raises(Misuse, match="finite guesses"):
        unbatch.polish(observation, x * torch.nan)
    assert unbatch.polish(observation, x, attack=Span(layer="nine")).status is Status.NOT_APPLICABLE
