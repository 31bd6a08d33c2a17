"""Inverting Gradients: clearly better than a grey picture, on every way in which an update comes about."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.attacks.inverting_gradients import PRESETS, InvertingGradients
from unbatch.defenses.pruning import Pruning
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.protocols.fedavg import FedAvg
from unbatch.schema import Schema
from unbatch.types import Batch, Observation, Status

SHAPE = (1, 12, 12)
SCHEMA = Schema("image", (0.5,), (0.25,))


def network(*, normalize: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        middle = [nn.BatchNorm2d(16)] if normalize else []
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *middle, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 6))


def pictures(count: int) -> Batch:
    """Smooth blobs from 0 to 1, as a network sees them."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
    centers = torch.linspace(-0.5, 0.5, count) if count > 1 else torch.tensor([0.3])
    raw = torch.stack([torch.exp(-4 * ((x - c) ** 2 + (y + c) ** 2)) for c in centers])[:, None]
    return Batch(SCHEMA.to_network(raw), torch.arange(count) + 1, SCHEMA)


def psnr(found: torch.Tensor, batch: Batch) -> float:
    """Mean over true pictures of that with the nearest guess, in dB over the range 0 to 1."""
    truth, guess = SCHEMA.to_raw(batch.inputs).flatten(1), SCHEMA.to_raw(found).flatten(1)
    error = (truth[:, None] - guess[None]).square().mean(dim=2).amin(dim=1)
    return float((-10 * error.log10()).mean())


def grey(batch: Batch) -> float:
    return psnr(torch.zeros_like(batch.inputs[:1]), batch)


def seen(batch: Batch, model: nn.Module | None = None) -> Observation:
    model = model or network()
    return Observation(model, capture(model, batch.inputs, batch.labels), SHAPE, schema=SCHEMA, batch_size=len(batch))


SMALL = InvertingGradients(steps=300, total_variation=1e-3)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("restarts", [1, 2])
def test_pictures_come_out(count: int, restarts: int) -> None:
    batch = pictures(count)
    found = replace(SMALL, restarts=restarts)(seen(batch))
    assert found.labels.tolist() == batch.labels.tolist()
    assert found.stats["labels"] == "restored"
    assert psnr(found.inputs, batch) > grey(batch) + 6
    assert found.status in (Status.APPROXIMATE, Status.BUDGET_EXHAUSTED)
    assert found.stats["distance"] <= found.stats["objective"]


def test_pictures_stay_in_their_range() -> None:
    found = replace(SMALL, steps=30)(seen(pictures(1)))
    raw = SCHEMA.to_raw(found.inputs)
    assert -1e-6 <= float(raw.min()) <= float(raw.max()) <= 1 + 1e-6
    assert float(replace(SMALL, steps=30, low=-1.0)(seen(pictures(1))).inputs.min()) >= -1
    free = replace(SMALL, steps=5, box=False)(seen(pictures(1))).inputs
    assert float(free.abs().max()) > 2


def test_restarts_side_by_side_are_those_that_run_alone() -> None:
    """The same starts give the same, whether they share a graph or not."""
    from unbatch.inversion.descent import Descent
    from unbatch.inversion.matching import GradientMatching

    observation = seen(Batch(pictures(2).inputs.double(), pictures(2).labels, SCHEMA), network().double())
    matching, descent = GradientMatching(observation, "cosine"), Descent(steps=25, learning_rate=0.1)
    start = matching.start("normal", 3, torch.Generator().manual_seed(0))
    together = descent.run(matching.objective, start)
    for i in range(3):
        alone = descent.run(matching.objective, {name: tensor[i : i + 1] for name, tensor in start.items()})
        assert torch.allclose(alone.variables["inputs"][0], together.variables["inputs"][i], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
def test_batch_norm_as_the_client_ran_it(training: bool) -> None:
    batch, model = pictures(3), network(normalize=True).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = replace(SMALL, batch_norm=1e-4, group=1e-4, restarts=2)(seen(batch, model))
    assert psnr(found.inputs, batch) > grey(batch) + 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_local_steps_unrolled_beat_one_gradient() -> None:
    batch = pictures(4)
    observation = replace(FedAvg(epochs=2, batch_size=0, learning_rate=0.3).observe(network(), batch), labels=batch.labels)
    unrolled, single = SMALL(observation), replace(SMALL, local="one_gradient")(observation)
    assert psnr(unrolled.inputs, batch) > grey(batch) + 5
    assert unrolled.stats["distance"] < single.stats["distance"]


def test_labels_can_be_searched() -> None:
    batch = pictures(1)
    found = replace(SMALL, labels="searched", label_entropy=1e-3)(seen(batch))
    assert found.labels.tolist() == [1]
    assert found.stats["labels"] == "searched"


def test_a_pruned_update_is_compared_where_it_is_not_zero() -> None:
    batch = pictures(1)
    pruned = replace(seen(batch), update=Pruning(0.9)(seen(batch).update, torch.Generator()), labels=batch.labels)
    masked, plain = replace(SMALL, masked=True)(pruned), SMALL(pruned)
    assert psnr(masked.inputs, batch) > grey(batch) + 3
    assert masked.stats["distance"] < plain.stats["distance"]


@pytest.mark.parametrize("start", ["normal", "uniform", "zeros", "tiles"])
def test_every_start_leads_somewhere(start: str) -> None:
    batch = pictures(1)
    found = replace(SMALL, start=start)(seen(batch))  # type: ignore[arg-type]
    assert psnr(found.inputs, batch) > grey(batch) + 4


def test_an_unknown_factor_does_not_matter() -> None:
    batch = pictures(1)
    scaled = {name: 7 * tensor for name, tensor in seen(batch).update.items()}
    found = SMALL(replace(seen(batch), update=scaled, factor_known=False))
    assert psnr(found.inputs, batch) > grey(batch) + 6


def test_what_it_cannot_do_is_told_in_one_sentence() -> None:
    assert "batch size is not known" in SMALL(replace(seen(pictures(1)), batch_size=None)).reason
    bare = nn.Sequential(nn.Flatten(), nn.Linear(144, 6, bias=False))
    assert "labels=searched" in SMALL(seen(pictures(2), bare)).reason


@pytest.mark.parametrize("settings", ["steps=0", "restarts=0", "seconds=0", "total_variation=-1", "low=1,high=0", "batch_size=0"])
def test_settings_that_cannot_be_are_refused(settings: str) -> None:
    with pytest.raises(Misuse):
        plugins.build("attacks", f"inverting_gradients:{settings}")


def test_presets_are_specifications() -> None:
    assert all(plugins.build("attacks", preset.spec) == preset for preset in PRESETS.values())
