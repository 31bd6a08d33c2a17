"""The labels of samples that were found."""

import importlib

import pytest
import torch
from torch import Tensor, nn

from unbatch.gradients import capture, sensitivities
from unbatch.models.mlp import Mlp
from unbatch.spear.candidate import labels_of
from unbatch.types import Observation

candidate = importlib.import_module("unbatch.spear.candidate")
CLASSES, WIDTH = 100, 200


def asked(monkeypatch: pytest.MonkeyPatch, inputs: Tensor, labels: Tensor, columns: Tensor) -> tuple[Tensor, list[int]]:
    """The labels, and how many classes were tried each time."""
    model = Mlp(WIDTH).build(tuple(inputs.shape[1:]), CLASSES, 0).double()
    seen = Observation(model, capture(model, inputs, labels), tuple(inputs.shape[1:]))
    tried = []

    def counted(*args: object) -> Tensor:
        found = candidate_sensitivities(*args)
        tried.append(len(found))
        return found

    candidate_sensitivities = candidate.sensitivities_along
    monkeypatch.setattr(candidate, "sensitivities_along", counted)
    first = model[1]
    assert isinstance(first, nn.Linear)
    z = first(inputs).detach()
    own = sensitivities(model, inputs, "1.weight", classes=labels)[range(len(labels)), range(len(labels))].T
    return labels_of(seen, "1.weight", inputs, own + columns, z, lambda part: part), tried


def test_of_many_classes_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of all 1,000 classes of ImageNet took half of an attack on pictures of 224²."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn((8, 30), generator=generator, dtype=torch.float64), torch.randint(CLASSES, (8,), generator=generator)
    found, tried = asked(monkeypatch, inputs, labels, torch.zeros(WIDTH, 8, dtype=torch.float64))
    assert found.tolist() == labels.tolist()
    assert len(tried) == 1
    assert tried[0] < CLASSES / 2


def test_all_are_tried_where_none_of_these_comes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that noise has moved far away."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn((8, 30), generator=generator, dtype=torch.float64), torch.randint(CLASSES, (8,), generator=generator)
    _, tried = asked(monkeypatch, inputs, labels, 1e-2 * torch.randn((WIDTH, 8), generator=generator, dtype=torch.float64))
    assert tried[-1] == CLASSES
