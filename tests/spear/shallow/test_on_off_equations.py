import pytest
import torch
from torch import Generator, Tensor

from planted_shallow import PlantedPair, plant_shallow
from unbatch.clock import Clock
from unbatch.spear.shallow.on_off_equations import Frame, cone_start, exact, frame_of, pair_map, polish, samples_of, search_pairs
from unbatch.spear.shallow.recovery import recover
from unbatch.spear.shallow.two_layer import Found, Residual, always_on, residual_of


def framed(planted: PlantedPair) -> tuple[Residual, Frame]:
    rest = residual_of(planted.problem, Found.none(planted.problem))
    frame = frame_of(planted.problem, rest, always_on(planted.problem, rest))
    assert frame is not None
    assert frame.sought == planted.problem.rank
    return rest, frame


def true_columns(planted: PlantedPair, frame: Frame) -> Tensor:
    known = planted.problem.columns(planted.samples, planted.labels)
    wanted = torch.cat([known.columns @ frame.coordinates.T, known.errors], dim=1)
    t = torch.linalg.lstsq(torch.cat([frame.mixing, frame.classes]), wanted.T).solution.T
    return torch.nn.functional.normalize(t, dim=1)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_true_columns_obey_one_equation_of_every_pair(shift: float) -> None:
    planted = plant_shallow(shift=shift)
    _, frame = framed(planted)
    t = true_columns(planted, frame)
    assert bool(exact(frame, t, 1e-9).all())
    assert not bool(exact(frame, frame.idle.T, 1e-6).any())
    mixed = torch.nn.functional.normalize(t + t.roll(1, 0), dim=1)
    assert not bool(exact(frame, mixed, 1e-3).any())


def test_polish_makes_a_rough_column_exact() -> None:
    planted = plant_shallow()
    _, frame = framed(planted)
    t = true_columns(planted, frame)
    noise = torch.randn(t.shape, generator=Generator().manual_seed(0), dtype=t.dtype)
    rough = torch.nn.functional.normalize(t + 0.02 * noise / t.shape[1] ** 0.5, dim=1)
    assert not bool(exact(frame, rough, 1e-6).any())
    polished = polish(frame, rough, steps=3)
    assert bool(exact(frame, polished, 1e-8).all())
    assert bool(((polished * t).sum(dim=1).abs() > 1 - 1e-12).all())


def test_a_true_column_is_a_fixed_point_of_the_pair_map() -> None:
    planted = plant_shallow()
    _, frame = framed(planted)
    t = true_columns(planted, frame)
    assert torch.allclose(pair_map(frame.pairs, t, frame.live, steps=5), t, atol=1e-9)


def test_the_cone_of_the_true_signs_leads_near_the_column() -> None:
    planted = plant_shallow(b=12)
    _, frame = framed(planted)
    t = true_columns(planted, frame)
    signals = planted.problem.columns(planted.samples, planted.labels).signals
    signals = (
        signals * ((t @ frame.classes.T) * planted.problem.columns(planted.samples, planted.labels).errors).sum(dim=1, keepdim=True).sign()
    )
    start = cone_start(frame.pairs, (signals.sign() * frame.live).repeat(1, 2), t)
    cosine = (torch.nn.functional.normalize(start, dim=1) * t).sum(dim=1)
    assert float(cosine.median()) > 0.8


@pytest.mark.parametrize("missing", [0, 1])
def test_columns_give_the_samples_even_if_one_is_missing(missing: int) -> None:
    planted = plant_shallow(b=10)
    rest, frame = framed(planted)
    found = samples_of(planted.problem, rest, frame, true_columns(planted, frame)[missing:])
    assert len(found) == 10
    assert float(planted.error_of(found.samples).max()) < 1e-9


def test_the_search_finds_what_has_no_row_of_its_own() -> None:
    planted = plant_shallow(b=20)
    rest, frame = framed(planted)
    t = search_pairs(planted.problem, rest, frame, Generator().manual_seed(0), 1e-6, lambda _: True)
    assert len(t) >= 19
    assert bool(((t @ true_columns(planted, frame).T).abs().amax(dim=1) > 1 - 1e-9).all())


def test_the_search_stops_when_told() -> None:
    planted = plant_shallow(b=20)
    rest, frame = framed(planted)
    assert len(search_pairs(planted.problem, rest, frame, Generator(), 1e-6, lambda _: False)) == 0


def test_recover_says_what_found_what() -> None:
    told: list[str] = []
    solution = recover(plant_shallow(b=20).problem, Generator().manual_seed(0), Clock.of(30.0), lambda message, _: told.append(message))
    assert len(solution.samples) == solution.visible == 20
    assert sum(solution.tools.values()) == 20
    assert "of 20 samples" in told[-1]


def test_what_recover_cannot_certify_it_does_not_give() -> None:
    planted = plant_shallow(m=300, b=30, seed=1, shift=0.6)
    foreign = plant_shallow(m=300, b=30, seed=2, shift=0.6).problem
    mismatched = type(foreign)(**{**vars(planted.problem), "seen": foreign.seen, "outer": foreign.outer})
    solution = recover(mismatched, Generator().manual_seed(0), Clock.of(2.0), lambda *_: None)
    assert len(solution.samples) == 0
