"""Whether the update tells labels, of samples of which the network is sure."""

import torch
from torch import Tensor, nn

from unbatch.evidence.labels import labels_told
from unbatch.gradients import capture, sensitivities
from unbatch.types import Observation


def sure() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that is sure of the first of its samples, to a trillionth or less, and their labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 10)).double()
    inputs = torch.randn((4, 20), dtype=torch.float64)
    labels = model(inputs).argmax(dim=1).detach()
    top = model(inputs[:1]).topk(2).values[0].detach()
    with torch.no_grad():
        model[2].weight.mul_(36 / (top[0] - top[1]))  # e⁻³⁶ = 2e-16
        model[2].bias.mul_(36 / (top[0] - top[1]))
    labels[1:] = (labels[1:] + 1) % 10
    return model, inputs, labels


def told(model: nn.Module, inputs: Tensor, labels: Tensor) -> bool:
    seen = Observation(model, capture(model, inputs, labels), (20,))
    return labels_told(seen, inputs, labels, explained=False)


def test_the_label_of_a_sample_that_leaves_next_to_nothing_is_told() -> None:
    """Memorized networks: nine of twenty batches were given out without labels for one such sample."""
    model, inputs, labels = sure()
    assert float(sensitivities(model, inputs, "0.weight")[labels[0], 0].norm()) < 1e-13
    assert told(model, inputs, labels)


def test_such_a_sample_makes_up_for_no_other_that_has_two_labels() -> None:
    model, inputs, labels = sure()
    first, other = int(labels[0]), int(labels[1])
    twin = next(c for c in range(10) if c not in (first, other, int(model(inputs[1:2]).argmax())))
    with torch.no_grad():
        model[2].weight[twin] = model[2].weight[other]
    assert not told(model, inputs[:2], labels[:2])
