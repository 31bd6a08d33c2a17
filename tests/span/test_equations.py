"""The identity behind the engine, and its derivatives, on planted batches where everything is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch.clock import Clock
from unbatch.errors import Inapplicable, Misuse
from unbatch.gradients import capture, per_example, sensitivities
from unbatch.span.equations import Equations, Space
from unbatch.span.least_squares import LARGE, _solved, minimize, refine
from unbatch.span.problem import Problem, find_layer, pose
from unbatch.trace import LinearCall
from unbatch.types import Observation


class Branching(nn.Module):
    """A residual block with LayerNorm, batch statistics held, a convolution on reshaped activations, and a path past the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(40, 36), nn.Linear(40, 36)
        self.norm, self.inner = nn.LayerNorm(36), nn.Linear(36, 36)
        self.still, self.picture = nn.BatchNorm1d(36), nn.Conv2d(1, 2, 3, padding=1)
        self.head, self.past = nn.Linear(72, 5), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * torch.sigmoid(self.gate(x))
        hidden = hidden + nn.functional.silu(self.inner(self.norm(hidden)))
        maps = torch.tanh(self.picture(self.still(hidden).view(-1, 1, 6, 6)))
        return self.head(maps.flatten(1)) + self.past(torch.sin(x))


class Steep(nn.Hardsigmoid):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(8 * x)


def chain(activation: type[nn.Module] = nn.GELU, inputs: int = 40) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 36), activation(), nn.Linear(36, 30), activation(), nn.Linear(30, 5))


def posed(model: nn.Module, size: int = 6) -> tuple[Problem, Tensor, Tensor, Tensor, Observation]:
    """The problem, the true p, inputs, labels, and the observation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    model = model.double().eval()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn((size, 40), generator=generator, dtype=torch.float64)
    y = torch.randint(5, (size,), generator=generator)
    observation = Observation(model, capture(model, x, y), (40,))
    call = find_layer(observation)
    assert isinstance(call, LinearCall)
    problem = pose(observation, call, generator)
    points = torch.linalg.lstsq(problem.factors.right.T, x.T).solution.T
    return problem, points, x, y, observation


@pytest.mark.parametrize("model", [chain(), chain(nn.ReLU), Branching()], ids=["gelu", "relu", "branching"])
def test_every_space_holds_the_vectors_of_the_batch_and_no_others(model: nn.Module) -> None:
    problem, points, _, y, _ = posed(model)
    assert torch.allclose(points @ problem.sums, torch.ones(6, dtype=torch.float64))
    assert len(problem.equations.spaces) > 1
    for rest, _ in problem.equations.blocks(points, y):
        assert float(rest.norm(dim=1).max()) < 1e-12
    mixed = 0.5 * (points + points.roll(1, dims=0))
    assert float(problem.equations.misfit(points, y, 1e-9, 5).max()) < 1
    assert float(problem.equations.misfit(mixed, y, 1e-9, 5).min()) > 1000
    assert float(problem.equations.misfit(points, (y + 1) % 5, 1e-9, 5).min()) > 1000


def test_columns_are_those_of_the_samples_own_gradients() -> None:
    problem, points, x, y, observation = posed(Branching())
    name = problem.column.layer
    columns, fed = problem.equations.network.sensitivities(points, y, [name], ["inner.weight"])
    single = per_example(observation.model, x, y)
    assert torch.allclose(columns[name], single["first.bias"], atol=1e-13)
    assert torch.allclose(
        fed["inner.weight"].square().sum(dim=1), torch.full((6,), 36.0, dtype=torch.float64), rtol=1e-2
    )  # behind LayerNorm


def test_columns_of_every_label_are_those_of_the_reference() -> None:
    problem, points, x, _, observation = posed(chain())
    ours = problem.equations.network.by_label(points, problem.column.layer, torch.arange(5))
    assert torch.allclose(ours, sensitivities(observation.model, x, problem.column.layer), atol=1e-13)
    assert problem.equations.best_labels(points, torch.arange(5))[1][:, 0].tolist() == posed(chain())[3].tolist()


def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.1)  # works in place on what has no label: seed 130163


def reading(outputs: Tensor, labels: Tensor) -> Tensor:
    if not 0 <= int(labels.max()) < outputs.shape[1]:  # what nothing under vmap may ask for
        raise ValueError("labels")
    return smoothed(outputs, labels)


@pytest.mark.parametrize("own", [smoothed, reading])
def test_a_loss_of_the_clients_own_is_differentiated_even_where_vmap_cannot(own: Callable[[Tensor, Tensor], Tensor]) -> None:
    problem, points, _, y, _ = posed(chain())
    name, network = problem.column.layer, problem.equations.network
    named = replace(network, loss="cross_entropy:label_smoothing=0.1")
    network = replace(network, loss=own)
    assert torch.allclose(network.by_label(points, name, torch.arange(5)), named.by_label(points, name, torch.arange(5)), atol=1e-13)
    assert torch.allclose(network.sensitivities(points, y, [name])[0][name], named.sensitivities(points, y, [name])[0][name], atol=1e-13)


class Needy(nn.Module):
    """A model that is not made for no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.reshape(len(x), -1))


