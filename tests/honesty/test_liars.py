"""A gallery of liars: whatever an attack hands in, nothing is called disclosed beyond what is true."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from equations import lie_of_solved_equations
from lies import LIES, the_true_features, the_truth
from pools import pool
from scenes import Lie, Scene, breaking, liar
from unbatch import plugins
from unbatch.determinism import Behavior
from unbatch.types import Batch, Candidate, Observation, Reconstruction, Status
from verdicts import Truth, claimed, falsehoods, layer_inputs, truth_of
from victims import Residual, mlp, sharpen, train

SIZE = 8


def scene(
    name: str = "digits",
    *,
    model: Callable[[int, int], nn.Module] = lambda n, classes: mlp(n, 100, 4, classes),
    dtype: torch.dtype = torch.float64,
    protocol: str = "fedsgd",
    defense: str | None = None,
    factor: float | None = None,
    steps: int = 0,
    seed: int = 0,
    size_told: bool = False,
    **told: object,
) -> tuple[Scene, Truth]:
    source = pool(name)
    chosen = torch.randperm(len(source.inputs), generator=torch.Generator().manual_seed(seed))[: SIZE + 200]
    inputs, labels = source.take(chosen), source.labels[chosen]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        victim = model(inputs[0].numel(), source.classes)
        if steps:
            train(victim, inputs[:150].float(), labels[:150], steps, 3e-3, seed)
    if factor is not None:
        sharpen(victim, factor)
    victim = victim.to(dtype)
    batch = Batch(inputs[:SIZE], labels[:SIZE])
    defenses = [] if defense is None else [plugins.build("defenses", defense)]
    seen: Observation = plugins.build("protocols", protocol).observe(victim, batch, defenses=defenses)
    if size_told or told:
        seen = replace(seen, batch_size=SIZE if size_told else seen.batch_size, **told)  # type: ignore[arg-type]
    truth = truth_of(victim, batch.inputs, batch.labels, coarse=defense is not None, size_told=seen.batch_size == SIZE)
    return Scene(seen, truth.inputs, batch.labels, inputs[SIZE:], labels[SIZE:]), truth


SCENES: dict[str, Callable[[], tuple[Scene, Truth]]] = {
    "a gradient": scene,
    "a gradient, size told": lambda: scene(size_told=True),
    "float32": lambda: scene(dtype=torch.float32),
    "fp16": lambda: scene(dtype=torch.float32, defense="quantization:kind=fp16"),
    "factor unknown": lambda: scene(factor_known=False),
    "two layers": lambda: scene(model=lambda n, classes: mlp(n, 60, 2, classes)),
    "narrow": lambda: scene(model=lambda n, classes: mlp(n, 14, 3, classes)),
    "gelu": lambda: scene(model=lambda n, classes: mlp(n, 80, 3, classes, nn.GELU)),
    "residual": lambda: scene(model=lambda n, classes: Residual(n, 80, classes, 2)),
    "sharpened": lambda: scene(model=lambda n, classes: mlp(n, 120, 3, classes), factor=1000.0),
    "memorized and sharpened": lambda: scene(steps=250, factor=4.0),
    "memorized, factor unknown": lambda: scene(steps=250, factor=4.0, factor_known=False),
    "adult": lambda: scene("adult"),
    "sum": lambda: scene(protocol="secure_aggregation:clients=3"),
    "full steps": lambda: scene(protocol="fedavg:epochs=3,batch_size=0,learning_rate=0.05"),
    "mini-batches": lambda: scene(protocol="fedavg:epochs=2,batch_size=3,learning_rate=0.05"),
    "mini-batches, one epoch": lambda: scene(protocol="fedavg:epochs=1,batch_size=2,learning_rate=0.01"),
    "rate unknown": lambda: scene(protocol="fedavg:epochs=1,batch_size=0,learning_rate=0.01,rate_known=false"),
    "pruned": lambda: scene(defense="pruning:share=0.5"),
    "batch statistics": lambda: scene(model=_normalized),
}


def _normalized(inputs: int, classes: int) -> nn.Module:
    layers = list(mlp(inputs, 100, 3, classes))
    return nn.Sequential(*layers[:3], nn.BatchNorm1d(100), *layers[3:])


@cache
def _made(place: str) -> tuple[Scene, Truth]:
    return SCENES[place]()


def played(place: str) -> tuple[Scene, Truth]:
    """Made once, since some of them are trained; a copy, since some liars forge what they are shown."""
    return copy.deepcopy(_made(place))


@pytest.mark.parametrize("place", SCENES)
@pytest.mark.parametrize("name", LIES)
def test_no_lie_is_called_disclosed(name: str, place: str) -> None:
    told, truth = played(place)
    found = liar(told, LIES[name])(told.observation, seed=1)
    assert falsehoods(found, truth) == []


@pytest.mark.parametrize(
    "place",
    [place for place in SCENES if not {"sharpened", "fp16", "pruned", "batch", "mini-batches", "mini-batches,"} & set(place.split())],
)
def test_the_truth_is_believed(place: str) -> None:
    """The gallery bites: a judge that believes nobody would pass it."""
    told, truth = played(place)
    found = liar(told, the_truth)(told.observation, seed=1)
    assert falsehoods(found, truth) == []
    believed = found.status.disclosed or (not told.observation.one_gradient and found.status is Status.APPROXIMATE)
    assert believed or place.startswith(("memorized", "narrow")), f"{found.status.name}: {found.reason}"


@pytest.mark.parametrize(
    "place", ["a gradient", "a gradient, size told", "float32", "two layers", "gelu", "residual", "adult", "sum", "full steps"]
)
def test_the_whole_truth_is_called_whole(place: str) -> None:
    told, truth = played(place)
    found = liar(told, the_truth)(told.observation, seed=1)
    assert (found.status, falsehoods(found, truth)) == (Status.RECONSTRUCTED, [])


def test_true_features_are_believed() -> None:
    told, truth = scene()
    found = liar(told, the_true_features)(told.observation, seed=1)
    assert found.status is Status.FEATURES
    assert falsehoods(found, truth) == []


@pytest.mark.parametrize(
    "name", ["truth and junk", "truth and a stranger", "truth and a mixture", "one wrong label", "one scaled", "one left out"]
)
def test_what_is_true_beside_a_lie_is_still_told(name: str) -> None:
    told, truth = scene(size_told=True)
    found = liar(told, LIES[name])(told.observation, seed=1)
    assert found.status is Status.PARTIAL
    assert falsehoods(found, truth) == []
    assert claimed(found) == SIZE - 1


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("no"), ZeroDivisionError(), RuntimeError("shapes"), IndexError("3")])
def test_an_attack_that_fails_says_nothing_about_the_update(error: Exception) -> None:
    told, _ = scene()
    found = breaking(error)(told.observation, seed=1)
    assert found.status.name == "BROKE_DOWN"
    assert found.inputs is None
    assert type(error).__name__ in found.error  # type: ignore[attr-defined]


MEDDLING: dict[str, Callable[[Observation], object]] = {
    "the update": lambda seen: next(iter(seen.update.values())).mul_(2),
    "the model": lambda seen: next(seen.model.parameters()).data.mul_(2),
    "the batch size that was told": lambda seen: object.__setattr__(seen, "batch_size", SIZE - 1),
    "whether the factor is known": lambda seen: object.__setattr__(seen, "factor_known", False),
    "whether samples are coupled": lambda seen: seen.__dict__.update(behavior=Behavior(changes=False, couples=True)),
    "how coarse the update is": lambda seen: seen.__dict__.update(rounding=torch.bfloat16),
    "what sees the raw input": lambda seen: [setattr(call, "raw", True) for call in seen.layers],
}


@pytest.mark.parametrize("what", MEDDLING)
def test_an_attack_that_writes_to_what_the_evidence_reads_is_seen(what: str) -> None:
    told, _ = scene(size_told=True)

    def lie(scene: Scene, generator: torch.Generator) -> Candidate:
        MEDDLING[what](scene.observation)
        return the_truth(scene, generator)

    found = liar(told, lie)(told.observation, seed=1)
    assert found.status.name == "BROKE_DOWN"
    assert "changed" in found.reason


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_members_are_proved_in_any_company(kept: int) -> None:
    """Any true part of the batch, amid strangers: what is called disclosed is that part or less, never more."""
    told, truth = scene()

    def lie(scene: Scene, generator: torch.Generator) -> Candidate:
        inputs = torch.cat([scene.inputs[:kept], scene.strangers[: SIZE - kept]])
        labels = torch.cat([scene.labels[:kept], scene.stranger_labels[: SIZE - kept]])
        mixed = torch.randperm(SIZE, generator=generator)
        return Candidate(inputs[mixed], labels[mixed])

    found = liar(told, lie)(told.observation, seed=kept)
    assert falsehoods(found, truth) == []
    assert claimed(found) <= kept


@pytest.mark.parametrize(
    ("width", "size", "depth"), [(40, 36, 3), (40, 38, 3), (40, 39, 2), (60, 50, 2), (60, 40, 2), (60, 34, 2), (60, 30, 2)]
)
def test_solved_equations_prove_nothing(width: int, size: int, depth: int) -> None:
    """A sample that was never there and solves the certificate's equations: there are such where the equations are fewer than b."""
    told, truth = _crowded(width, size, depth)
    found = liar(told, lie_of_solved_equations)(told.observation, seed=1)
    assert falsehoods(found, truth) == []


