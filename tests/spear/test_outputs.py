"""Samples are found from the outputs' side, where columns are known but for the neurons that are on; and only where they are known."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor

from unbatch import Observation, capture
from unbatch.clock import Clock, OutOfTime
from unbatch.models.mlp import Mlp
from unbatch.spear.behind import stages_behind
from unbatch.spear.layer import Layer, deflate
from unbatch.spear.led import Led, Sources
from unbatch.spear.outputs import Known, Outputs, known_slopes
from unbatch.spear.problem import factored, pose

LAST = "11.weight"


@dataclass(eq=False)
class Scene:
    observation: Observation
    layer: Layer
    known: Known
    samples: Tensor
    directions: Tensor


def observed(batch: int, sure: float = 1.0) -> Observation:
    """Gaussian inputs to six layers of 400; scores are so many times as large as those of a new network."""
    generator = Generator().manual_seed(0)
    inputs = torch.randn((batch, 150), generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (batch,), generator=generator)
    model = Mlp(400).build((150,), 10, 0).double()
    with torch.no_grad():
        model.get_parameter(LAST).mul_(sure)
    return Observation(model, capture(model, inputs, labels), (150,))


def scene(batch: int = 40) -> Scene:
    observation, clock, generator = observed(batch), Clock.of(60.0), Generator().manual_seed(0)
    call, *readers = observation.layers
    factors, _ = factored(observation, call, generator, clock)
    problem = pose(observation, call, readers[0], factors, None, generator, clock)[0]
    parameters = dict(observation.model.named_parameters())
    stages = stages_behind(readers[:-1], parameters, observation.update, problem.alive, batch, clock, len(readers) - 1)
    slopes = known_slopes(observation, LAST, batch)
    assert len(stages) == 4
    assert slopes is not None
    inputs = torch.randn((batch, 150), generator=Generator().manual_seed(0), dtype=torch.float64)
    samples = torch.linalg.lstsq((problem.change @ factors.right).T, inputs.T).solution.T
    return Scene(observation, problem.layer, Known(stages, slopes), samples, torch.linalg.inv(samples).T)


def found_in(case: Scene, known: int, clock: Clock | None = None) -> tuple[Tensor, Tensor, Outputs]:
    """Which samples were found from the outputs' side once the first ones are known, how far off, and who found them."""
    outputs = Outputs(case.layer, lambda _: case.known)
    rest, rows, basis = case.layer, torch.ones_like(case.layer.bias, dtype=torch.bool), torch.eye(case.layer.batch, dtype=torch.float64)
    if known:
        rest, rows, basis = deflate(case.layer, case.samples[:known], case.directions[:known])
    clock = clock or Clock.of(60.0)
    assert outputs.lead(clock)
    directions, off = outputs.find(rest, rows, case.samples[:known], case.directions[:known], Generator().manual_seed(1), clock)
    assert bool((off.sum(dim=1) > rest.batch).all())
    whole = torch.nn.functional.normalize(directions @ basis.T, dim=1)
    cosines = (whole @ torch.nn.functional.normalize(case.directions, dim=1).T).abs()
    return cosines.argmax(dim=1), 1 - cosines.amax(dim=1), outputs


def test_samples_are_found_exactly() -> None:
    which, apart, outputs = found_in(scene(), 0)
    assert len(which.unique()) >= 8
    assert float(apart.max()) < 1e-12
    assert outputs.pays


def test_what_is_known_is_taken_out() -> None:
    which, apart, _ = found_in(scene(), 8)
    assert len(which.unique()) >= 5
    assert int(which.min()) >= 8
    assert float(apart.max()) < 1e-12


def test_it_is_not_asked_again_where_it_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbatch.spear.outputs.NEAR", 0.0)
    which, _, outputs = found_in(scene(), 0)
    assert not len(which)
    assert not outputs.lead(Clock.of(1.0))


def test_it_is_asked_once_walks_found_little() -> None:
    case = scene()
    led = Led(case.layer, Sources(known=lambda _: case.known))
    assert not led.by_outputs(Clock.of(1.0))
    led.share = 0.01
    assert led.by_outputs(Clock.of(1.0))


def test_scores_that_tell_samples_apart_leave_nothing_known() -> None:
    assert known_slopes(observed(24, sure=1000.0), LAST, 24) is None
    assert known_slopes(observed(24), "9.weight", 24) is None


def test_only_labels_that_may_be_there_are_asked() -> None:
    observation = observed(24)
    for batch, labels in ((24, 24), (3, 3)):
        seen = observed(batch)
        slopes = known_slopes(seen, LAST, batch)
        true = torch.randint(10, (labels,), generator=_after_inputs(batch)).unique()
        assert slopes is not None
        weight = observation.model.get_parameter(LAST).detach()
        assert len(slopes) == len(true)
        assert torch.allclose(slopes, torch.full((len(true), 10), 0.1, dtype=torch.float64) @ weight - weight[true], rtol=0.1, atol=0.01)


def _after_inputs(batch: int) -> Generator:
    generator = Generator().manual_seed(0)
    torch.randn((batch, 150), generator=generator, dtype=torch.float64)
    return generator


def test_the_clock_ends_it() -> None:
    with pytest.raises(OutOfTime):
        found_in(scene(), 0, Clock(0.0, 0.0))
