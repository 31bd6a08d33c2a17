"""SPEAR on planted batches: the truth is used only to check."""

import time

import pytest
import torch
from torch import Tensor, nn

from unbatch.attacks.spear import Spear
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.models.mlp import Mlp
from unbatch.types import Observation, Reconstruction, Status

SHAPE = (3, 5, 5)


def plant(
    size: int, seed: int = 0, model: nn.Module | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Observation, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = (model or Mlp(width=100, depth=4).build(SHAPE, 7, seed)).to(dtype)
    x = torch.randn((size, *SHAPE), generator=generator, dtype=torch.float64)
    y = torch.randint(7, (size,), generator=generator)
    return Observation(model, capture(model, x.to(dtype), y), SHAPE), x, y


def worst_error(found: Reconstruction, x: Tensor) -> float:
    assert found.inputs is not None
    return float(torch.cdist(x.flatten(1), found.inputs.double().flatten(1)).amin(dim=1).max())


def assert_recovers(found: Reconstruction, x: Tensor, y: Tensor, error: float = 1e-9) -> None:
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert worst_error(found, x) < error
    assert found.labels is not None
    partner = torch.cdist(x.flatten(1), found.inputs.double().flatten(1)).argmin(dim=1)  # type: ignore[union-attr]
    assert torch.equal(found.labels[partner], y)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 12])
def test_recovers_the_batch_and_its_labels(size: int) -> None:
    observation, x, y = plant(size, seed=size)
    assert_recovers(Spear(seconds=60.0)(observation), x, y)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_sampling_as_published_recovers_it_too(size: int) -> None:
    observation, x, y = plant(size, seed=size)
    found = Spear(search="sampling")(observation)
    assert_recovers(found, x, y)
    assert set(found.stats["found by"]) <= {"sampling", "repair", "last"}


def test_recovers_float32_updates_to_their_precision() -> None:
    observation, x, y = plant(6, dtype=torch.float32)
    found = Spear()(observation)
    assert_recovers(found, x, y, error=1e-2)
    assert found.residual is not None
    assert 1e-9 < found.residual < 1e-5


def test_searches_in_float32_too() -> None:
    observation, x, y = plant(6)
    assert_recovers(Spear(search="sampling", precision="float32", seconds=60.0)(observation), x, y)


class Tree(nn.Module):
    """A layer hidden in a module tree, with an auxiliary head before it in definition order."""

    def __init__(self) -> None:
        super().__init__()
        self.unused_first = nn.Linear(7, 7)
        self.body = nn.ModuleDict({"stem": nn.Sequential(nn.Flatten(), nn.Linear(75, 90)), "tail": nn.Linear(90, 7)})

    def forward(self, x: Tensor) -> Tensor:
        return self.unused_first(self.body["tail"](torch.relu(self.body["stem"](x))))


def test_finds_the_layer_in_any_module_tree_and_says_which() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tree()
    observation, x, y = plant(4, model=model)
    found = Spear()(observation)
    assert_recovers(found, x, y)
    assert found.stats["layer"] == "body.stem.1.weight"


def test_one_class_only() -> None:
    model = Mlp(width=100, depth=4).build(SHAPE, 7).double()
    x = torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.full((5,), 3)
    assert_recovers(Spear()(Observation(model, capture(model, x, y), SHAPE)), x, y)


def test_repeated_samples_are_counted() -> None:
    model = Mlp(width=100, depth=4).build(SHAPE, 7).double()
    x = torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.float64)[[0, 1, 1, 2, 3, 3, 3]]
    y = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    update = capture(model, x, y)
    found = Spear()(Observation(model, update, SHAPE, batch_size=7)).or_raise()
    assert found.inputs is not None
    assert len(found.inputs) == 7
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == sorted(y.tolist())
    assert "4 different samples" in found.reason
    open_number = Spear()(Observation(model, update, SHAPE))
    assert open_number.status is Status.PARTIAL  # two copies of one sample and one that counts double look alike
    assert open_number.inputs is not None
    assert len(open_number.inputs) == 4
    assert "repeated, or weighted" in open_number.reason


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(75, 50), nn.GELU(), nn.Linear(50, 7)), "followed by gelu"),
        (nn.Sequential(nn.Flatten(), nn.Linear(75, 7)), "followed by nothing"),
        (nn.Sequential(nn.Flatten(), nn.Linear(75, 50, bias=False), nn.ReLU(), nn.Linear(50, 7)), "no bias"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 50), nn.ReLU(), nn.Linear(50, 7)), "raw input"),
        (nn.Sequential(nn.Conv2d(3, 7, 5), nn.ReLU(), nn.Flatten()), "no Linear layer at all"),
        (nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Flatten(), nn.Linear(135, 7)), "15 times a sample"),
    ],
)
def test_says_why_a_model_is_not_applicable(model: nn.Module, told: str) -> None:
    observation, _, _ = plant(3, model=model)
    found = Spear()(observation)
    assert found.status is Status.NOT_APPLICABLE
    assert told in found.reason
    assert found.inputs is None


def test_too_large_a_batch_is_not_applicable() -> None:
    observation, _, _ = plant(30, model=Mlp(width=25, depth=3).build(SHAPE, 7))
    found = Spear()(observation)
    assert found.status is Status.NOT_APPLICABLE
    assert "full rank 25" in found.reason