def _crowded(width: int, size: int, depth: int) -> tuple[Scene, Truth]:
    source = pool("synthetic")
    inputs, labels = source.take(torch.arange(2 * size)), source.labels[: 2 * size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(inputs[0].numel(), width, depth, source.classes, nn.GELU).double()
    batch = Batch(inputs[:size], labels[:size])
    seen = plugins.build("protocols", "fedsgd").observe(model, batch)
    truth = truth_of(model, batch.inputs, batch.labels)
    return Scene(seen, truth.inputs, batch.labels, inputs[size:], labels[size:]), truth


def test_the_gallery_is_as_large_as_promised() -> None:
    assert len(LIES) >= 15


def test_verdicts_see_through_what_they_must() -> None:
    """The judge of the judge: each kind of falsehood is found on a planted one, none on the truth."""
    told, truth = scene(size_told=True)
    x, y = told.inputs, told.labels
    layer = told.layers[1]

    def kinds(status: Status, inputs: torch.Tensor, labels: torch.Tensor) -> list[str]:
        return [wrong.kind for wrong in falsehoods(Reconstruction(status, inputs, labels), truth)]

    assert kinds(Status.RECONSTRUCTED, x.flip(0), y.flip(0)) == []
    assert kinds(Status.PARTIAL, x[2:4], y[2:4]) == []
    assert kinds(Status.APPROXIMATE, -x, y) == []
    assert kinds(Status.PARTIAL, 1.01 * x, y) == ["false sample"]
    assert kinds(Status.PARTIAL, x, (y + 1) % 10) == ["false label"]
    assert kinds(Status.RECONSTRUCTED, x[1:], y[1:]) == ["false completeness"]
    assert kinds(Status.RECONSTRUCTED, x[[0, 0, *range(2, SIZE)]], y[[0, 0, *range(2, SIZE)]]) == ["false completeness"]
    assert kinds(Status.PARTIAL, x[[0, 0]], y[[0, 0]]) == ["invented copies"]
    assert kinds(Status.PARTIAL, x[:0], y[:0]) == ["empty"]
    rows = layer_inputs(truth.model, x, layer)
    assert falsehoods(Reconstruction(Status.FEATURES, features=rows, stats={"layer": layer}), truth) == []
    wrong = falsehoods(Reconstruction(Status.FEATURES, features=1.01 * rows, stats={"layer": layer}), truth)
    assert [falsehood.kind for falsehood in wrong] == ["false features"]


def test_a_lie_is_a_function_of_its_scene() -> None:
    lie: Lie = LIES["junk"]
    told, _ = scene()
    first, second = (lie(told, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.inputs is not None
    assert second.inputs is not None
    assert torch.equal(first.inputs, second.inputs)
