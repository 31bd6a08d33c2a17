"""The shallow setting: one hidden layer, cross-entropy, and far more samples than sampling could reach."""

import pytest
import torch
from torch import Tensor, nn

from unbatch.attacks import spear
from unbatch.attacks.spear import Spear
from unbatch.clock import Clock
from unbatch.gradients import capture
from unbatch.spear.problem import factored
from unbatch.spear.refinement import is_uneven
from unbatch.types import Observation, Status


def two_layers(width: int = 200, inputs: int = 100, classes: int = 10, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
        model[1].weight.normal_(0, 0.5, generator=generator)
        model[1].bias.zero_()
    return model


def draw(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand((size, 1, 10, 10), generator=generator, dtype=torch.float64)
    return inputs, torch.randint(10, (size,), generator=generator)


def errors(x: Tensor, found: Tensor) -> Tensor:
    """For each recovered sample the relative distance from the nearest true one."""
    distance = torch.cdist(x.flatten(1), found.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.amin(dim=0) / found.flatten(1).norm(dim=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_recovers_forty_samples_with_their_labels(seed: int) -> None:
    model, (x, y) = two_layers(seed=seed), draw(40, seed)
    found = Spear()(Observation(model, capture(model, x, y), (1, 10, 10))).or_raise()
    assert found.stats["search"] == "shallow"
    assert found.inputs is not None
    assert found.labels is not None
    assert float(errors(x, found.inputs).max()) < 1e-9
    assert torch.equal(found.labels[torch.cdist(x.flatten(1), found.inputs.flatten(1)).argmin(dim=1)], y)


def test_gives_only_certified_samples_where_it_finds_a_part() -> None:
    model, (x, y) = two_layers(width=110), draw(70)
    found = Spear(seconds=5.0)(Observation(model, capture(model, x, y), (1, 10, 10), batch_size=70))
    assert found.status is Status.PARTIAL
    assert found.inputs is not None
    assert 0 < len(found.inputs) < 70
    assert float(errors(x, found.inputs).max()) < 1e-5
    assert f"{len(found.inputs)} samples are proved" in found.reason


def test_what_two_layers_told_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took all that was left of a minute, of batches that were whole after two seconds, and lost some of them."""
    model, (x, y) = two_layers(), draw(40)
    with torch.no_grad():
        model[3].weight.mul_(15.0)  # sure of some: what samples leave differs by more than a million
    seen = Observation(model, capture(model, x, y), (1, 10, 10))
    factors, _ = factored(seen, seen.layers[0], torch.Generator(), Clock.of(60.0))
    assert is_uneven(factors)
    monkeypatch.setattr(spear, "found_again", lambda *_: pytest.fail("searched again"))
    found = Spear()(seen)
    assert found.stats["search"] == "shallow"
    assert found.inputs is not None
    assert len(found.inputs) == len(x)


@pytest.mark.parametrize("change", ["another loss", "an activation behind", "single precision", "as published"])
def test_leaves_other_settings_to_the_ordinary_search(change: str) -> None:
    model, (x, y) = two_layers(), draw(5)
    loss = "nll" if change == "another loss" else "cross_entropy"
    if change == "an activation behind":
        model = nn.Sequential(*model, nn.Sigmoid())
    if change == "single precision":
        model, x = model.float(), x.float()
    attack = Spear()
    if change == "as published":  # which needs masks that differ
        attack, x = Spear(search="sampling"), x - 0.5
    found = attack(Observation(model, capture(model, x, y, loss), (1, 10, 10), loss)).or_raise()
    assert found.stats.get("search") != "shallow"


def test_a_wrong_head_is_not_believed() -> None:
    model, (x, y) = two_layers(), draw(30)
    update = capture(model, x, y)
    with torch.no_grad():
        model[3].weight.mul_(1.01)
    found = Spear(seconds=2.0)(Observation(model, update, (1, 10, 10)))
    assert found.status is not Status.RECONSTRUCTED
    assert found.inputs is None or found.status is not Status.PARTIAL or float(errors(x, found.inputs).max()) < 1e-5
