"""Samples that rows show beside a proof: never a mixture that several rows hold alike."""

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence.beside import _shown_by_rows
from unbatch.gradients import capture
from unbatch.types import Observation


def rows_of(classes: int, *, copies: bool, bottleneck: bool = False) -> tuple[Tensor, Tensor]:
    """How far each row's input is from the next sample, relatively, and whether it is shown."""
    torch.manual_seed(0)
    first, last = nn.Linear(40, 20), nn.Linear(20, classes)
    model = nn.Sequential(first, nn.ReLU(), last, *([nn.Linear(classes, 1), nn.Linear(1, classes)] if bottleneck else [])).double()
    with torch.no_grad():
        if copies:
            first.weight[10:], first.bias[10:] = first.weight[:10], first.bias[:10]
            last.weight[:, 10:] = last.weight[:, :10]
        last.weight[:, [0, 1, 2, 10, 11, 12]] *= 1e-9  # rows are asked where some are far shorter than others
    inputs = torch.randn((4, 40), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    update = capture(model, inputs, torch.arange(4) % classes)
    mixtures = update["0.weight"] / update["0.bias"][:, None]
    mixtures = mixtures[mixtures.isfinite().all(dim=1)]
    off = (torch.cdist(mixtures, inputs) / inputs.norm(dim=1)).amin(dim=1)
    return off, _shown_by_rows(Observation(model, update, (40,)), mixtures)


def test_what_two_rows_show_is_shown() -> None:
    off, shown = rows_of(5, copies=False)
    assert bool(shown.any())
    assert float(off[shown].max()) < 1e-9


@pytest.mark.parametrize(("classes", "copies", "bottleneck"), [(5, True, False), (2, False, False), (5, False, True)])
def test_a_mixture_is_not_shown_by_neurons_that_do_the_same(classes: int, copies: bool, bottleneck: bool) -> None:
    """Nets that were widened: neurons were copied, and two rows held each mixture (hostile driver, seeds 1600240 to 1600269)."""
    off, shown = rows_of(classes, copies=copies, bottleneck=bottleneck)
    assert not bool(shown[off > 1e-3].any())
