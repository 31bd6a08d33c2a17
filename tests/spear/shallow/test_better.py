import torch

from unbatch.spear.shallow.recovery import _better
from unbatch.spear.shallow.two_layer import Found


def known(count: int, doubt: float) -> Found:
    return Found.read(torch.eye(count, 9).double(), torch.zeros(count, dtype=torch.int64), torch.full((count,), doubt).double())


def test_as_many_samples_that_are_known_better_are_better_and_more_are_in_any_case() -> None:
    assert _better(known(5, 1e-12), known(5, 1e-9))
    assert not _better(known(5, 1e-9), known(5, 1e-12))
    assert _better(known(6, 1e-6), known(5, 1e-12))
    assert not _better(known(4, 1e-12), known(5, 1e-6))
    assert not _better(known(0, 0.0), known(0, 0.0))
