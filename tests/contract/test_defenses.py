"""What every defense must keep, whichever there are, at its default settings and under every protocol."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from unbatch import plugins, seeds
from unbatch.contracts import Defense, Stage
from unbatch.errors import UnknownPlugin
from unbatch.gradients import capture, per_example
from unbatch.protocols._client import defend
from unbatch.testing import check_defense
from unbatch.types import Batch

DEFENSES = plugins.names("defenses")
PROTOCOLS = plugins.names("protocols")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def built(name: str) -> Defense:
    return plugins.load("defenses", name)()


def seeded(seed: int = 3) -> torch.Generator:
    return seeds.generator(seed, "defense")


def gradients(defense: Defense, dtype: torch.dtype = torch.float64, samples: int = 5) -> dict[str, Tensor]:
    """Of the stage's form: one row a sample before they are averaged."""
    rows = (samples,) if defense.stage is Stage.EXAMPLE else ()
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "scale": ()}
    generator = seeded(0)
    return {name: torch.randn((*rows, *shape), generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)).double()


@pytest.fixture(scope="module")
def batch() -> Batch:
    large = 10_000 * torch.randn((10, 3, 2, 2), generator=seeded(5), dtype=torch.float64)  # so that there is something to clip
    return Batch(large, torch.arange(10) % 4)


@pytest.mark.parametrize("name", DEFENSES)
def test_keeps_the_contract(name: str) -> None:
    check_defense(built(name))


@pytest.mark.parametrize("name", DEFENSES)
def test_an_unknown_field_is_refused(name: str) -> None:
    with pytest.raises(UnknownPlugin, match=name):
        plugins.build("defenses", f"{name}:no_such_field=1")


@pytest.mark.parametrize("name", DEFENSES)
def test_fedsgd_sends_what_the_defense_makes(name: str, model: nn.Module, batch: Batch) -> None:
    defense = built(name)
    seen = plugins.build("protocols", "fedsgd").observe(model, batch, defenses=[defense], seed=3)
    if defense.stage is Stage.EXAMPLE:
        single = defense(per_example(model, batch.inputs, batch.labels), seeded())
        expected = {key: tensor.mean(dim=0) for key, tensor in single.items()}
    else:
        expected = defense(capture(model, batch.inputs, batch.labels), seeded())
    assert same(seen.update, expected)


@pytest.mark.parametrize("stage", Stage)
def test_a_chain_keeps_its_order_inside_a_stage(stage: Stage) -> None:
    of_stage = [defense for defense in map(built, DEFENSES) if defense.stage is stage]
    others = [defense for defense in map(built, DEFENSES) if defense.stage is not stage]
    for first in of_stage:
        for second in of_stage:
            given = gradients(first)
            generator = seeded()
            expected = second(first(given, generator), generator)
            assert same(defend(stage, [*others, first, *others, second], given, seeded()), expected)
    untouched = {"w": torch.ones(3, 2)}
    assert same(defend(stage, others, untouched, seeded()), untouched)


def test_the_order_of_a_chain_matters(model: nn.Module, batch: Batch) -> None:
    clip, noise = plugins.build("defenses", "clipping:0.1"), plugins.build("defenses", "gaussian_noise:deviation=1,unit=absolute")

    def length(*defenses: Defense) -> float:
        seen = plugins.build("protocols", "fedsgd").observe(model, batch, defenses=defenses)
        return sum(float(tensor.square().sum()) for tensor in seen.update.values()) ** 0.5

    assert length(noise, clip) == pytest.approx(0.1)
    assert length(clip, noise) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", DEFENSES)
def test_keeps_the_device(name: str) -> None:
    defense = built(name)
    given = {key: tensor.cuda() for key, tensor in gradients(defense).items()}
    made = defense(given, torch.Generator("cuda").manual_seed(0))
    assert {tensor.device for tensor in made.values()} == {tensor.device for tensor in given.values()}
