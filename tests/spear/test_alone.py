"""Samples that have a neuron to themselves are read off its row, whatever else is in the update."""

from dataclasses import replace

import torch
from torch import nn

from unbatch.evidence.beside import _shown_by_rows
from unbatch.protocols.fedsgd import FedSgd
from unbatch.spear.alone import merged, those_alone
from unbatch.spear.entrance import layer_to_invert
from unbatch.types import Batch, Candidate, Observation


def seldom_firing(rarely: float = 1.2, sure: float = 300.0) -> tuple[Observation, Batch]:
    """A network of which few neurons fire for a sample, and that is sure of what it says; and six samples."""
    torch.manual_seed(0)
    first, last = nn.Linear(40, 120), nn.Linear(30, 5)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(120, 30), nn.ReLU(), last).double()
    with torch.no_grad():
        first.bias.fill_(-rarely * 40**0.5 * float(first.weight.std()))
        last.weight.mul_(sure)
    inputs = torch.randn((6, 40), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(inputs, model(inputs).argmax(dim=1))
    return FedSgd().observe(model, batch), batch


def found(observation: Observation, known: Candidate | None = None) -> Candidate:
    call = layer_to_invert(observation, None)
    assert not isinstance(call, str)
    return merged(Candidate() if known is None else known, those_alone(observation, call[0]), observation.batch_size)


def errors(batch: Batch, inputs: torch.Tensor) -> torch.Tensor:
    return torch.cdist(inputs, batch.inputs, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)


def test_what_rows_show_are_samples_with_their_labels_to_the_last_digit() -> None:
    observation, batch = seldom_firing()
    made = found(observation)
    assert made.inputs is not None
    assert made.labels is not None
    assert len(made.inputs) >= 4
    assert bool((errors(batch, made.inputs) < 1e-12).all())
    nearest = torch.cdist(made.inputs, batch.inputs).argmin(dim=1)
    assert torch.equal(made.labels, batch.labels[nearest])


def test_the_batch_size_is_told_by_rows_that_agree() -> None:
    observation, _ = seldom_firing()
    told, untold = found(replace(observation, batch_size=6)), found(observation)
    assert told.inputs is not None
    assert untold.inputs is not None
    assert torch.equal(told.inputs, untold.inputs)


def test_rows_of_several_samples_show_none() -> None:
    observation, batch = seldom_firing(rarely=-1.0)  # every neuron fires for nearly all
    made = found(observation)
    assert made.inputs is None or bool((errors(batch, made.inputs) < 1e-6).all())


def test_what_is_known_stays_and_what_is_rough_is_replaced() -> None:
    observation, batch = seldom_firing()
    rough = Candidate(torch.cat([batch.inputs[:1], 1.01 * batch.inputs[1:]]), batch.labels)
    made = found(observation, rough)
    assert made.inputs is not None
    assert len(made.inputs) == 6
    assert torch.equal(made.inputs[0], batch.inputs[0])
    assert int((errors(batch, made.inputs) < 1e-12).sum()) >= 4


def test_more_samples_than_were_told_are_not_proposed() -> None:
    observation, _ = seldom_firing()
    junk = Candidate(torch.randn((2, 40), generator=torch.Generator().manual_seed(2), dtype=torch.float64), torch.tensor([0, 1]))
    assert found(replace(observation, batch_size=2), junk) is junk


def test_copies_of_a_neuron_show_no_sample() -> None:
    """Rows of neurons that were doubled, as nets are widened, are the same mixture twice (hostile driver, seeds 1600240 to 1600269)."""
    torch.manual_seed(0)
    first, last = nn.Linear(40, 20), nn.Linear(20, 5)
    model = nn.Sequential(first, nn.ReLU(), last).double()
    with torch.no_grad():
        first.weight[10:], first.bias[10:] = first.weight[:10], first.bias[:10]
        last.weight[:, [0, 1, 2]] *= 1e-9
        last.weight[:, 10:] = last.weight[:, :10]
    inputs = torch.randn((12, 40), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(inputs, torch.arange(12) % 5)
    observation = FedSgd().observe(model, batch)
    made = found(observation)
    assert made.inputs is None or not len(made.inputs) or bool((errors(batch, made.inputs) < 1e-6).all())
    mixtures = observation.update["0.weight"] / observation.update["0.bias"][:, None]
    mixed = mixtures[errors(batch, mixtures) > 1e-2]
    assert len(mixed)
    assert not bool(_shown_by_rows(observation, mixed).any())
