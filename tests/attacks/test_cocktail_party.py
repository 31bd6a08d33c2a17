"""Cocktail Party: sources come apart through any activation, with signs and scales that no truth was asked for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.attacks.cocktail_party import PRESETS, CocktailParty
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.inversion.label_order import without
from unbatch.inversion.layers import raw_layer
from unbatch.inversion.unmixing import Terms, Unmixing, gaussian_contrast, log_cosh
from unbatch.types import Observation, Status

QUICK = replace(PRESETS["orthogonal"], steps=200)


def network(activation: type[nn.Module] = nn.GELU, *, bias: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(1200, 40, bias=bias), activation(), nn.Linear(40, 5)).double()


def peaked(count: int = 4) -> Tensor:
    """Far from Gaussian, with long tails."""
    return -torch.rand((count, 1200), generator=torch.Generator().manual_seed(1), dtype=torch.float64).log()


def flat(count: int = 4) -> Tensor:
    return torch.rand((count, 1200), generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def seen(inputs: Tensor, model: nn.Module, **told: object) -> Observation:
    labels = torch.arange(len(inputs)) % 5
    return Observation(model, capture(model, inputs, labels), (inputs.shape[1],), **{"batch_size": len(inputs)} | told)  # type: ignore[arg-type]


def errors(found: Tensor, truth: Tensor) -> Tensor:
    return ((truth[:, None] - found).norm(dim=2) / truth.norm(dim=1)[:, None]).amin(dim=1)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("draw", [peaked, flat], ids=["peaked", "flat"])
def test_sources_of_either_kind_come_apart_whatever_the_activation(activation: type[nn.Module], draw) -> None:  # type: ignore[no-untyped-def]
    truth = draw()
    found = QUICK(seen(truth, network(activation)))
    assert float(errors(found.inputs, truth).max()) < 0.2
    assert sorted(found.labels.tolist()) == [0, 1, 2, 3]
    assert not found.status.disclosed  # what comes near is not proved


def test_contrast_from_zero_favors_flat_sources_and_mixes_peaked_ones() -> None:
    """E log cosh is least for the most peaked: measured from zero its optimum is the worst mixture."""
    truth, observation = peaked(), seen(peaked(), network())
    right, as_coded = QUICK(observation), replace(QUICK, corrected=False)(observation)
    assert float(errors(right.inputs, truth).max()) < 0.2
    assert float(errors(as_coded.inputs, truth).min()) > 0.3
    assert float(errors(replace(QUICK, corrected=False)(seen(flat(), network())).inputs, flat()).max()) < 0.2


def test_labels_belong_to_their_samples() -> None:
    truth = peaked()
    found = QUICK(seen(truth, network()))
    order = torch.cdist(truth, found.inputs).argmin(dim=1)
    assert found.labels[order].tolist() == [0, 1, 2, 3]


def test_without_a_bias_rows_stand_for_themselves_up_to_a_factor() -> None:
    truth = peaked()
    found = QUICK(seen(truth, network(bias=False)))
    assert found.stats["scaled"] == "not known"
    centered = [rows - rows.mean(dim=1, keepdim=True) for rows in (truth, found.inputs)]
    alike = F.cosine_similarity(centered[0][:, None], centered[1][None], dim=2)
    assert float(alike.amax(dim=1).min()) > 0.95  # signs too: by the side on which they are skewed


def test_features_of_an_inner_layer() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trunk = [nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*trunk, nn.Linear(1000, 30), nn.Tanh(), nn.Linear(30, 5)).double()
    inputs = torch.randn((3, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observation = Observation(model, capture(model, inputs, torch.arange(3)), (1, 12, 12), batch_size=3)
    found = replace(QUICK, layer="3.weight", sparsity=0.0, sign=0.0)(observation)
    assert found.inputs is None
    assert found.layer == "3.weight"
    assert bool((found.features >= 0).all())
    assert float(F.cosine_similarity(model[:3](inputs).detach()[:, None], found.features[None], dim=2).amax(dim=1).min()) > 0.9


def test_the_rank_shows_the_batch_size_where_it_can_and_one_sentence_says_where_it_cannot() -> None:
    truth = peaked()
    assert len(QUICK(seen(truth, network(), batch_size=None)).inputs) == 4
    model = network()
    generator = torch.Generator().manual_seed(0)
    noisy = {n: t + t.std() * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in seen(truth, model).update.items()}
    found = replace(QUICK, steps=5)(Observation(model, noisy, (1200,)))
    assert found.status is Status.NOT_APPLICABLE
    assert "batch_size=" in found.reason
    assert len(replace(QUICK, steps=5, batch_size=4)(Observation(model, noisy, (1200,))).inputs) == 4
    assert "larger than the layer" in replace(QUICK, batch_size=50)(Observation(model, noisy, (1200,))).reason


def test_budget_and_misuse() -> None:
    found = CocktailParty(seconds=0.5, steps=10**6)(seen(peaked(), network()))
    assert found.stats["ended"] == "time"
    with pytest.raises(Misuse, match="weights of at least zero"):
        CocktailParty(contrast=-1.0)
    assert "no Linear layer named" in replace(QUICK, layer="nine")(seen(peaked(), network())).reason


def test_objective_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    observation = seen(flat(3), network())
    unmixing = Unmixing(observation, raw_layer(observation), Terms(2.0, True, 1.5, 0.7, 3.0, 0.0, 0.4, 0.6), generator)  # type: ignore[arg-type]
    assert torch.allclose(unmixing.white @ unmixing.white.T / 1199, torch.eye(3).double(), atol=1e-9)
    turning = F.normalize(torch.randn((1, 3, 3), generator=generator, dtype=torch.float64), dim=2)
    v = turning[0]
    z, s = v @ unmixing.white, v @ unmixing.shifted
    peak = torch.stack([(torch.cosh(1.5 * row).log() / 1.5).mean() - gaussian_contrast(1.5) for row in z]).square().mean()
    apart = sum(float(torch.exp(3 * (v[i] @ v[j]).abs()) - 1) for i in range(3) for j in range(3) if i != j) / 9
    sign = sum(min(float(row.relu().norm()), float((-row).relu().norm())) for row in s) / 3
    expected = -2 * float(peak) + 0.7 * apart + 0.4 * sign + 0.6 * float(s.abs().mean())
    assert float(unmixing.objective({"turning": turning})) == pytest.approx(expected, rel=1e-9)


def test_small_parts() -> None:
    numbers = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.allclose(log_cosh(numbers), numbers.cosh().log())
    assert without(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 3])).tolist() == [0]
