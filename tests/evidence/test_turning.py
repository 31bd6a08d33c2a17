"""Columns around samples, by way of what the first layer makes of them and by the whole model."""

import importlib

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence.turning import Around
from unbatch.gradients import capture
from unbatch.types import Observation

turning = importlib.import_module("unbatch.evidence.turning")


class Beside(nn.Module):
    """The input goes past the first layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(100, 80), nn.Linear(180, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.cat([self.first(inputs.flatten(1)).relu(), inputs.flatten(1)], dim=1))


def around(model: nn.Module) -> Around:
    """Of six pictures, of which one is black."""
    pictures = torch.randn((6, 4, 25), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pictures[0], labels = 0.0, torch.arange(6) % 3
    return Around(Observation(model, capture(model, pictures, labels), (4, 25)), pictures, labels)


def plain(*, bias: bool = True) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 80, bias=bias), nn.ReLU(), nn.Linear(80, 10)).double()


@pytest.mark.parametrize("bias", [False, True])
def test_samples_are_moved_by_what_the_first_layer_makes_of_them(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    """Making eight gigabyte-sized batches of 720² pictures took most of the judge's time."""
    quick = around(plain(bias=bias))
    monkeypatch.setattr(turning, "columns_of", lambda *_: pytest.fail("the model was run on pictures that were moved"))
    moved = quick.moved(0.1)
    monkeypatch.undo()
    grown = quick.grown(0.01)
    monkeypatch.setattr(turning, "tail_of", lambda *_: None)
    slow = around(plain(bias=bias))
    ever, longer = slow.moved(0.1), slow.grown(0.01)
    assert moved is not None
    assert ever is not None
    assert grown is not None
    assert longer is not None
    monkeypatch.setattr(turning, "MOST", 1)
    one_by_one = around(plain(bias=bias)).moved(0.1)
    assert one_by_one is not None
    for here, there, again in zip(moved, ever, one_by_one, strict=True):
        assert torch.allclose(torch.stack(here), torch.stack(there), rtol=1e-9, atol=1e-15)
        assert torch.allclose(torch.stack(again), torch.stack(there), rtol=1e-9, atol=1e-15)
    assert torch.allclose(grown, longer, rtol=1e-9, atol=1e-15)


def test_a_model_that_looks_past_the_layer_is_run_whole() -> None:
    """What moves beside the layer moves the column, too."""
    torch.manual_seed(2)
    seen = around(Beside().double())
    moved = seen.moved(0.1)
    assert moved is not None
    assert seen.columns is not None
    way = next(seen._ways())
    lengths = 0.1 * seen.flat.norm(dim=1)[:, None, None]
    expected = Around(seen.observation, seen.inputs + lengths * way, seen.labels).columns
    assert expected is not None
    assert torch.allclose(moved[0][0], expected, rtol=1e-9, atol=1e-15)
