import pytest
import torch
from torch import Generator

from planted_shallow import PlantedPair, plant_shallow
from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.spear.shallow.columns import read_columns
from unbatch.spear.shallow.on_off_equations import frame_of, samples_of, unknowns_of
from unbatch.spear.shallow.two_layer import Found, residual_of


def read(planted: PlantedPair, found: Found) -> Found | None:
    return read_columns(planted.problem, found, Generator().manual_seed(0), UNLIMITED, lambda _: True)


def rough(planted: PlantedPair, chosen: torch.Tensor, error: float) -> Found:
    """The chosen samples, each off by that share of its length."""
    samples = planted.samples[chosen]
    noise = torch.randn(samples.shape, generator=Generator().manual_seed(1), dtype=torch.float64)
    samples = samples + error * samples.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)
    return Found.read(samples, planted.labels[chosen], error * samples.norm(dim=1))


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_rough_samples_become_exact_and_the_missing_few_are_found(missing: int) -> None:
    planted = plant_shallow(b=20, shift=0.3)
    found = read(planted, rough(planted, torch.arange(missing, 20), 1e-4))
    assert found is not None
    assert len(found) == 20
    assert float(planted.error_of(found.samples).max()) < 1e-11
    nearest = torch.cdist(found.samples, planted.samples).argmin(dim=1)
    assert torch.equal(found.labels, planted.labels[nearest])
    assert bool((planted.error_of(found.samples) * found.samples.norm(dim=1) <= found.doubt).all())


def test_what_is_no_sample_does_no_harm() -> None:
    planted = plant_shallow(b=20)
    wrong = rough(planted, torch.arange(2), 0.5)
    found = read(planted, rough(planted, torch.arange(20), 1e-5) + wrong)
    assert found is not None
    assert len(found) == 20
    assert float(planted.error_of(found.samples).max()) < 1e-11


def test_too_few_known_samples_are_not_completed() -> None:
    planted = plant_shallow(b=40)
    assert read(planted, rough(planted, torch.arange(20), 1e-5)) is None
    assert read(planted, Found.none(planted.problem)) is None


def test_of_two_classes_the_scale_tells_the_label() -> None:
    """Both entries of e are as large as each other: which is the label's is the sign of the column, which the bias gradient has."""
    planted = plant_shallow(b=10, classes=2)
    found = read(planted, rough(planted, torch.arange(10), 1e-5))
    assert found is not None
    assert torch.equal(found.labels, planted.labels)
    rest = residual_of(planted.problem, Found.none(planted.problem))
    frame = frame_of(planted.problem, rest, torch.zeros_like(rest.sums, dtype=torch.bool))
    assert frame is not None
    true = planted.problem.columns(planted.samples, planted.labels)
    by_pairs = samples_of(planted.problem, rest, frame, -unknowns_of(frame, true.columns, true.signals))
    assert torch.equal(by_pairs.labels, planted.labels)


def test_reading_ends_with_the_time() -> None:
    planted = plant_shallow(b=20)
    with pytest.raises(OutOfTime):
        read_columns(planted.problem, rough(planted, torch.arange(20), 1e-5), Generator(), Clock(end=0.0), lambda _: True)
