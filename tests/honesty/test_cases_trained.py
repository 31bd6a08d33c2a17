"""Cases 2 and 3: networks after training, whose weakest samples are 1e-9 of the update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lies import LIES
from scenes import Scene, liar
from test_cases import built, digits, judged
from unbatch import plugins
from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation, Status
from verdicts import falsehoods, truth_of
from victims import train

Benchmark = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def after_twenty_epochs(shared_data: Callable[[str], Path]) -> Benchmark:
    """The network of ``benchmarks/training.py`` on MNIST after its last epoch, and the samples that it was not trained on."""
    data = plugins.build("datasets", f"npz:{shared_data('mnist_test.npz')}")
    everything = data.take(torch.arange(len(data)))
    inputs, labels = everything.inputs.float(), everything.labels
    model = plugins.build("models", "mlp").build(data.input_shape, 10, 0).float()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for part in torch.randperm(len(inputs) - 1000, generator=generator).add(1000).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), labels[part]).backward()
            optimizer.step()
    return model.double(), everything.inputs[:1000], labels[:1000]


def held_out(found: Benchmark, size: int, seed: int) -> tuple[Observation, Tensor, Tensor]:
    model, inputs, labels = found
    chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:size]
    x, y = inputs[chosen].double(), labels[chosen]
    return Observation(model, capture(model, x, y), tuple(x.shape[1:])), x, y


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("size", "seed", "seconds"), [(20, 18, 60.0), (20, 15, 6.0), (20, 10, 6.0), (20, 19, 6.0), (10, 35, 6.0), (10, 35, 60.0)]
)
def test_row_2_a_trained_network(after_twenty_epochs: Benchmark, size: int, seed: int, seconds: float) -> None:
    seen, x, y = held_out(after_twenty_epochs, size, seed)
    judged(seen, x, y, seconds, seed)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(20))
def test_row_2_the_truth_but_for_its_weakest_samples(after_twenty_epochs: Benchmark, seed: int) -> None:
    """Quick, since nothing is searched: what the weakest samples are said to be rests on 1e-9 of the update."""
    seen, x, y = held_out(after_twenty_epochs, 20, seed)
    generator = torch.Generator().manual_seed(seed)
    strangers, labels = after_twenty_epochs[1][torch.randperm(1000, generator=generator)[:40]], after_twenty_epochs[2][:40]
    scene, truth = Scene(seen, x, y, strangers.double(), labels), truth_of(seen.model, x, y)
    for name in ("truth and what leaves no trace", "the weakest moved", "the weakest junk", "the weakest left out", "one wrong label"):
        found = liar(scene, LIES[name])(seen, seed=seed)
        assert falsehoods(found, truth) == [], name


def shortly_trained(seed: int) -> tuple[Observation, Tensor, Tensor]:
    x, y = digits(1200, seed)
    model = built(64, 200, 4, 10, seed)
    train(model, x[20:].float(), y[20:], 400, 3e-3, seed)
    model = model.double()
    return Observation(model, capture(model, x[:20], y[:20]), tuple(x.shape[1:])), x[:20], y[:20]


@pytest.mark.parametrize("seed", range(8))
def test_row_2_a_shortly_trained_network(seed: int) -> None:
    seen, x, y = shortly_trained(seed)
    judged(seen, x, y, 1.5, seed)


@pytest.mark.parametrize("seed", range(3))
def test_row_3_the_verdict_does_not_depend_on_the_clock(seed: int) -> None:
    """What is proved with little time is true, and handed to the judge anew without any clock it is proved again."""
    seen, x, y = shortly_trained(seed)
    for seconds in (0.3, 1.0, 60.0):
        found = judged(seen, x, y, seconds, seed)
        if found.status.disclosed and found.inputs is not None:
            again = judge(seen, Candidate(found.inputs, found.labels))
            assert again.status.disclosed
            assert again.inputs is not None
            assert len(again.inputs) >= len(found.inputs)
    assert found.status is Status.RECONSTRUCTED


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_row_3_the_verdict_does_not_depend_on_the_clock_after_twenty_epochs(after_twenty_epochs: Benchmark) -> None:
    for seed in (18, 15):
        seen, x, y = held_out(after_twenty_epochs, 20, seed)
        for seconds in (1.0, 6.0, 30.0):
            judged(seen, x, y, seconds, seed)
