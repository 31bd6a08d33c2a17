"""From features back to pictures: exact where features suffice, and honest about how many numbers they fix."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import plugins
from unbatch.attacks.cocktail_party import CocktailParty
from unbatch.attacks.dlg import Dlg
from unbatch.attacks.feature_inversion import FeatureInversion
from unbatch.attacks.one_sample import OneSample
from unbatch.attacks.spear import Spear
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.inversion import features as engine
from unbatch.inversion.descent import Descent
from unbatch.inversion.least_squares import solve
from unbatch.inversion.trunk import Trunk, dimensions
from unbatch.types import Observation, Status


def network(channels: int = 8, activation: Callable[[], nn.Module] = nn.LeakyReLU, *, pool: bool = False) -> nn.Module:
    """A convolution, then Linear + ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        middle = [nn.MaxPool2d(2)] if pool else []
        size = channels * (25 if pool else 100)
        trunk = [nn.Conv2d(1, channels, 3, padding=1), activation(), *middle, nn.Flatten()]
        return nn.Sequential(*trunk, nn.Linear(size, 60), nn.ReLU(), nn.Linear(60, 9)).double()


def pictures(count: int) -> Tensor:
    return torch.rand((count, 1, 10, 10), generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def seen(model: nn.Module, count: int = 3, **told: object) -> Observation:
    update = capture(model, pictures(count), torch.arange(count))
    return Observation(model, update, (1, 10, 10), **{"batch_size": count} | told)  # type: ignore[arg-type]


def apart(found: Tensor, count: int) -> Tensor:
    return torch.cdist(pictures(count).flatten(1), found.flatten(1)).amin(dim=1)


SMALL = FeatureInversion(Spear(), steps=60, total_variation=0.0)


@pytest.mark.parametrize("told", [{}, {"batch_size": None}], ids=["batch size told", "not told"])
def test_where_features_determine_pictures_they_are_exact(told: dict[str, object]) -> None:
    found = SMALL(seen(network(), **told))
    assert float(apart(found.inputs, 3).max()) < 1e-9
    assert found.stats["determined"] == [100, 100, 100]
    assert "determine 100 of the 100 numbers" in found.reason
    assert found.residual < 1e-9
    order = torch.cdist(pictures(3).flatten(1), found.inputs.flatten(1)).argmin(dim=1)
    assert found.labels[order].tolist() == [0, 1, 2]


def test_where_they_do_not_it_says_how_many_numbers_they_fix_and_the_gradient_helps() -> None:
    observation = seen(network(2, nn.ReLU, pool=True))
    found = SMALL(observation)
    alone = replace(SMALL, gradient=0.0)(observation)
    assert max(found.stats["determined"]) < 100
    assert "of the 100 numbers" in found.reason
    assert found.residual < alone.residual
    assert not found.status.disclosed


def test_one_sample_is_a_source_too() -> None:
    found = replace(SMALL, source=OneSample())(seen(network(activation=nn.Tanh), 1))
    assert float(apart(found.inputs, 1).max()) < 1e-8


def test_default_source_and_cocktail_party_need_no_relu() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(512, 40), nn.Tanh(), nn.Linear(40, 9)).double()
    observation = seen(model, 2)
    for source in (None, CocktailParty(steps=100)):
        found = replace(SMALL, source=source, steps=20)(observation)
        assert found.inputs.shape == (2, 1, 10, 10)
        assert "not proved" in found.reason
        assert sorted(found.labels.tolist()) == [0, 1]


def test_a_source_by_name_and_back() -> None:
    attack = plugins.build("attacks", 'feature_inversion:source="spear:seconds=5,search=sampling",steps=3')
    assert attack.source == Spear(search="sampling", seconds=5.0)
    assert plugins.build("attacks", attack.spec) == attack
    assert plugins.build("attacks", "feature_inversion:source=cocktail_party").source == CocktailParty()
    assert plugins.build("attacks", "feature_inversion:source=none").source is None
    with pytest.raises(Misuse, match="a source that yields features"):
        FeatureInversion(Dlg())


def test_says_why_not() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(100, 40)).double()
    assert "more than its raw input" in SMALL(seen(flat)).reason
    tanh = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(512, 40), nn.Tanh(), nn.Linear(40, 9)).double()
    found = SMALL(seen(tanh))
    assert found.status is Status.NOT_APPLICABLE
    assert "tanh" in found.reason