def dependent_rows() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """30 rows of six columns of five levels, of rank 25."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.eye(5, dtype=torch.float64)[torch.randint(5, (30,), generator=generator)] for _ in range(6)], dim=1)
    assert int(torch.linalg.matrix_rank(x)) == 25
    return Mlp(width=120, depth=4).build((30,), 7).double(), x, torch.arange(30) % 7


def test_rows_of_a_table_that_depend_on_each_other_are_found_by_what_the_next_layers_are_fed() -> None:
    model, x, labels = dependent_rows()
    found = Spear(seconds=20.0)(Observation(model, capture(model, x, labels), (30,))).or_raise()
    assert torch.cdist(x, found.inputs, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).max() < 1e-9  # the other mode cancels
    assert (found.stats["rank"], found.stats["samples"]) == (25, 30)


def test_rows_that_depend_on_each_other_are_told_at_once_where_they_are_not_found() -> None:
    model, x, labels = dependent_rows()
    started = time.process_time()
    found = Spear(search="sampling", seconds=20.0)(Observation(model, capture(model, x, labels), (30,)))
    assert "30 samples whose inputs depend on each other, being of rank 25" in found.reason
    assert found.status in (Status.BUDGET_EXHAUSTED, Status.PARTIAL)
    assert time.process_time() - started < 5.0


def test_an_unknown_layer_is_not_applicable() -> None:
    assert "no Linear layer named 'nose'" in Spear(layer="nose")(plant(3)[0]).reason


def test_a_starved_search_says_so() -> None:
    found = Spear(search="sampling", subsets=10)(plant(12)[0])
    assert found.status is Status.BUDGET_EXHAUSTED
    assert "0 of 12 directions found" in found.reason
    assert "after 10 subsets" in found.reason


@pytest.mark.parametrize("told", [None, 20])
def test_the_budget_holds_where_rounding_looks_like_pruning(told: int | None) -> None:
    observation, _, _ = plant(20, model=Mlp(width=200, depth=4).build(SHAPE, 7))
    steps = {name: tensor.abs().max() / 7 for name, tensor in observation.update.items()}
    rounded = {name: (tensor / steps[name]).round() * steps[name] for name, tensor in observation.update.items()}
    started = time.process_time()
    found = Spear(seconds=0.5)(Observation(observation.model, rounded, SHAPE, batch_size=told))
    assert found.status in (Status.BUDGET_EXHAUSTED, Status.APPROXIMATE, Status.NOT_APPLICABLE)
    assert time.process_time() - started < 3.0  # what other processes take does not count


def test_a_foreign_model_is_inconsistent() -> None:
    observation, _, _ = plant(5)
    stranger = Mlp(width=100, depth=4).build(SHAPE, 7, seed=77).double()
    found = Spear()(Observation(stranger, dict(observation.update), SHAPE))
    assert found.status is Status.INCONSISTENT
    assert "signs of W X + bias" in found.reason


@pytest.mark.parametrize(
    "settings", [{"seconds": 0.0}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"subsets": 0}, {"false_rejection": 1.0}]
)
def test_impossible_settings_are_misuse(settings: dict[str, float]) -> None:
    with pytest.raises(Misuse):
        Spear(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_updates_are_recovered_to_their_precision(dtype: torch.dtype) -> None:
    model = Mlp(width=200, depth=4).build(SHAPE, 7).double()
    x = torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(8) % 7
    update = {name: tensor.to(dtype) for name, tensor in capture(model, x, y).items()}
    found = Spear(seconds=20.0)(Observation(model, update, SHAPE))
    assert found.status in (Status.RECONSTRUCTED, Status.APPROXIMATE)
    assert found.residual is not None
    assert found.residual < 50 * torch.finfo(dtype).eps
    assert worst_error(found, x) < 400 * torch.finfo(dtype).eps
    assert "noise" in found.reason


@pytest.mark.parametrize("level", [1e-6, 1e-4, 1e-2])
def test_accuracy_under_noise_is_bounded_by_the_noise_and_reported(level: float) -> None:
    model = Mlp(width=200, depth=4).build(SHAPE, 7).double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((8, *SHAPE), generator=generator, dtype=torch.float64)
    update = capture(model, x, torch.arange(8) % 7)
    noisy = {k: v + level * v.square().mean().sqrt() * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in update.items()}
    found = Spear(seconds=20.0)(Observation(model, noisy, SHAPE))
    # Up to a certain noise every sample is still proved by itself, to an accuracy that is told and kept.
    assert found.status is (Status.PARTIAL if level < 1e-3 else Status.APPROXIMATE)
    if found.accuracy is not None:
        assert worst_error(found, x) < float(found.accuracy.max()) * float(x.flatten(1).norm(dim=1).max())
    assert worst_error(found, x) < 300 * level
    assert found.residual is not None
    assert found.residual < 30 * level


def test_a_deeper_layer_gives_its_input_features() -> None:
    model = Mlp(width=120, depth=4).build(SHAPE, 7).double()
    x = torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = Spear(layer="3")(Observation(model, capture(model, x, torch.arange(6)), SHAPE))
    assert found.status is Status.FEATURES, found.reason
    assert found.features is not None
    true = model[2](model[1](model[0](x))).detach()
    assert float((true[:, None] - found.features).norm(dim=2).amin(dim=1).max()) < 1e-8
    assert found.inputs is None


class Tokens(torch.nn.Module):
    """Feeds the layer one row a token, in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = torch.nn.Linear(6, 20), torch.nn.Linear(80, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x.reshape(-1, 6)).relu().reshape(len(x), -1))


def test_rows_that_are_tokens_are_not_taken_for_samples() -> None:
    model = Tokens().double()
    x = torch.randn((3, 4, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Spear()(Observation(model, capture(model, x, torch.tensor([0, 1, 2])), (4, 6)))
    assert found.status is Status.NOT_APPLICABLE
    assert "4 times a sample" in found.reason