def test_no_samples_are_asked_of_no_model_and_no_loss() -> None:
    """None are left where all were refused; and ``reshape(len(x), -1)``, ``logsumexp`` and ``kl_div`` are not made for none."""
    problem, points, _, y, _ = posed(Needy())
    name, network = problem.column.layer, replace(problem.equations.network, loss=lambda o, y: o.logsumexp(1).mean() + smoothed(o, y))
    equations, width = replace(problem.equations, network=network), network.by_label(points, name, torch.arange(5)).shape[2]
    assert network.sensitivities(points[:0], y[:0], [name])[0][name].shape == (0, width)
    assert network.by_label(points[:0], name, torch.arange(5)).shape == (5, 0, width)
    assert equations.residuals(points[:0], y[:0]).shape == (0, equations.residuals(points, y).shape[1])
    refined, errors = refine(equations, points[:0], y[:0], torch.eye(points.shape[1], dtype=points.dtype), Clock(60.0))
    assert (refined.shape, errors.shape) == ((0, points.shape[1]), (0,))


@pytest.mark.parametrize("model", [Branching(), chain(nn.RReLU)], ids=["branching", "rrelu"])
def test_slopes_are_those_of_finite_differences(model: nn.Module) -> None:
    problem, points, _, y, _ = posed(model)
    points = points + 0.1 * points.roll(1, dims=0)
    directions = torch.eye(6, dtype=torch.float64)[:2] / problem.factors.right.norm()
    _, slopes = problem.equations.linearized(points, y, directions)
    step = 1e-5
    for slope, direction in zip(slopes.unbind(1), directions, strict=True):
        difference = problem.equations.residuals(points + step * direction, y) - problem.equations.residuals(points - step * direction, y)
        assert torch.allclose(slope, difference / (2 * step), atol=1e-7)


def test_a_hard_sigmoid_is_differentiated_forwards() -> None:
    """Steep, so that samples lie on its flat parts too; in between it is linear, and the columns of a batch are few."""
    problem, points, _, y, _ = posed(nn.Sequential(nn.Linear(40, 36), Steep(), nn.Linear(36, 5)), size=3)
    directions = torch.eye(3, dtype=torch.float64)[:1] / problem.factors.right.norm()
    _, slopes = problem.equations.linearized(points, y, directions)
    step = 1e-6
    difference = problem.equations.residuals(points + step * directions[0], y) - problem.equations.residuals(
        points - step * directions[0], y
    )
    assert torch.allclose(slopes[:, 0], difference / (2 * step), atol=1e-6)


def test_least_squares_lead_back_from_a_tenth_away() -> None:
    problem, points, _, y, _ = posed(chain())
    own = Equations(problem.equations.network, [problem.column])
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = 0.1 * noise * points.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    basis = torch.linalg.svd(problem.sums[None])[2][1:]
    found, values = minimize(own, points + noise @ basis.T @ basis, y, basis, Clock.of(30.0), floor=1e-14)
    assert float(values.max()) < 1e-12
    assert torch.allclose(found, points, rtol=0, atol=1e-9 * float(points.norm()))


def test_too_few_equations_prove_nothing() -> None:
    problem, points, _, y, _ = posed(chain())
    more = torch.randn((36, 26), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wide = torch.linalg.qr(torch.cat([problem.column.basis, more], dim=1))[0]
    crowded = Equations(problem.equations.network, [Space("column", problem.column.layer, wide, torch.zeros(1, 32, dtype=torch.float64))])
    assert crowded.count == 4
    assert float(crowded.residuals(points, y).norm(dim=1).max()) < 1e-12  # a zero, of too few equations
    assert bool(crowded.misfit(points, y, 1e-9, points.shape[1] - 1).isinf().all())
    with pytest.raises(Inapplicable, match="5 samples are 4 unknowns each, and the update gives 7 equations"):
        posed(nn.Sequential(nn.Linear(40, 12), nn.Tanh(), nn.Linear(12, 5)), size=5)


def failing(outputs: Tensor, labels: Tensor) -> Tensor:
    raise ValueError("of its own")


def test_a_loss_that_cannot_be_differentiated_forward_is_an_obstacle_and_no_misuse() -> None:
    problem, *_, observation = posed(chain())
    for loss, error, said in (
        (nn.functional.multi_margin_loss, Inapplicable, "the loss forward.*NotImplementedError"),
        (failing, Misuse, "of its own"),
    ):
        with pytest.raises(error, match=said):
            pose(replace(observation, loss=loss), problem.call, torch.Generator().manual_seed(0))


def test_large_systems_are_solved_as_small_ones_are() -> None:
    """By other factors, since MKL's LU of a batch of large ones broke down (MNIST, b = 600, two threads)."""
    generator = torch.Generator().manual_seed(0)
    for size in (LARGE - 1, LARGE):
        wide = torch.randn((2, size, 2 * size), generator=generator, dtype=torch.float64)
        pull = torch.randn((2, size, 1), generator=generator, dtype=torch.float64)
        curvature = wide @ wide.mT
        assert torch.allclose(curvature @ _solved(curvature, pull), pull, atol=1e-9)
    singular = torch.zeros((1, LARGE, LARGE), dtype=torch.float64)
    _solved(singular, torch.ones((1, LARGE, 1), dtype=torch.float64))  # and says nothing
