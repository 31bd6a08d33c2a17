"""Of a pruned gradient each column tells of the samples what its own equations do, however they are added up."""

import pytest
import torch

from unbatch.evidence.accuracy import SAFETY
from unbatch.evidence.whole import HELD, _under_pruning


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_errors_are_those_of_each_columns_own_equations(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn((40, 5), generator=generator, dtype=torch.float64).relu()
    inputs = torch.randn((5, 30), generator=generator, dtype=torch.float64)
    noise = 1e-9 * torch.randn((40, 30), generator=generator, dtype=torch.float64)
    sent = torch.rand((40, 30), generator=generator) < share
    sent[:, 0] = False
    sent[:, 1] = True
    observed = (columns @ inputs + noise) * sent

    total = torch.zeros(5, dtype=torch.float64)
    for number in range(30):
        rows = observed[:, number] != 0
        here = columns[rows]
        if len(here) >= 5 and torch.linalg.eigvalsh(here.T @ here / columns.norm(dim=0) / columns.norm(dim=0)[:, None])[0] > HELD:
            rest = observed[rows, number] - here @ inputs[:, number]
            total += SAFETY**2 * rest.square().sum() / max(1, len(here) - 5) * torch.linalg.inv(here.T @ here).diagonal()
        else:
            total += observed[observed != 0].abs().min() ** 2 * torch.linalg.pinv(columns).square().sum(dim=1) * len(columns)

    assert torch.allclose(_under_pruning(observed, columns, inputs), total.sqrt() / inputs.norm(dim=1), rtol=1e-4)
