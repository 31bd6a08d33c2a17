import pytest
import torch

from planted_shallow import plant_shallow
from unbatch.spear.shallow.peeling import always_on, peel, reread
from unbatch.spear.shallow.recovery import certificates
from unbatch.spear.shallow.two_layer import Found, residual_of


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


def test_reading_again_only_improves() -> None:
    planted = plant_shallow(m=300, b=30, seed=1, shift=0.6)
    known = planted.found(torch.arange(30))
    rough = Found(known.samples * (1 + 1e-6), known.labels, 1e-5 * known.samples.norm(dim=1))
    better = reread(planted.problem, rough)
    assert len(better) == 30
    assert float(better.doubt.max()) <= float(rough.doubt.max())
    assert float(planted.error_of(better.samples).mean()) <= float(planted.error_of(rough.samples).mean())


def test_a_certificate_tells_members_from_strangers() -> None:
    planted = plant_shallow(b=10)
    problem, members = planted.problem, planted.found(torch.arange(10))
    assert float(certificates(problem, members).max()) < 1e-11
    wrong_label = Found(members.samples, (members.labels + 1) % 5, members.doubt)
    moved = Found(members.samples * (1 + 1e-4), members.labels, members.doubt)
    mixed = Found((members.samples + members.samples.roll(1, 0)) / 2, members.labels, members.doubt)
    for stranger in (wrong_label, moved, mixed):
        assert float(certificates(problem, stranger).min()) > 1e-6
