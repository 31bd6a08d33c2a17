"""Gradients against naive twins: ``loss.backward()`` and a loop over samples."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.errors import Misuse, NotDeterministic
from unbatch.gradients import capture, check_deterministic, loss_function, per_example, replay, sensitivities

GENERATOR = torch.Generator().manual_seed(0)
MODELS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 4)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5).eval(), nn.SiLU(), nn.Flatten(), nn.Dropout(0.3).eval(), nn.Linear(20, 4)
    ),
}


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn((size, 3, 4, 4), generator=GENERATOR, dtype=torch.float64), torch.randint(4, (size,), generator=GENERATOR)


@pytest.mark.parametrize("name", MODELS)
def test_capture_is_what_backward_gives(name: str) -> None:
    model, (x, y) = MODELS[name]().double(), batch()
    update = capture(model, x, y)
    F.cross_entropy(model(x), y).backward()
    for key, parameter in model.named_parameters():
        assert torch.allclose(update[key], parameter.grad, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_per_example_is_a_loop_over_samples(name: str) -> None:
    model, (x, y) = MODELS[name]().double(), batch()
    together = per_example(model, x, y)
    for i in range(len(x)):
        alone = capture(model, x[i : i + 1], y[i : i + 1])
        assert all(torch.allclose(together[key][i], alone[key], atol=1e-14) for key in alone)


def test_frozen_parameters_send_nothing() -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    model[1].weight.requires_grad_(False)
    assert set(capture(model, x, y)) == {"1.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize("large", [1, 1 << 24])
def test_replaying_the_truth_leaves_nothing(large: int) -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    assert replay(model, capture(model, x, y), x, y, large=large).worst < 1e-14


@pytest.mark.parametrize("large", [1, 1 << 24])
def test_residual_is_the_relative_distance(large: int) -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    update, other = capture(model, x, y), capture(model, x + 0.1, y)
    result = replay(model, update, x + 0.1, y, large=large)
    distance = sum(float((update[k] - other[k]).square().sum()) for k in update) ** 0.5
    assert result.residual == pytest.approx(distance / sum(float(u.square().sum()) for u in update.values()) ** 0.5)
    expected = float((update["3.bias"] - other["3.bias"]).norm() / update["3.bias"].norm())
    assert result.by_tensor["3.bias"] == pytest.approx(expected)


def test_a_wrong_label_shows_in_the_residual() -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    assert replay(model, capture(model, x, y), x, (y + 1) % 4).residual > 0.1


def test_replay_works_for_any_loss() -> None:
    def focal(outputs: Tensor, labels: Tensor) -> Tensor:
        log = F.log_softmax(outputs, dim=1).gather(1, labels[:, None])[:, 0]
        return -((1 - log.exp()) ** 2 * log).mean()

    model, (x, y) = MODELS["mlp"]().double(), batch()
    assert replay(model, capture(model, x, y, focal), x, y, focal).worst < 1e-13


def test_sensitivities_are_the_columns_of_every_label() -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    columns = sensitivities(model, x, "1.weight")
    expected = per_example(model, x, y)["1.bias"]
    assert torch.allclose(torch.stack([columns[y[i], i] for i in range(len(x))]), expected, atol=1e-14)


@pytest.mark.parametrize(
    ("model", "named"),
    [(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "Dropout"), (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "BatchNorm1d")],
)
def test_random_or_coupled_models_are_refused_by_name(model: nn.Module, named: str) -> None:
    with pytest.raises(NotDeterministic, match=named):
        per_example(model, torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    check_deterministic(model.eval(), torch.ones(3, 2))


def test_batch_statistics_give_the_gradient_that_backward_gives() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, y = torch.randn((5, 2), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    update = capture(model, x, y)
    running = model[1].running_mean.clone()
    F.cross_entropy(model(x), y).backward()
    assert torch.equal(running, torch.zeros(4, dtype=torch.float64))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(update[name], parameter.grad)
    assert replay(model, update, x, y).worst < 1e-10


def test_an_unknown_loss_is_misuse() -> None:
    with pytest.raises(Misuse, match="cross_entropy"):
        loss_function("hinge")


@pytest.mark.parametrize("label", [-1, 4, -100])
def test_a_label_without_a_class_is_misuse(label: int) -> None:
    model, (x, y) = MODELS["mlp"]().double(), batch()
    wrong = torch.cat([torch.tensor([label]), y[1:]])
    for measure in (capture, per_example):
        with pytest.raises(Misuse, match=f"labels from 0 to 3, got .*{label}"):
            measure(model, x, wrong)
