"""The descent: as each restart alone, best by its own objective, and an end with a reason whatever happens."""

import math
import time

import pytest
import torch
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.inversion.descent import Descent
from unbatch.inversion.optimizers import LBFGS, Adam


def rosenbrock(point: Tensor) -> Tensor:
    x, y = point[:, 0], point[:, 1]
    return (1 - x).square() + 5 * (y - x.square()).square()


STARTS = torch.tensor([[-1.0, 1.0], [0.5, 2.0], [2.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_adam_is_that_of_torch(rate: float) -> None:
    expected = STARTS.clone().requires_grad_()
    other = torch.optim.Adam([expected], lr=rate)
    point, mine = STARTS.clone(), Adam()
    for _ in range(50):
        other.zero_grad()
        rosenbrock(expected).sum().backward()
        other.step()
        leaf = point.requires_grad_()
        gradient = torch.autograd.grad(rosenbrock(leaf).sum(), leaf)[0]
        point = (point + mine.step(point, gradient, rate)).detach()
    assert torch.allclose(point, expected, rtol=1e-9)


def test_lbfgs_is_that_of_torch_for_every_row_alone() -> None:
    """On a quartic bowl, where torch's own, without a line search, converges too."""

    def bowl(point: Tensor) -> Tensor:
        scale = torch.arange(1, 6, dtype=torch.float64)
        return (scale * (point - 1).square() + 0.1 * (point - 1) ** 4).sum(dim=1)

    start = torch.randn((3, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Descent("lbfgs", 12, 1.0).run(lambda v: bowl(v["x"]), {"x": start})
    for i in range(3):
        alone = start[i : i + 1].clone().requires_grad_()
        other = torch.optim.LBFGS([alone], lr=1, max_iter=12, max_eval=100, history_size=100, tolerance_grad=0, tolerance_change=0)

        def closure(alone: Tensor = alone, other: torch.optim.LBFGS = other) -> Tensor:
            other.zero_grad()
            value = bowl(alone).sum()
            value.backward()
            return value

        other.step(closure)
        assert torch.allclose(found.variables["x"][i], alone[0], rtol=1e-6, atol=1e-8)


def test_a_row_that_diverges_leaves_the_others_alone() -> None:
    def objective(v: dict[str, Tensor]) -> Tensor:
        value = (v["x"] - 1).square().sum(dim=1)
        return value + 1e-12 * (50 - value).sqrt()

    start = torch.tensor([[0.0], [-20.0], [3.0]], dtype=torch.float64)
    found = Descent("lbfgs", 40, 1.0).run(objective, {"x": start})
    assert found.diverged.tolist() == [False, True, False]
    assert torch.allclose(found.variables["x"][[0, 2]], torch.ones(2, 1, dtype=torch.float64))
    assert found.values[1] == math.inf
    assert not found.failed
    assert "1 of 3 restarts diverged" in found.sentence


def test_when_all_diverge_it_says_so() -> None:
    found = Descent(steps=1000).run(lambda v: v["x"].sum(dim=1) * torch.nan, {"x": torch.zeros(2, 3)})
    assert (found.ending, found.failed, found.steps) == ("diverged", True, 0)
    assert "every restart diverged" in found.sentence
    later = Descent(steps=1000).run(lambda v: v["x"].sum(dim=1).sqrt(), {"x": torch.full((2, 3), 0.35)})
    assert (later.ending, later.failed) == ("diverged", False)
    assert bool(later.values.isfinite().all())


def test_the_best_iterate_is_kept_with_its_objective() -> None:
    """Far too long steps: the last iterate is worse than the best, and the best is what its objective says."""
    found = Descent(steps=51, learning_rate=0.9).run(lambda v: (v["x"].abs()).sum(dim=1), {"x": torch.tensor([[2.0, -1.0], [0.3, 5.0]])})
    seen: list[Tensor] = []
    Descent(steps=51, learning_rate=0.9).run(
        lambda v: seen.append(v["x"].detach().abs().sum(1)) or v["x"].abs().sum(1), {"x": torch.tensor([[2.0, -1.0], [0.3, 5.0]])}
    )
    assert torch.equal(found.values, torch.stack(seen).amin(dim=0))
    assert torch.equal(found.variables["x"].abs().sum(dim=1), found.values)
    assert bool((seen[-1] > found.values).any())


def test_it_stops_where_it_is_enough() -> None:
    found = Descent(steps=5000, enough=1e-3).run(lambda v: v["x"].square().sum(dim=1), {"x": torch.tensor([[2.0], [9.0]])})
    assert found.ending == "enough"
    assert found.steps < 200
    assert float(found.values.min()) <= 1e-3


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_time_budget_holds(pause: float) -> None:
    def slow(v: dict[str, Tensor]) -> Tensor:
        time.sleep(pause)
        return v["x"].square().sum(dim=1)

    began = time.monotonic()
    found = Descent(steps=10_000_000).run(slow, {"x": torch.ones(1, 2)}, deadline=began + 0.6)
    assert time.monotonic() - began < 10.0  # without the budget it would be hours; a loaded machine is given time
    assert found.ending == "time"
    assert "its time was up" in found.sentence
    assert found.steps > 3


@pytest.mark.parametrize("at", [1, 17])
def test_an_interrupt_keeps_the_best_so_far(at: int) -> None:
    calls = []

    def objective(v: dict[str, Tensor]) -> Tensor:
        calls.append(None)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return v["x"].square().sum(dim=1)

    found = Descent(steps=100).run(objective, {"x": torch.tensor([[2.0], [9.0]])})
    assert (found.ending, found.steps) == ("interrupted", at)
    assert torch.equal(found.variables["x"].square()[:, 0], found.values)
    assert f"interrupted after {at} of 100 steps" in found.sentence


def test_progress_tells_the_objective() -> None:
    told: list[tuple[str, float]] = []

    def slow(v: dict[str, Tensor]) -> Tensor:
        time.sleep(0.1)
        return v["x"].square().sum(dim=1)

    Descent(steps=12).run(slow, {"x": torch.ones(1, 2)}, progress=lambda text, done: told.append((text, done)))
    assert 2 <= len(told) <= 6
    assert all("objective" in text and 0 < done < 1 for text, done in told)


def test_projection_keeps_every_iterate_inside() -> None:
    seen: list[float] = []

    def objective(v: dict[str, Tensor]) -> Tensor:
        seen.append(float(v["x"].detach().max()))
        return (v["x"] - 9).square().sum(dim=1)

    found = Descent(steps=60).run(objective, {"x": torch.zeros(2, 3)}, lambda v: {"x": v["x"].clamp(max=1)})
    assert max(seen) <= 1
    assert torch.equal(found.variables["x"], torch.ones(2, 3))


def test_several_variables_come_back_in_their_shapes() -> None:
    start = {"a": torch.ones(2, 3, 4), "b": torch.zeros(2, 5)}
    found = Descent(steps=3).run(lambda v: v["a"].square().sum(dim=(1, 2)) + v["b"].square().sum(dim=1), start)
    assert {name: tuple(tensor.shape) for name, tensor in found.variables.items()} == {"a": (2, 3, 4), "b": (2, 5)}
    assert torch.equal(start["a"], torch.ones(2, 3, 4))


def test_signs_and_schedules() -> None:
    gradient = torch.tensor([[3.0, -0.01, 0.0]])
    assert Descent(sign="hard")._shaped(gradient, 0).tolist() == [[1.0, -1.0, 0.0]]
    assert torch.allclose(Descent(sign="soft", steps=10)._shaped(gradient, 9), (0.1 * gradient).tanh() / 0.1)
    warm = Descent(steps=110, schedule="cosine", warm_up=10)
    assert [round(warm.rate(step), 4) for step in (0, 9, 10, 60, 109)] == [0.01, 0.1, 0.1, 0.05, 0.0]
    paper = Descent(steps=4800, schedule="thirds")
    changes = [step for step in range(1, 4800) if paper.rate(step) < paper.rate(step - 1)]
    assert changes == [1799, 3000, 4203]


def test_memory_does_not_grow_with_steps() -> None:
    """Nothing of an iterate's graph outlives its step: the number of living tensors is the same after many."""
    import gc

    alive: list[int] = []

    def objective(v: dict[str, Tensor]) -> Tensor:
        if len(alive) in (0, 1) or len(alive) % 40 == 0:
            gc.collect()
            alive.append(sum(type(thing) is Tensor for thing in gc.get_objects()))
        else:
            alive.append(alive[-1])
        return (v["x"].square() * v["x"].exp()).sum(dim=1)

    Descent(steps=201).run(objective, {"x": torch.ones(2, 3)})
    assert alive[-1] <= alive[40]
    lbfgs = LBFGS(history=5)
    for i in range(20):
        lbfgs.step(torch.ones(1, 2) * i, torch.ones(1, 2) * i, 1.0)
    assert len(lbfgs.pairs) == 5


@pytest.mark.parametrize("settings", [{"steps": 0}, {"learning_rate": 0.0}, {"warm_up": -1}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(Misuse):
        Descent(**settings)  # type: ignore[arg-type]