def test_a_budget_is_held_over_all_stages() -> None:
    found = replace(SMALL, source=None, steps=10**6, seconds=1.5)(seen(network(), 2))
    assert found.inputs is not None
    assert found.stats["seconds"] < 20  # without the budget it would be minutes; a loaded machine is given time


def test_trunk_and_its_rank() -> None:
    model, inputs = network(2, nn.ReLU, pool=True), pictures(1)
    trunk = Trunk.of(seen(model), "4.weight", torch.float64)
    assert torch.equal(trunk(inputs), model[:4](inputs))
    jacobian = torch.autograd.functional.jacobian(model[:4], inputs).flatten(1).reshape(50, 100)
    assert dimensions(trunk, inputs[0], torch.Generator()) == (int(torch.linalg.matrix_rank(jacobian)), True)
    wide = Trunk.of(seen(network()), "3.weight", torch.float64)
    assert dimensions(wide, inputs[0], torch.Generator().manual_seed(0)) == (100, True)


@pytest.mark.parametrize("activation", [lambda: nn.ReLU(inplace=True), lambda: nn.LeakyReLU(0.2), nn.Tanh])
def test_the_misfit_of_features_is_zero_where_they_are_those_wanted_and_nowhere_else(activation: Callable[[], nn.Module]) -> None:
    """Through what stands between: pooling, flattening; and it has a slope where the features themselves have none."""
    model, inputs = network(2, activation, pool=True), pictures(2)
    trunk = Trunk.of(seen(model), "4.weight", torch.float64)
    wanted = trunk(inputs)
    assert float(trunk.misfit(inputs, wanted).abs().max()) < 1e-15
    assert bool((trunk.misfit(inputs.flip(0), wanted).norm(dim=1) > 1e-3).all())
    low = torch.full_like(inputs, -50.0).requires_grad_()
    slopes = torch.autograd.grad(trunk.misfit(low, wanted).square().sum(), low)[0]
    assert bool(slopes.any())


def test_pictures_behind_two_convolutions_are_exact_where_their_features_suffice(shared_data: Callable[[str], Path]) -> None:
    """From the features alone, through kinks where a descent stalls."""
    data = plugins.build("datasets", f"npz:{shared_data('cifar10_test.npz')}")
    inputs = data.batch(3, 0).inputs.double()[:, :, 8:24, 8:24]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 48, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*trunk, nn.Linear(48 * 64, 30), nn.ReLU(), nn.Linear(30, 10)).double()
    observation = Observation(model, {name: torch.ones_like(p) for name, p in model.named_parameters()}, (3, 16, 16))
    stage = engine.FeatureInversion(observation, "5.weight", model[:5](inputs).detach())
    generator = torch.Generator().manual_seed(0)
    solved = stage.solve(stage.descend(Descent(steps=20), 1, generator), 200, generator=generator)
    assert float(solved.errors.max()) < engine.EXACT
    assert float((solved.point.view_as(inputs) - inputs).abs().max()) < 1e-6


def test_solve_leaves_a_hopeless_row_alone() -> None:
    wanted = torch.tensor([[4.0], [-1.0]], dtype=torch.float64)
    found = solve(lambda x, rows: x.square() - wanted[rows], torch.ones_like(wanted))
    assert float(found.point[0]) == pytest.approx(2)
    assert found.errors[0] < 1e-12 < found.errors[1]


def test_features_of_a_small_network_on_real_pictures_are_exact(shared_data: Callable[[str], Path]) -> None:
    data = plugins.build("datasets", f"npz:{shared_data('cifar10_test.npz')}")
    batch = data.batch(4, 0)
    model = plugins.build("models", "lenet5").build(data.input_shape, 10, 0).double()
    observation = Observation(model, capture(model, batch.inputs, batch.labels), data.input_shape, schema=data.schema, batch_size=4)
    found = Spear(layer="7.weight")(observation)
    assert found.status is Status.FEATURES
    alike = F.cosine_similarity(model[:7](batch.inputs).detach()[:, None], found.features[None], dim=2)
    assert float(alike.amax(dim=1).min()) == pytest.approx(1, abs=1e-9)
