"""Weak samples in rows that strong ones leave alone: counted, and shown beside the proof."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence.each import directions_by_rows, directions_of
from unbatch.evidence.judge import judge
from unbatch.gradients import capture, per_example
from unbatch.types import Candidate, Observation, Status


@pytest.fixture(scope="module")
def batch() -> tuple[Observation, Tensor, Tensor, Tensor]:
    """Twelve samples of a network of which few neurons fire, sure of most; what each leaves beside the strongest."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(40, 250), nn.ReLU(), nn.Linear(250, 60), nn.ReLU(), nn.Linear(60, 5)).double()
    inputs = torch.randn((12, 40), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[0].bias -= 0.6
        net[4].weight *= 600.0
        labels = net(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    strengths = per_example(net, inputs, labels)["0.bias"].norm(dim=1)
    return Observation(net, capture(net, inputs, labels), (40,)), inputs, labels, strengths / strengths.max()


def test_their_directions_are_counted(batch: tuple[Observation, Tensor, Tensor, Tensor]) -> None:
    seen, inputs, _, strengths = batch
    assert float(strengths.min()) < 1e-15
    assert directions_of(seen) < len(inputs)
    assert directions_by_rows(seen) == len(inputs)


def test_they_left_a_trace_and_are_shown(batch: tuple[Observation, Tensor, Tensor, Tensor]) -> None:
    seen, inputs, labels, strengths = batch
    strong = strengths > 1e-11
    found = judge(seen, Candidate(inputs[strong], labels[strong]))
    assert found.status is Status.PARTIAL
    assert f"{12 - int(strong.sum())} of them left stands in rows that the others leave alone" in found.reason
    beside = judge(seen, Candidate(inputs, labels))
    assert beside.inputs is not None
    shown = beside.inputs if beside.approximate is None else torch.cat([beside.inputs, beside.approximate])
    assert len(shown) > int(strong.sum())


def test_junk_beside_them_is_not_shown(batch: tuple[Observation, Tensor, Tensor, Tensor]) -> None:
    seen, inputs, labels, strengths = batch
    weak = strengths < 1e-11
    junk = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        junk_labels = seen.model(junk).argmax(dim=1)
    found = judge(seen, Candidate(inputs.where(~weak[:, None], junk), labels.where(~weak, junk_labels)))
    shown = [part for part in (found.inputs, found.approximate) if part is not None and found.status is Status.PARTIAL]
    assert shown
    assert float(torch.cdist(torch.cat(shown), inputs).amin(dim=1).max()) < 1e-3


def test_noise_of_one_size_adds_nothing(batch: tuple[Observation, Tensor, Tensor, Tensor]) -> None:
    seen, *_ = batch
    grid = 2.0**-24 * float(seen.update["0.weight"].abs().max())
    rounded = {name: (tensor / grid).round() * grid for name, tensor in seen.update.items()}
    assert directions_by_rows(replace(seen, update=rounded)) <= directions_of(seen)
    noise = {name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)) for name, tensor in seen.update.items()}
    noisy = {name: tensor + 1e-13 * tensor.abs().max() * noise[name] for name, tensor in seen.update.items()}
    assert directions_by_rows(replace(seen, update=noisy)) <= directions_of(seen)


def test_what_half_precision_has_no_numbers_for_is_no_direction() -> None:
    """Seed 1404102: of three samples, of whole numbers, in float16 stored as float64, rows of one length had seven directions."""
    generator = torch.Generator().manual_seed(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 60), nn.ReLU(), nn.Linear(60, 5)).double()
    inputs = torch.randint(-2, 3, (3, 30), generator=generator).double()
    with torch.no_grad():
        net[0].bias -= 0.3
        net[4].weight *= 200.0
        labels = net(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    update = {name: tensor.half().double() for name, tensor in capture(net, inputs, labels).items()}
    assert directions_by_rows(Observation(net, update, (30,))) <= len(inputs)


def test_those_that_rows_show_by_themselves_need_no_others(batch: tuple[Observation, Tensor, Tensor, Tensor]) -> None:
    seen, inputs, labels, strengths = batch
    others = strengths < 1  # the strongest is missing, which is most of the update
    found = judge(seen, Candidate(inputs[others], labels[others]))
    assert found.status is Status.PARTIAL
    assert found.residual is not None
    assert found.residual > 0.9
    assert found.approximate is not None
    assert bool((torch.cdist(found.approximate, inputs).amin(dim=1) < 1e-9).all())
