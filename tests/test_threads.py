"""How many threads compute."""

import pytest
import torch
from torch import Generator, nn

import unbatch
from unbatch.contracts import Attack
from unbatch.threads import SMALL, enough, threads
from unbatch.types import Candidate, Observation, Progress


def test_a_small_update_gets_one_thread_and_a_large_one_all() -> None:
    with threads(2):
        assert (enough(SMALL - 1), enough(SMALL)) == (1, 2)


def test_they_are_put_back_whatever_happens() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        1 / (torch.get_num_threads() - before - 1)
    assert torch.get_num_threads() == before


def test_an_attack_on_a_small_update_runs_in_one_thread() -> None:
    seen: list[int] = []

    class Watching(Attack):
        """An attack that notes how many threads it has."""

        name = "watching"

        def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
            """Nothing."""
            seen.append(torch.get_num_threads())
            return Candidate(reason="nothing")

    model = nn.Linear(4, 3)
    update = unbatch.capture(model, torch.rand(1, 4), torch.tensor([0]))
    with threads(2):
        Watching()(Observation(model, update, (4,)))
        assert (seen, torch.get_num_threads()) == ([1], 2)
