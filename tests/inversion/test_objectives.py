"""Distances and priors against their definitions, labels from the last layer, and kinks."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.errors import Inapplicable
from unbatch.gradients import capture
from unbatch.inversion import priors
from unbatch.inversion.distances import Distance, DistanceKind
from unbatch.inversion.kinks import kinks
from unbatch.inversion.label_guess import fixed_labels, label_obstacle
from unbatch.schema import Schema
from unbatch.types import Observation


def network(*, bias: bool = True, activation: type[nn.Module] = nn.ReLU, classes: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(20, 40), activation(), nn.Linear(40, classes, bias=bias)).double()


def seen(labels: list[int], model: nn.Module | None = None, **told: object) -> Observation:
    model = model or network()
    inputs = torch.rand((len(labels), 20), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return Observation(model, capture(model, inputs, torch.tensor(labels)), (20,), **{"batch_size": len(labels)} | told)  # type: ignore[arg-type]


def some_updates(observation: Observation, restarts: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn((restarts, *t.shape), generator=generator, dtype=t.dtype) for n, t in observation.update.items()}


def flat(update: dict[str, Tensor], row: int) -> Tensor:
    return torch.cat([tensor[row].flatten() for tensor in update.values()])


def test_distances_are_what_they_say() -> None:
    observation = seen([0, 1])
    replayed = some_updates(observation)
    truth = torch.cat([tensor.flatten() for tensor in observation.update.values()])
    kinds: tuple[DistanceKind, ...] = ("squared", "cosine", "layerwise")
    squared, cosine, layerwise = (Distance(observation, kind, torch.float64)(replayed) for kind in kinds)
    for i in range(3):
        assert float(squared[i]) == pytest.approx(float((flat(replayed, i) - truth).square().sum()))
        assert float(cosine[i]) == pytest.approx(1 - float(F.cosine_similarity(flat(replayed, i), truth, dim=0)))
        each = [1 - float(F.cosine_similarity(t[i].flatten(), observation.update[n].flatten(), dim=0)) for n, t in replayed.items()]
        assert float(layerwise[i]) == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize("kind", ["squared", "cosine", "layerwise"])
def test_the_update_itself_is_at_distance_zero_and_directions_know_no_scale(kind: DistanceKind) -> None:
    observation = seen([0, 1])
    replayed = {name: torch.stack([tensor, 3 * tensor]) for name, tensor in observation.update.items()}
    same, scaled = Distance(observation, kind, torch.float64)(replayed).tolist()
    assert same == pytest.approx(0, abs=1e-12)
    assert (scaled > 0.1) == (kind == "squared")


@pytest.mark.parametrize("kind", ["squared", "cosine", "layerwise"])
def test_a_mask_ignores_what_was_pruned(kind: DistanceKind) -> None:
    whole = seen([0, 1])
    pruned = Observation(whole.model, {n: t * (t.abs() > t.abs().median()) for n, t in whole.update.items()}, (20,))
    replayed = {name: tensor[None] for name, tensor in whole.update.items()}
    assert float(Distance(pruned, kind, torch.float64, masked=True)(replayed)) == pytest.approx(0, abs=1e-12)
    assert float(Distance(pruned, kind, torch.float64)(replayed)) > 1e-4


@pytest.mark.parametrize("kind", ["squared", "cosine", "layerwise"])
def test_an_update_of_zeros_gives_numbers_and_slopes(kind: DistanceKind) -> None:
    observation = seen([0, 1])
    replayed = {name: torch.zeros_like(tensor)[None].requires_grad_() for name, tensor in observation.update.items()}
    value = Distance(observation, kind, torch.float64)(replayed)
    value.sum().backward()
    assert bool(value.isfinite())
    assert all(bool(tensor.grad.isfinite().all()) for tensor in replayed.values() if tensor.grad is not None)


def test_priors_are_what_they_say() -> None:
    x = torch.randn((2, 3, 1, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    down, across = (x[..., 1:, :] - x[..., :-1, :]).abs(), (x[..., 1:] - x[..., :-1]).abs()
    assert torch.allclose(priors.total_variation(x), down.mean(dim=(1, 2, 3, 4)) + across.mean(dim=(1, 2, 3, 4)))
    assert torch.allclose(priors.norm(x), torch.stack([x[0].norm(), x[1].norm()]))
    assert torch.allclose(priors.group_consistency(x)[0], ((x[0] - x[1]) / 2).norm())
    fed = {"a": (x[:, :, 0, 0, 0], x[:, :, 0, 1, 0])}
    known = {"a": (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))}
    assert torch.allclose(priors.batch_norm_statistics(fed, known)[1], fed["a"][0][1].norm() + (fed["a"][1][1] - 1).norm())
    assert float(priors.entropy(torch.full((1, 2, 4), 0.25))) == pytest.approx(math.log(4))


def test_the_box_is_that_of_pictures_where_it_is_known() -> None:
    low, high = priors.box(Schema("image", (0.5,), (0.25,)), (1, 2, 2), torch.zeros(())) or (None, None)
    assert low is not None
    assert high is not None
    assert (float(low.min()), float(low.max()), float(high.min()), float(high.max())) == (-2, -2, 2, 2)
    assert low.shape == (1, 1, 1, 2, 2)
    assert priors.box(Schema("image"), (1, 2, 2), torch.zeros(())) is None
    assert priors.box(Schema("vector", (0.5,), (0.25,)), (4,), torch.zeros(())) is None


@pytest.mark.parametrize("labels", [[3], [0, 0, 0, 1, 1, 4], [2, 2, 2, 2]])
def test_labels_are_restored(labels: list[int]) -> None:
    found = fixed_labels(seen(labels), "restored")
    assert found is not None
    assert found.tolist() == labels


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("label", range(5))
def test_the_label_of_one_sample_needs_no_bias(activation: type[nn.Module], label: int) -> None:
    found = fixed_labels(seen([label], network(bias=False, activation=activation)), "restored")
    assert found is not None
    assert found.tolist() == [label]


def test_told_labels_come_first_and_what_is_missing_is_told() -> None:
    assert fixed_labels(replace(seen([1, 0]), labels=torch.tensor([1, 0])), "searched").tolist() == [1, 0]  # type: ignore[union-attr]
    assert fixed_labels(seen([1, 0]), "searched") is None
    assert "labels=searched" in str(label_obstacle(seen([1, 0], network(bias=False)), "restored"))
    assert "factor" in str(label_obstacle(seen([1, 0], factor_known=False), "restored"))
    assert label_obstacle(seen([1], factor_known=False), "restored") is None
    with pytest.raises(Inapplicable, match="no bias"):
        fixed_labels(seen([1, 0], network(bias=False)), "restored")
    own = Observation(network(), seen([1, 0]).update, (20,), loss=F.multi_margin_loss, batch_size=2)
    assert "cross_entropy" in str(label_obstacle(own, "searched"))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([nn.Sigmoid()], []),
        ([nn.SiLU(), nn.GELU(), nn.Tanh(), nn.Softplus()], []),
        ([nn.ReLU()], ["relu"]),
        ([nn.LeakyReLU(), nn.Hardtanh()], ["leaky_relu", "hardtanh"]),
        ([nn.Unflatten(1, (1, 4, 5)), nn.MaxPool2d(2, 2, (0, 1)), nn.Flatten(), nn.ReLU6()], ["max_pool2d", "hardtanh"]),
        ([nn.Unflatten(1, (1, 4, 5)), nn.AvgPool2d(2), nn.Flatten()], []),
    ],
)
def test_kinks_are_named(layers: list[nn.Module], found: list[str]) -> None:
    model = nn.Sequential(*layers)
    model.append(nn.Linear(model(torch.rand(2, 20)).shape[1], 3))
    assert kinks(Observation(model, {name: torch.ones_like(p) for name, p in model.named_parameters()}, (20,))) == found
