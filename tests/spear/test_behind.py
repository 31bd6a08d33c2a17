"""The layers behind hold every sample, what is known of them can be taken out of each, and two lead further than one."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor, nn

from unbatch import Observation, capture
from unbatch.attacks.spear import Spear
from unbatch.auditing import invert
from unbatch.clock import Clock, OutOfTime
from unbatch.models.mlp import Mlp
from unbatch.spear.behind import Behind, Stage, stages_behind
from unbatch.spear.layer import Layer, deflate
from unbatch.spear.problem import factored, pose
from unbatch.spear.reflections import reflected
from unbatch.types import Status

INPUTS = 150


@dataclass(eq=False)
class Scene:
    observation: Observation
    layer: Layer
    stages: list[Stage]
    alive: Tensor
    inputs: Tensor
    samples: Tensor
    directions: Tensor
    fed: list[Tensor]


def observed(width: int, batch: int, seed: int) -> tuple[Observation, Tensor]:
    """Gaussian inputs to six layers: nothing about them helps."""
    generator = Generator().manual_seed(seed)
    inputs = torch.randn((batch, INPUTS), generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (batch,), generator=generator)
    model = Mlp(width).build((INPUTS,), 10, seed).double()
    return Observation(model, capture(model, inputs, labels), (INPUTS,)), inputs


def scene(width: int = 100, batch: int = 20, seed: int = 0, clock: Clock | None = None) -> Scene:
    observation, inputs = observed(width, batch, seed)
    clock, generator = clock or Clock.of(60.0), Generator().manual_seed(0)
    call, *readers = observation.layers
    factors, _ = factored(observation, call, generator, Clock.of(60.0))
    problem = pose(observation, call, readers[0], factors, None, generator, Clock.of(60.0))[0]
    parameters = dict(observation.model.named_parameters())
    stages = stages_behind(readers, parameters, observation.update, problem.alive, batch, clock)
    samples = torch.linalg.lstsq((problem.change @ factors.right).T, inputs.T).solution.T
    fed, h = [], inputs
    assert isinstance(observation.model, nn.Sequential)
    with torch.no_grad():
        for module in observation.model:
            h = module(h)
            if isinstance(module, nn.ReLU):
                fed.append(h)
    return Scene(observation, problem.layer, stages, problem.alive, inputs, samples, torch.linalg.inv(samples).T, fed)


def outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """(k,) the share of each vector that is outside of a space."""
    rest = vectors - vectors @ torch.linalg.pinv(basis).T @ basis.T
    return rest.norm(dim=1) / vectors.norm(dim=1)


def test_every_stage_holds_what_the_samples_leave_there() -> None:
    case = scene()
    assert len(case.stages) == 2
    for stage, fed in zip(case.stages, (case.fed[0][:, case.alive], case.fed[1]), strict=True):
        points = fed @ stage.fed
        assert torch.allclose(points @ stage.fed.T, fed, atol=1e-9)
    assert torch.allclose((case.fed[0][:, case.alive] @ case.stages[0].fed @ case.stages[0].made.T).relu(), case.fed[1], atol=1e-9)


def test_known_samples_are_taken_out_of_every_layer() -> None:
    case, known = scene(), 8
    behind = Behind(case.stages)
    for part in (slice(0, 3), slice(3, known)):  # at once or one after the other
        columns = case.directions[part] @ case.layer.left.T * case.layer.length
        behind.take_out(case.layer.pre_activations(case.samples[part]), columns)
    links = behind.links(torch.ones_like(case.layer.bias, dtype=torch.bool))
    assert [link.fed.shape[1] for link in links] == [12, 12]
    for link, fed in zip(links, (case.fed[0][:, case.alive], case.fed[1]), strict=True):
        assert float(outside(fed[known:], link.fed).max()) < 1e-7
        assert float(outside(fed[:known], link.fed).min()) > 1e-2


def test_what_is_no_sample_is_not_taken_out() -> None:
    case = scene()
    behind = Behind(case.stages)
    columns = case.directions[:4] @ case.layer.left.T * case.layer.length
    behind.take_out(case.layer.pre_activations(case.samples[4:8]), columns)
    assert [link.fed.shape[1] for link in behind.links(torch.ones_like(case.layer.bias, dtype=torch.bool))] == [20, 20]


def test_two_layers_lead_further_than_one() -> None:
    case = scene(width=160, batch=50)
    behind = Behind(case.stages)
    links = behind.links(torch.ones_like(case.layer.bias, dtype=torch.bool))
    starts = torch.randn((150, 50), generator=Generator().manual_seed(3), dtype=torch.float64)
    true = case.layer.pre_activations(case.samples) > 0

    def near(asked: int) -> int:
        after = reflected(case.layer, links[:asked], starts, steps=100)
        guessed = case.layer.pre_activations(after / (after @ case.layer.sums)[:, None]) > 0
        return int(((guessed[:, None] == true[None]).double().mean(dim=2).amax(dim=1) > 0.85).sum())

    assert near(2) > 2 * near(1)


def test_known_samples_make_the_others_easier() -> None:
    case, known = scene(width=160, batch=76), 16
    behind = Behind(case.stages)
    columns = case.directions[:known] @ case.layer.left.T * case.layer.length
    rest, rows, _ = deflate(case.layer, case.samples[:known], case.directions[:known])
    starts = torch.randn((120, 60), generator=Generator().manual_seed(3), dtype=torch.float64)
    true = case.layer.pre_activations(case.samples[known:])[:, rows] > 0

    def near() -> int:
        after = reflected(rest, behind.links(rows), starts, steps=100)
        guessed = rest.pre_activations(after / (after @ rest.sums)[:, None]) > 0
        return int(((guessed[:, None] == true[None]).double().mean(dim=2).amax(dim=1) > 0.85).sum())

    before = near()
    behind.take_out(case.layer.pre_activations(case.samples[:known]), columns)
    assert near() > 2 * before


def test_vectors_without_any_structure_are_found_whole() -> None:
    observation, inputs = observed(width=200, batch=80, seed=1)
    found = invert(observation, Spear(seconds=60.0), seed=0)
    assert found.status is Status.RECONSTRUCTED
    assert found.inputs is not None
    assert float(torch.cdist(inputs, found.inputs).amin(dim=1).max()) < 1e-6


def test_the_clock_ends_it() -> None:
    with pytest.raises(OutOfTime):
        scene(clock=Clock(0.0, 0.0))
