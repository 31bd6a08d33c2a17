from dataclasses import replace

import pytest
import torch

from planted_shallow import plant_shallow
from unbatch.spear.shallow.joint import solve_jointly
from unbatch.spear.shallow.peeling import batch_of, peel
from unbatch.spear.shallow.recovery import certificates, explained
from unbatch.spear.shallow.two_layer import Found, always_on, residual_of


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (5, 1), (10, 2)])
def test_peels_a_batch_whose_masks_are_alike(classes: int, seed: int) -> None:
    planted = plant_shallow(m=300, b=30, classes=classes, seed=seed, shift=0.6)
    found = peel(planted.problem)
    assert len(found) == 30
    assert float(planted.error_of(found.samples).max()) < 1e-8
    nearest = torch.cdist(found.samples, planted.samples).argmin(dim=1)
    assert torch.equal(found.labels, planted.labels[nearest])


def test_masks_of_half_the_neurons_have_no_row_to_peel() -> None:
    assert len(peel(plant_shallow(b=20).problem)) == 0


def test_finds_the_neurons_that_are_on_for_all() -> None:
    planted = plant_shallow(m=300, b=20, shift=0.5)
    on = always_on(planted.problem, residual_of(planted.problem, Found.none(planted.problem)))
    assert bool(on.any())
    assert torch.equal(on, ~planted.off.any(dim=0))


def test_what_is_left_belongs_to_the_others() -> None:
    planted = plant_shallow(b=8)
    rest = residual_of(planted.problem, planted.found(torch.arange(7)))
    known = planted.problem.columns(planted.samples[7:], planted.labels[7:])
    assert torch.allclose(rest.rows, known.columns.T @ planted.samples[7:], atol=1e-14)
    assert torch.allclose(rest.sums, known.columns[0], atol=1e-14)
    assert torch.allclose(rest.outer, known.errors.T @ known.hidden, atol=1e-14)


def test_reaches_samples_whose_gradient_is_a_millionth() -> None:
    planted = plant_shallow(m=300, b=30, seed=0, shift=0.6, sure=8.0)
    size = planted.problem.columns(planted.samples, planted.labels).errors.norm(dim=1)
    assert float(size.min() / size.max()) < 1e-6
    found = peel(planted.problem)
    assert len(found) == 30
    assert float(planted.error_of(found.samples).max()) < 1e-5


def test_every_sample_measures_its_own_error() -> None:
    planted = plant_shallow(m=300, b=30, seed=0, shift=0.6, sure=8.0)
    found = peel(planted.problem)
    error = planted.error_of(found.samples) * found.samples.norm(dim=1)
    assert bool((error < 100 * found.doubt).all())


def test_a_sample_tells_the_batch_size_only_where_another_agrees() -> None:
    planted = plant_shallow(m=300, b=30, seed=0, shift=0.6)
    untold = replace(planted.problem, batch=1.0)
    assert batch_of(untold) == 30
    halved = {name: getattr(untold, name) / 1.7 for name in ("gradient", "bias_gradient", "outer_gradient", "outer_bias_gradient")}
    assert batch_of(replace(untold, **halved)) == pytest.approx(51, abs=1e-6)
    halved = {name: getattr(untold, name) / 1.71 for name in ("gradient", "bias_gradient", "outer_gradient", "outer_bias_gradient")}
    assert batch_of(replace(untold, **halved)) == pytest.approx(51.3, abs=1e-6)
    assert batch_of(plant_shallow(b=20).problem) is None


def test_a_certificate_tells_members_from_strangers() -> None:
    planted = plant_shallow(b=10)
    problem, members = planted.problem, planted.found(torch.arange(10))
    assert float(certificates(problem, members).max()) < 1e-11
    for stranger in (
        replace(members, labels=(members.labels + 1) % 5),
        replace(members, samples=members.samples * (1 + 1e-4)),
        replace(members, samples=(members.samples + members.samples.roll(1, 0)) / 2),
    ):
        assert float(certificates(problem, stranger).min()) > 1e-6


def test_members_explain_rows_and_strangers_do_not() -> None:
    planted = plant_shallow(m=300, b=30, seed=0, shift=0.6)
    problem, members = planted.problem, planted.found(torch.arange(30))
    assert bool(explained(problem, members).all())
    for stranger in (
        replace(members, labels=(members.labels + 1) % 5),
        replace(members, samples=members.samples * 1.01),
        replace(members, samples=(members.samples + members.samples.roll(1, 0)) / 2),
    ):
        assert not bool(explained(problem, stranger).any())
    doubled = members[torch.tensor([*range(29), 3])]
    assert not bool(explained(problem, doubled)[[3, 29]].any())


def test_a_stranger_among_members_is_told_from_them() -> None:
    planted = plant_shallow(m=300, b=30, seed=0, shift=0.6, sure=8.0)
    members = planted.found(torch.arange(30))
    weakest = int(planted.problem.columns(members.samples, members.labels).errors.norm(dim=1).argmin())
    mixed = members.samples.clone()
    mixed[weakest] = (members.samples[weakest] + members.samples[weakest - 1]) / 2
    told = explained(planted.problem, replace(members, samples=mixed))
    assert not bool(told[weakest])


def test_solving_jointly_takes_errors_back_to_the_rounding_while_samples_are_missing() -> None:
    planted = plant_shallow(m=300, b=30, shift=0.3)
    noise = torch.randn((28, planted.samples.shape[1]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = planted.found(torch.arange(28))
    length = known.samples.norm(dim=1, keepdim=True)
    rough = replace(known, samples=known.samples + 1e-8 * length * noise / noise.shape[1] ** 0.5, doubt=1e-8 * length[:, 0])
    solved = solve_jointly(planted.problem, rough, rough, rounds=8)
    assert float(planted.error_of(solved.samples).max()) < 1e-12
    assert bool((planted.error_of(solved.samples) * length[:, 0] < 100 * solved.doubt).all())
