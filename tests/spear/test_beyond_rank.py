"""More samples than the first gradient has dimensions, by walks and then as ever."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from unbatch import capture
from unbatch.attacks.spear import Spear
from unbatch.clock import Clock, OutOfTime
from unbatch.errors import Inapplicable
from unbatch.models.mlp import Mlp
from unbatch.spear.beyond_rank import Some, some_by_walks, with_others, without
from unbatch.spear.problem import factored
from unbatch.types import Candidate, Observation, silent

SAMPLES, RANK, INPUTS, CLASSES = 30, 26, 40, 7


def scene(scale: float = 1.0) -> tuple[Observation, Tensor, Tensor]:
    """30 inputs of rank 26; ``scale`` is what the client multiplied its update by."""
    generator = Generator().manual_seed(3)
    x = torch.rand((SAMPLES, RANK), generator=generator, dtype=torch.float64) @ torch.randn(
        (RANK, INPUTS), generator=generator, dtype=torch.float64
    )
    labels, model = torch.arange(SAMPLES) % CLASSES, Mlp(width=150, depth=4).build((INPUTS,), CLASSES).double()
    update = {name: scale * tensor for name, tensor in capture(model, x, labels).items()}
    return Observation(model, update, (INPUTS,)), x, labels


def again(rest: Observation) -> Candidate:
    return Spear().reconstruct(rest, Generator().manual_seed(0), silent)


def apart(observation: Observation) -> Some:
    generator, clock = Generator().manual_seed(0), Clock.of(60.0)
    call = observation.layers[0]
    factors, _ = factored(observation, call, generator, clock)
    assert factors.rank == RANK
    return some_by_walks(observation, call, factors, SAMPLES, generator, clock, silent)


def inverted(observation: Observation, others: Callable[[Observation], Candidate] = again) -> Candidate:
    return with_others(observation, apart(observation), SAMPLES, RANK, others)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_all_samples_are_found_with_their_labels(scale: float) -> None:
    observation, x, labels = scene(scale)
    found = inverted(observation)
    assert found.inputs is not None
    assert found.labels is not None
    distance, partner = (found.inputs[:, None] - x).norm(dim=2).min(dim=1)
    assert sorted(partner.tolist()) == list(range(SAMPLES))
    assert distance.max() < 1e-8
    assert torch.equal(found.labels, labels[partner])


def test_what_is_found_apart_stays_where_the_others_are_not_found() -> None:
    def fails(_: Observation) -> Candidate:
        raise Inapplicable("nothing is left")

    def late(_: Observation) -> Candidate:
        raise OutOfTime

    observation, x, _ = scene()
    for others in (fails, late):
        found = inverted(observation, others)
        assert found.exhausted
        assert "30 samples whose inputs depend on each other, being of rank 26" in found.reason
        assert found.inputs is not None
        assert 0 < len(found.inputs) < SAMPLES
        assert (found.inputs[:, None] - x).norm(dim=2).amin(dim=1).max() < 1e-8


def test_layers_that_do_not_tell_the_samples_apart_are_said() -> None:
    observation, _, _ = scene()
    flat = {name: torch.zeros_like(tensor) if name.startswith("3.") else tensor for name, tensor in observation.update.items()}
    found = inverted(Observation(observation.model, flat, (INPUTS,)))
    assert found.samples is None
    assert "the layers behind did not tell them apart" in found.reason


def test_what_is_taken_out_leaves_the_update_of_the_others() -> None:
    observation, x, labels = scene(0.3)
    some = slice(0, 4)
    rest = without(observation, Some(x[some], labels[some], torch.full((4,), 0.3 / SAMPLES, dtype=torch.float64)))
    others = capture(observation.model, x[4:], labels[4:])
    for name, tensor in others.items():
        assert torch.allclose(rest.update[name], 0.3 * (SAMPLES - 4) / SAMPLES * tensor, atol=1e-12)


def test_a_weight_of_one_over_a_whole_number_is_so_exactly() -> None:
    inverse = torch.tensor([600 * (1 + 1e-9), 600.3], dtype=torch.float64)
    some = Some.counted(torch.zeros((2, 3), dtype=torch.float64), torch.tensor([0, 1]), inverse)
    assert some.weights.tolist() == [1 / 600, 1 / 600.3]
