"""What an accuracy leaves open is said where a reader would take it for told."""

import torch
from torch import nn

from unbatch import Observation, capture
from unbatch.evidence.judge import judge
from unbatch.evidence.known_to import known_to
from unbatch.types import Candidate, Status


def test_beside_one_large_number_it_is_said_how_far_another_may_be_off() -> None:
    generator = torch.Generator().manual_seed(987001)
    x = (torch.rand((4, 14), generator=generator) < 0.5).float()
    x[:, 0] = 1e6 * (1 + torch.rand(4, generator=generator))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(14, 120), nn.ReLU(), nn.Linear(120, 120), nn.ReLU(), nn.Linear(120, 3))
    with torch.no_grad():
        model[0].weight[:, 0] *= 1e-6
        model[0].weight[:, 1] = 0.0  # nothing in the update but its own gradient tells this one
    y = torch.tensor([0, 1, 2, 0])
    seen = Observation(model, capture(model, x, y), (14,), batch_size=4)
    found = judge(seen, Candidate(x.double(), y))
    assert found.status is Status.RECONSTRUCTED
    assert "of any single number of a sample" in found.reason


def test_a_dead_pixel_is_no_reason() -> None:
    picture = torch.rand((3, 50), generator=torch.Generator().manual_seed(0))
    picture[:, :20] = 1e-9 * torch.rand((3, 20))
    assert known_to(picture, torch.full((3,), 1e-7)) == ""


def test_of_a_rough_sample_both_are_said() -> None:
    assert known_to(torch.tensor([[1.0, 1.0]]), torch.tensor([0.1])).endswith(
        "bounds them to 1e-01 of their size and may hide up to 1e-01 of any single number of a sample"
    )
