"""Losses of the client's own, one by one: capture against ``backward``, per example and sensitivities against loops, in every precision."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.errors import Misuse
from unbatch.gradients import capture, loss_function, per_example, replay, sensitivities
from unbatch.losses import slopes
from unbatch.training import LocalTraining, train
from unbatch.types import Observation

WEIGHTS = torch.tensor([1.0, 0.1, 5.0, 2.0])
LABELS = torch.tensor([0, 3, 1, 1, 2, 3])


def one_hot(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, outputs.shape[1]).to(outputs)


def in_place(outputs: Tensor, labels: Tensor) -> Tensor:
    outputs -= outputs.detach().amax(dim=1, keepdim=True)
    outputs.mul_(2)
    labels %= 3
    return F.cross_entropy(outputs, labels)


def scattered(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs.softmax(1), torch.zeros_like(outputs).scatter_(1, labels[:, None], 1.0))


def branching(outputs: Tensor, labels: Tensor) -> Tensor:
    """Looks at its numbers before it decides, which vmap cannot."""
    losses = [F.cross_entropy(row[None], label[None]) for row, label in zip(outputs, labels, strict=True)]
    return torch.stack([loss if loss.item() > 0.5 else loss * loss for loss in losses]).mean()


def focal(outputs: Tensor, labels: Tensor) -> Tensor:
    log = F.log_softmax(outputs, dim=1).gather(1, labels[:, None])[:, 0]
    return -((1 - log.exp()) ** 2 * log).mean()


MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "label smoothing": lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1),
    "MSE on one-hot": lambda o, y: F.mse_loss(o, one_hot(o, y)),
    "MSE on floats": lambda o, y: F.mse_loss(o, F.one_hot(y, num_classes=4).float().to(o.dtype)),
    "BCE on one-hot": lambda o, y: F.binary_cross_entropy_with_logits(o, one_hot(o, y)),
    "BCE with positive weights": lambda o, y: F.binary_cross_entropy_with_logits(o, one_hot(o, y), pos_weight=WEIGHTS),
    "a module": nn.CrossEntropyLoss(),
    "a module that smooths": nn.CrossEntropyLoss(label_smoothing=0.2),
    "weights, divided by the batch": lambda o, y: F.cross_entropy(o, y, weight=WEIGHTS, reduction="sum") / len(y),
    "hinge": nn.MultiMarginLoss(),
    "in place": in_place,
    "scattered": scattered,
    "branching": branching,
    "focal": focal,
}
COUPLED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "class weights": lambda o, y: F.cross_entropy(o, y, weight=WEIGHTS),
    "a module with class weights": nn.CrossEntropyLoss(WEIGHTS),
    "a module with weights that smooths": nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1),
    "a root of the mean": lambda o, y: F.mse_loss(o, one_hot(o, y)).sqrt(),
}
ALL = MEANS | COUPLED


def network(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)).to(dtype)


def inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn((6, 8), generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def backward(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """As the client computes it, its tensors in the precision of its model."""
    model = network(x.dtype)
    own = copy.deepcopy(loss).to(x.dtype) if isinstance(loss, nn.Module) else loss
    value = loss_function(own)(model(x), y) if x.dtype == torch.float64 else own(model(x), y.clone())
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_capture_is_what_backward_gives(name: str, dtype: torch.dtype) -> None:
    loss, x = ALL[name], inputs(dtype)
    expected = backward(loss, x, LABELS)
    update = capture(network(dtype), x, LABELS, loss)
    for key, gradient in expected.items():
        torch.testing.assert_close(update[key], gradient, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-7)
    assert torch.equal(LABELS, torch.tensor([0, 3, 1, 1, 2, 3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_mean_of_the_batch(name: str, dtype: torch.dtype) -> None:
    loss, x = ALL[name], inputs(dtype)
    single, update = per_example(network(dtype), x, LABELS, loss), capture(network(dtype), x, LABELS, loss)
    for key, gradient in update.items():
        torch.testing.assert_close(single[key].mean(dim=0), gradient, rtol=1e-4 if dtype is torch.float32 else 1e-11, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_a_sample_has_the_gradient_that_it_has_alone_where_the_loss_is_a_mean(name: str) -> None:
    loss, x = ALL[name], inputs(torch.float64)
    single = per_example(network(torch.float64), x, LABELS, loss)
    alone = [capture(network(torch.float64), x[i : i + 1], LABELS[i : i + 1], loss) for i in range(len(x))]
    off = max(float((single[key][i] - one[key]).norm() / one[key].norm()) for i, one in enumerate(alone) for key in one)
    assert off < 1e-12 if name in MEANS else off > 0.1


def test_with_class_weights_a_sample_counts_by_its_weight() -> None:
    """What the docstring of ``per_example`` says."""
    x, weights = inputs(torch.float64), WEIGHTS.double()[LABELS]
    single = per_example(network(torch.float64), x, LABELS, nn.CrossEntropyLoss(WEIGHTS))
    plain = per_example(network(torch.float64), x, LABELS)
    for key in plain:
        share = (len(x) * weights / weights.sum()).reshape(-1, *[1] * (plain[key].ndim - 1))
        torch.testing.assert_close(single[key], share * plain[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_sensitivities_are_those_of_every_sample_alone_with_every_label(name: str, dtype: torch.dtype) -> None:
    model, x, loss = network(dtype), inputs(dtype), ALL[name]
    columns = sensitivities(model, x, "0.weight", loss)
    assert columns.shape == (4, 6, 10)
    assert columns.dtype == torch.float64
    for label in range(4):
        for i in range(len(x)):
            expected = capture(network(torch.float64), x[i : i + 1].double(), torch.tensor([label]), loss)["0.bias"]
            torch.testing.assert_close(columns[label, i], expected, rtol=1e-5, atol=1e-7 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("name", [name for name in MEANS if name not in ("branching",)])
def test_every_loss_runs_under_vmap(name: str) -> None:
    measure, outputs = loss_function(ALL[name]), torch.randn((6, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        together = torch.func.vmap(lambda row, label: measure(row[None], label[None]))(outputs, LABELS)
    torch.testing.assert_close(together.mean(), measure(outputs, LABELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_a_replay_of_the_truth_leaves_nothing(name: str, dtype: torch.dtype) -> None:
    model, x = network(dtype), inputs(dtype)
    assert replay(model, capture(model, x, LABELS, ALL[name]), x, LABELS, ALL[name]).worst < (1e-5 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("name", ALL)
def test_training_takes_it(name: str) -> None:
    model, x = network(torch.float32), inputs(torch.float32)
    local = LocalTraining(epochs=2, batch_size=3, learning_rate=0.1)
    moved = train(model, x, LABELS, local, torch.arange(6).expand(2, 6), ALL[name])
    assert all(bool(tensor.isfinite().all()) and bool(tensor.any()) for tensor in moved.values())


def lost(outputs: Tensor, labels: Tensor) -> Tensor:
    return {}["head"]  # type: ignore[no-any-return]


def picky(outputs: Tensor, labels: Tensor) -> Tensor:
    assert outputs.shape[1] == 2, "two classes only"
    return outputs.mean()


USES: dict[str, Callable[[Callable[..., Tensor]], object]] = {
    "capture": lambda loss: capture(network(torch.float64), inputs(torch.float64), LABELS, loss),
    "per_example": lambda loss: per_example(network(torch.float64), inputs(torch.float64), LABELS, loss),
    "sensitivities": lambda loss: sensitivities(network(torch.float64), inputs(torch.float64), "0.weight", loss),
}


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lost, "KeyError: 'head'"),
        (lambda *_: 1.0, "returns one number, a mean over the batch, got float"),
        (lambda o, y: F.cross_entropy(o, y).detach(), "can be differentiated"),
        (lambda o, y: F.cross_entropy(o, y + 4), "IndexError: Target"),
        (picky, "AssertionError: two classes only"),
        (lambda o: o.mean(), "TypeError"),
        (lambda o, y: o - y[:, None], "a mean over the batch, got numbers of shape"),
    ],
)
@pytest.mark.parametrize("use", USES)
def test_what_a_loss_raises_is_said_to_be_its_own(use: str, loss: Callable[..., Tensor], told: str) -> None:
    with pytest.raises(Misuse, match="loss") as caught:
        USES[use](loss)
    assert told in str(caught.value)


@pytest.mark.parametrize("loss", [3, None, "hinge", ["cross_entropy"]])
def test_what_is_no_loss_is_refused(loss: object) -> None:
    with pytest.raises(Misuse, match="a loss among cross_entropy, nll"):
        loss_function(loss)  # type: ignore[arg-type]
    update = {name: torch.ones_like(p) for name, p in network(torch.float64).named_parameters()}
    with pytest.raises(Misuse, match="a loss among cross_entropy, nll"):
        Observation(network(torch.float64), update, (8,), loss)  # type: ignore[arg-type]


def test_slopes_of_a_named_loss_are_those_of_each_sample() -> None:
    outputs = torch.randn((6, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = outputs.softmax(1) - one_hot(outputs, LABELS)
    torch.testing.assert_close(slopes("cross_entropy", outputs, LABELS), expected)


def test_models_that_vmap_cannot_take_are_split_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network(torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.body(row) if float(row[0]) > 0 else self.body(-row) for row in x])

    model, x = Branching(), inputs(torch.float64)
    single = per_example(model, x, LABELS)
    for i in range(len(x)):
        alone = capture(model, x[i : i + 1], LABELS[i : i + 1])
        for key in alone:
            torch.testing.assert_close(single[key][i], alone[key])


def test_a_model_without_a_gradient_is_one_sentence() -> None:
    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(Misuse, match="can be differentiated, got RuntimeError: element 0 of tensors does not require grad"):
        capture(Cut(8, 4).double(), inputs(torch.float64), LABELS)


def test_a_model_of_several_outputs_is_one_sentence() -> None:
    class Both(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"scores": super().forward(x)}

    for measure in (capture, per_example):
        with pytest.raises(Misuse, match=r"returns a tensor of scores, got dict: wrap it so that it returns a tensor \(b, classes\)"):
            measure(Both(8, 4).double(), inputs(torch.float64), LABELS)
