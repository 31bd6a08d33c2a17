"""What every label restorer must keep, whichever there are."""

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.contracts import LabelRestorer
from unbatch.gradients import capture
from unbatch.testing import check_restorer
from unbatch.types import Observation

RESTORERS = plugins.names("labels")
LABELS = torch.tensor([0, 1, 1, 3])


def built(name: str) -> LabelRestorer:
    return plugins.load("labels", name)()


def network(bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 40), activation(), nn.Linear(40, 8, bias=bias))


def observe(model: nn.Module, dtype: torch.dtype = torch.float64, loss: str = "cross_entropy") -> Observation:
    inputs = torch.randn((4, 3, 4, 4), generator=torch.Generator().manual_seed(5), dtype=dtype)
    model = model.to(dtype)
    return Observation(model, capture(model, inputs, LABELS), (3, 4, 4), batch_size=4, loss=loss)


@pytest.mark.parametrize("name", RESTORERS)
def test_keeps_the_contract(name: str) -> None:
    check_restorer(built(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RESTORERS)
def test_finds_the_classes_that_are_there(name: str, dtype: torch.dtype) -> None:
    found = built(name)(observe(network(), dtype))
    assert found.applicable, found.reason
    assert found.presence is not None
    assert found.presence.nonzero()[:, 0].tolist() == [0, 1, 3]
    if found.counts is None:
        assert found.reason
    else:
        assert found.counts.dtype == torch.int64
        assert int(found.counts.sum()) == 4


def doubled(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return 2 * torch.nn.functional.cross_entropy(outputs, labels)


@pytest.mark.parametrize("name", RESTORERS)
@pytest.mark.parametrize(
    ("model", "loss", "why"),
    [
        (nn.Sequential(*network(), nn.Dropout(0.5)), "cross_entropy", "Dropout"),
        (network(), doubled, "loss"),
        (network(), "nll", "loss"),
        (nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten()), "cross_entropy", "no Linear"),
        (nn.Sequential(*network(), nn.ReLU()), "cross_entropy", "loss"),
    ],
)
def test_says_why_it_does_not_apply(name: str, model: nn.Module, loss: str, why: str) -> None:
    model = model.double()
    zeros = {key: torch.ones_like(parameter) for key, parameter in model.named_parameters()}
    found = built(name)(Observation(model, zeros, (3, 4, 4), batch_size=4, loss=loss))
    assert not found.applicable
    assert found.counts is None
    assert why in found.reason


@pytest.mark.parametrize("name", RESTORERS)
def test_accepts_log_probabilities(name: str) -> None:
    model = nn.Sequential(*network(), nn.LogSoftmax(dim=1)).double()
    plain = observe(network())
    found = built(name)(Observation(model, dict(plain.update), (3, 4, 4), batch_size=4, loss="nll"))
    assert found.presence is not None
    assert found.presence.nonzero()[:, 0].tolist() == [0, 1, 3]
