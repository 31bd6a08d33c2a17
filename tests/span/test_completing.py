"""What is missing of a batch beside known samples: they are taken out, and what is left is solved for."""

import torch
from torch import Generator, Tensor, nn

from unbatch.clock import Clock
from unbatch.gradients import capture
from unbatch.span.inversion import complete
from unbatch.types import Candidate, Observation

SECRET = torch.rand((12, 40), generator=Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.arange(12) % 5


def seen() -> Observation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5))
    model = nn.Sequential(*layers).double()
    return Observation(model, capture(model, SECRET, LABELS), (40,))


def found(known: Candidate) -> Tensor:
    made = complete(seen(), known, Generator().manual_seed(0), None, Clock.of(30.0)).inputs
    assert made is not None
    return made


def off(samples: Tensor) -> float:
    return float((samples[:, None] - SECRET).norm(dim=2).amin(dim=1).max())


def test_the_samples_beside_known_ones_are_found() -> None:
    made = found(Candidate(SECRET[:9], LABELS[:9]))
    assert len(made) == 12
    assert off(made) < 1e-9


def test_what_is_no_sample_is_dropped() -> None:
    mixture = SECRET[:2].mean(dim=0, keepdim=True)
    made = found(Candidate(torch.cat([SECRET[2:9], mixture]), torch.cat([LABELS[2:9], LABELS[:1]])))
    assert len(made) == 12
    assert off(made) < 1e-9


def test_nothing_known_is_the_whole_search() -> None:
    assert off(found(Candidate())) < 1e-9
