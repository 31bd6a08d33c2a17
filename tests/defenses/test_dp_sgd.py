"""DP-SGD: identity limit, known answer, measured noise, rejected misuse; and a real step of Opacus as its twin."""

import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from unbatch.defenses.dp_sgd import DpSgd
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch

SINGLE = {"w": torch.tensor([[[3.0, 0.0]], [[0.3, 0.0]]], dtype=torch.float64), "b": torch.tensor([4.0, 0.4], dtype=torch.float64)}
"""Two samples' gradients, of norms 5 and 0.5."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 5)).double()


def secret(size: int = 12) -> Batch:
    """Samples of very different length, so that some gradients are clipped and some are not."""
    length = torch.logspace(-2, 1, size, dtype=torch.float64)[:, None, None, None]
    return Batch(length * torch.randn((size, 3, 4, 4), generator=seeded(5), dtype=torch.float64), torch.arange(size) % 5)


def test_no_clip_and_no_noise_is_the_identity() -> None:
    made = DpSgd(math.inf, 0.0)(SINGLE, seeded())
    assert all(torch.equal(made[name], SINGLE[name]) for name in SINGLE)


def test_norms_that_are_short_enough_are_left_as_they_are() -> None:
    made = DpSgd(5.0, 0.0)(SINGLE, seeded())
    assert all(torch.equal(made[name], SINGLE[name]) for name in SINGLE)


def test_known_answer_over_all_tensors_together() -> None:
    made = DpSgd(1.0, 0.0)(SINGLE, seeded())
    assert made["w"].flatten().tolist() == pytest.approx([0.6, 0.0, 0.3, 0.0])
    assert made["b"].tolist() == pytest.approx([0.8, 0.4])


def test_no_sample_weighs_more_than_the_clip() -> None:
    single = {name: torch.randn((50, *shape), generator=seeded(3)) for name, shape in {"w": (20, 10), "b": (20,)}.items()}
    made = DpSgd(0.5, 0.0)(single, seeded())
    norms = sum(tensor.flatten(1).square().sum(dim=1) for tensor in made.values()) ** 0.5
    assert float(norms.max()) == pytest.approx(0.5, rel=1e-6)
    assert float(norms.min()) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("clip", "noise_multiplier", "samples"), [(1.0, 1.0, 2), (0.1, 3.0, 8), (4.0, 0.25, 5)])
def test_the_sum_gets_the_noise_that_it_says(clip: float, noise_multiplier: float, samples: int) -> None:
    count = 100_000
    noise = DpSgd(clip, noise_multiplier)({"w": torch.zeros(samples, count, dtype=torch.float64)}, seeded())["w"].sum(dim=0)
    expected = clip * noise_multiplier
    assert abs(float(noise.mean())) < 5 * expected / math.sqrt(count)
    assert abs(float(noise.std()) - expected) < 5 * expected / math.sqrt(2 * count)


@pytest.mark.parametrize(
    ("clip", "noise_multiplier"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, -0.1), (1.0, math.nan), (1.0, math.inf), (math.inf, 1.0)]
)
def test_settings_that_cannot_be_are_refused(clip: float, noise_multiplier: float) -> None:
    with pytest.raises(Misuse, match=r"norm|noise|clip"):
        DpSgd(clip, noise_multiplier)


@pytest.mark.parametrize(
    ("steps", "sample_rate", "delta"), [(0, 0.1, 1e-5), (10, 0.0, 1e-5), (10, 1.1, 1e-5), (10, 0.1, 0.0), (10, 0.1, 1.0)]
)
def test_an_epsilon_of_impossible_training_is_refused(steps: int, sample_rate: float, delta: float) -> None:
    with pytest.raises(Misuse, match="sample rate"):
        DpSgd().epsilon(steps, sample_rate, delta)


def test_an_unknown_accountant_is_refused() -> None:
    with pytest.raises(Misuse, match="accountant"):
        DpSgd().epsilon(10, 0.1, accountant="gdp")  # type: ignore[arg-type]


def test_no_noise_no_privacy() -> None:
    assert DpSgd(1.0, 0.0).epsilon(1, 0.1) == math.inf


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(Misuse, match=r"unbatch\[dp\]"):
        DpSgd().epsilon(10, 0.1)
    assert DpSgd()(SINGLE, seeded()).keys() == SINGLE.keys()  # the transform itself needs no Opacus


@pytest.fixture(scope="module")
def opacus_step():  # type: ignore[no-untyped-def]
    """(clip, noise multiplier, generator) -> the gradient that a real step of Opacus follows, by the names of the plain model."""
    opacus = pytest.importorskip("opacus")

    def step(clip: float, noise_multiplier: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        model, batch = network(), secret()
        loader = DataLoader(TensorDataset(batch.inputs, batch.labels), batch_size=len(batch))
        with pytest.warns(UserWarning, match="Secure RNG"):
            engine = opacus.PrivacyEngine()
        private, optimizer, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=loader,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip,
            poisson_sampling=False,
            noise_generator=generator,
        )
        nn.functional.cross_entropy(private(batch.inputs), batch.labels).backward()
        optimizer.pre_step()
        return {name: parameter.grad.detach().clone() for name, parameter in model.named_parameters()}

    return step


def ours(clip: float, noise_multiplier: float, seed: int = 0) -> dict[str, Tensor]:
    return dict(FedSgd().observe(network(), secret(), defenses=[DpSgd(clip, noise_multiplier)], seed=seed).update)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("clip", [0.1, 1.0, 1e3])
def test_clipped_mean_gradient_is_that_of_opacus(opacus_step, clip: float) -> None:  # type: ignore[no-untyped-def]
    theirs, made = opacus_step(clip, 0.0), ours(clip, 0.0)
    assert theirs.keys() == made.keys()
    for name, tensor in theirs.items():  # Opacus adds 1e-6 to every norm before it divides: up to 1e-6 / clip of a clipped gradient
        assert float((made[name] - tensor).norm() / tensor.norm()) < 2e-6 / clip + 1e-12
    plain = capture(network(), secret().inputs, secret().labels)
    assert torch.allclose(made["1.weight"], plain["1.weight"]) is (clip == 1e3)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_noise_has_the_deviation_of_opacus(opacus_step) -> None:  # type: ignore[no-untyped-def]
    clip, noise_multiplier, draws = 0.5, 3.0, 10

    def deviation(gradients: list[dict[str, Tensor]], quiet: dict[str, Tensor]) -> tuple[float, int]:
        noise = torch.cat([(tensor - quiet[name]).flatten() for drawn in gradients for name, tensor in drawn.items()])
        return float(noise.std()), len(noise)

    theirs, count = deviation([opacus_step(clip, noise_multiplier, seeded(seed)) for seed in range(draws)], opacus_step(clip, 0.0))
    made, _ = deviation([ours(clip, noise_multiplier, seed) for seed in range(draws)], ours(clip, 0.0))
    expected = clip * noise_multiplier / len(secret())
    for measured in (theirs, made):
        assert abs(measured - expected) < 5 * expected / math.sqrt(2 * count)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize(("noise_multiplier", "sample_rate", "steps"), [(1.0, 0.01, 200), (0.5, 0.002, 50), (2.0, 0.1, 30)])
def test_epsilon_is_that_of_the_privacy_engine(accountant: str, noise_multiplier: float, sample_rate: float, steps: int) -> None:
    opacus = pytest.importorskip("opacus")
    with pytest.warns(UserWarning, match="Secure RNG"):
        engine = opacus.PrivacyEngine(accountant=accountant)
    for _ in range(steps):
        engine.accountant.step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
    made = DpSgd(1.0, noise_multiplier).epsilon(steps, sample_rate, 1e-5, accountant)  # type: ignore[arg-type]
    assert made == pytest.approx(engine.get_epsilon(1e-5), rel=1e-12)


def test_epsilon_moves_the_right_way() -> None:
    pytest.importorskip("opacus")

    def epsilon(noise_multiplier: float = 1.0, steps: int = 500, rate: float = 0.02, delta: float = 1e-5) -> float:
        return DpSgd(1.0, noise_multiplier).epsilon(steps, rate, delta)

    assert epsilon(noise_multiplier=2.0) < epsilon() < epsilon(noise_multiplier=0.5)
    assert epsilon() < epsilon(steps=5000)
    assert epsilon() < epsilon(rate=0.04)
    assert epsilon() < epsilon(delta=1e-9)
    assert DpSgd(1.0, 1.0).epsilon(500, 0.02, accountant="prv") < epsilon()


def test_bounds_far_from_the_best_order_come_without_a_warning() -> None:
    pytest.importorskip("opacus")
    assert DpSgd(1.0, 0.05).epsilon(100, 0.002) > 1000
    assert 0 < DpSgd(1.0, 50.0).epsilon(10, 0.002) < 0.2


def test_prv_is_refused_where_it_would_take_all_memory() -> None:
    pytest.importorskip("opacus")
    with pytest.raises(Misuse, match="rdp"):
        DpSgd(1.0, 0.01).epsilon(2500, 0.002, accountant="prv")
