"""CI-Net: a network that draws the batch, its restarts in one pass, its best pictures by its own objective."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from unbatch.attacks.ci_net import CINet
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.inversion.generator import PictureGenerator, width_for
from unbatch.schema import Schema
from unbatch.types import Observation, Status

SCHEMA = Schema("image", (0.5,), (0.25,))
QUICK = CINet(steps=80, width=6, learning_rate=1e-2)


def network(activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), activation(), nn.Flatten(), nn.Linear(16 * 144, 6)).train()


def pictures(count: int) -> torch.Tensor:
    """Smooth blobs from 0 to 1, as a network sees them."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
    raw = torch.stack([torch.exp(-4 * ((x - c) ** 2 + (y + c) ** 2)) for c in torch.linspace(-0.5, 0.5, count)])[:, None]
    return SCHEMA.to_network(raw)


def seen(count: int = 2, model: nn.Module | None = None) -> Observation:
    model = model or network()
    return Observation(model, capture(model, pictures(count), torch.arange(count)), (1, 12, 12), schema=SCHEMA, batch_size=count)


def test_pictures_come_out_through_batch_statistics_and_buffers_stay() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = QUICK(seen(2, model))
    truth, guess = (SCHEMA.to_raw(t) for t in (pictures(2), found.inputs))
    grey = (truth - 0.5).square().mean()
    assert (truth - guess).square().mean() < grey / 4
    assert 0 <= float(guess.min()) <= float(guess.max()) <= 1
    assert found.labels.tolist() == [0, 1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_pictures_returned_are_the_best_by_its_own_objective() -> None:
    found = replace(QUICK, steps=15, restarts=2, learning_rate=0.05)(seen())
    assert found.stats["restarts"] == 2
    assert found.stats["distance"] == pytest.approx(found.stats["objective"], rel=1e-4)


def test_restarts_side_by_side_draw_what_each_draws_alone() -> None:
    draws = PictureGenerator((3, 12, 10), 2, 4, torch.Generator().manual_seed(0), torch.float64)
    weights = draws.start(3, torch.Generator().manual_seed(1))
    left = dict(draws._left)
    together = draws(weights)
    assert together.shape == (3, 2, 3, 12, 10)
    for i in range(3):
        draws._left = {name: tensor[i : i + 1] for name, tensor in left.items()}
        assert torch.allclose(draws({name: tensor[i : i + 1] for name, tensor in weights.items()})[0], together[i], atol=1e-10)


def test_filters_are_divided_by_their_largest_singular_value() -> None:
    draws = PictureGenerator((1, 4, 4), 1, 6, torch.Generator().manual_seed(0), torch.float64)
    filters = draws.start(1, torch.Generator().manual_seed(1))["block0.0.weight"]
    for _ in range(200):
        normalized = draws._normalized("block0.0", filters)
    assert float(torch.linalg.matrix_norm(normalized[0].flatten(1), ord=2)) == pytest.approx(1, abs=1e-3)


def test_widths_are_the_releases_and_count_its_parameters() -> None:
    assert [width_for(b, 32, 32) for b in (16, 64, 128, 256)] == [32, 64, 128, 128]
    assert [width_for(b, 256, 256) for b in (4, 24)] == [128, 512]
    draws = PictureGenerator((3, 32, 32), 1, 32, torch.Generator().manual_seed(0), torch.float32)
    assert sum(math.prod(t.shape[1:]) for t in draws.start(1, torch.Generator()).values()) == pytest.approx(1.4e5, rel=0.05)


def test_budget_and_what_it_cannot_draw() -> None:
    assert replace(QUICK, steps=10**6, seconds=0.5)(seen()).stats["ended"] == "time"
    flat = nn.Sequential(nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 3))
    vectors = Observation(flat, capture(flat, torch.rand(2, 8), torch.arange(2)), (8,), batch_size=2)
    found = QUICK(vectors)
    assert found.status is Status.NOT_APPLICABLE
    assert "made for image" in found.reason
    assert "batch_size=" in QUICK(replace(seen(), batch_size=None)).reason
    with pytest.raises(Misuse, match="at least one channel"):
        CINet(width=0)
