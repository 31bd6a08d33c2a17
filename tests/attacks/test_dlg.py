"""DLG: known answers on small smooth networks, and a sentence wherever it cannot work."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.attacks.dlg import PRESETS, Dlg
from unbatch.gradients import capture
from unbatch.protocols.fedavg import FedAvg
from unbatch.types import Batch, Observation, Reconstruction, Status

SHAPE = (1, 4, 4)


def network(activation: type[nn.Module] = nn.Sigmoid, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), activation(), nn.Flatten(), nn.Linear(96, 5)).double()


def dense() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Sigmoid(), nn.Linear(24, 5)).double()


def secret(count: int = 1) -> Batch:
    inputs = torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return Batch(inputs, torch.arange(count) + 1)


def seen(batch: Batch, model: nn.Module | None = None) -> Observation:
    model = model or network()
    return Observation(model, capture(model, batch.inputs, batch.labels), SHAPE, batch_size=len(batch))


def farthest(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest distance of a true sample to its nearest guess."""
    return float(torch.cdist(truth.flatten(1), found.flatten(1)).amin(dim=1).max())


def exactly(found: Reconstruction, batch: Batch, most: float) -> None:
    """The replay is exact and the samples are the true ones. Behind a convolution no evidence yet bounds how far they could be moved."""
    assert found.status in (Status.RECONSTRUCTED, Status.UNPROVEN), found.reason
    assert found.residual is not None
    assert found.residual < 1e-9
    assert farthest(found.inputs, batch.inputs) < most


@pytest.mark.parametrize("labels", ["searched", "restored"])
@pytest.mark.parametrize("model", [network(), dense()], ids=["convolutional", "dense"])
def test_one_picture_is_found_exactly(model: nn.Module, labels: str) -> None:
    batch = secret()
    found = plugins.build("attacks", f"dlg:steps=600,restarts=4,labels={labels}")(seen(batch, model))
    exactly(found, batch, 1e-6)
    assert found.status is Status.RECONSTRUCTED or isinstance(model[0], nn.Conv2d)
    assert found.labels.tolist() == [1]
    assert found.stats["ended"] == "enough"


def test_two_pictures_with_restored_labels() -> None:
    batch = secret(2)
    exactly(Dlg(steps=800, restarts=6, labels="restored")(seen(batch)), batch, 1e-5)


def test_local_steps_are_unrolled() -> None:
    batch = secret(2)
    observation = FedAvg(epochs=2, batch_size=0, learning_rate=0.1).observe(network(), batch)
    exactly(Dlg(steps=600, restarts=4)(replace(observation, labels=batch.labels)), batch, 1e-5)


def test_the_same_seed_gives_the_same_and_another_seed_another() -> None:
    observation, attack, state = seen(secret()), Dlg(steps=20, restarts=2), torch.get_rng_state()
    first, second, other = attack(observation, seed=1), attack(observation, seed=1), attack(observation, seed=2)
    assert torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unfinished_descent_is_not_called_a_reconstruction() -> None:
    found = Dlg(steps=3)(seen(secret()))
    assert found.status in (Status.APPROXIMATE, Status.BUDGET_EXHAUSTED)
    assert "its 3 steps were taken" in found.reason


def test_an_interrupt_returns_the_best_so_far() -> None:
    def impatient(text: str, done: float) -> None:
        if "objective" in text:
            raise KeyboardInterrupt

    found = Dlg(steps=100_000, restarts=8, labels="searched")(seen(secret(4)), progress=impatient)
    assert found.inputs is not None
    assert found.stats["ended"] == "interrupted"
    assert "interrupted after" in found.reason


def test_a_time_budget_ends_it() -> None:
    found = Dlg(steps=10_000_000, seconds=1.0)(seen(secret(4)))
    assert found.stats["ended"] == "time"
    assert found.stats["seconds"] < 10  # without the budget it would be hours; a loaded machine is given time


def test_all_restarts_diverged_is_a_reason() -> None:
    model = network()
    huge = {name: tensor * 1e25 for name, tensor in seen(secret()).update.items()}
    observation = Observation(nn.Sequential(*model).float(), {name: tensor.float() for name, tensor in huge.items()}, SHAPE, batch_size=1)
    found = Dlg(steps=50)(observation)
    assert found.inputs is None
    assert found.status is Status.DIVERGED
    assert "every restart diverged" in found.reason


@pytest.mark.parametrize(
    ("observation", "told"),
    [
        (seen(secret(), network(nn.ReLU)), "kinks (relu)"),
        (replace(seen(secret()), batch_size=None), "batch size is not known"),
        (replace(seen(secret()), factor_known=False), "factor"),
        (
            replace(FedAvg(2, 1, 0.1, rate_known=False).observe(network(), secret(2)), factor_known=True),
            "factor",
        ),  # a rate that nobody knows is one
    ],
)
def test_what_it_cannot_do_is_told_in_one_sentence(observation: Observation, told: str) -> None:
    found = Dlg()(observation)
    assert found.status is Status.NOT_APPLICABLE
    assert told in found.reason


def test_what_is_missing_can_be_assumed() -> None:
    unknown = replace(seen(secret()), batch_size=None)
    exactly(Dlg(steps=600, restarts=4, batch_size=1)(unknown), secret(), 1e-6)
    assert Dlg(optimizer="adam", learning_rate=0.1, steps=20)(seen(secret(), network(nn.ReLU))).inputs is not None


def test_presets_are_specifications() -> None:
    assert all(plugins.build("attacks", preset.spec) == preset for preset in PRESETS.values())
