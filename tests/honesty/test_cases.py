"""Cases in which the verdict was once wrong, by their number; 12 and 13, on counts and told labels, stand with the restorers."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lies import the_truth
from pools import pool
from scenes import Scene, liar
from test_honesty import trial
from unbatch import plugins
from unbatch.attacks.spear import Spear
from unbatch.gradients import capture
from unbatch.training import LocalTraining
from unbatch.training import train as local_steps
from unbatch.types import Batch, Candidate, Observation, Reconstruction, Status
from verdicts import falsehoods, truth_of
from victims import Clamped, mlp, sharpen, train


def built(inputs: int, width: int, depth: int, classes: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(inputs, width, depth, classes)


def digits(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = pool("digits")
    chosen = torch.randperm(len(source.inputs), generator=torch.Generator().manual_seed(seed))[:count]
    return source.take(chosen), source.labels[chosen]


def judged(seen: Observation, x: Tensor, y: Tensor, seconds: float = 1.0, seed: int = 0, **facts: bool) -> Reconstruction:
    """What SPEAR says, held against the truth."""
    truth = truth_of(seen.model, x, y, size_told=seen.batch_size == len(x), **facts)
    found = Spear(seconds=seconds)(seen, seed=seed)
    assert falsehoods(found, truth) == [], found.reason
    return found


def told_variants(seen: Observation, size: int) -> list[Observation]:
    """The same with the batch size told, and with the factor unknown."""
    return [seen, replace(seen, batch_size=size), replace(seen, factor_known=False), replace(seen, batch_size=size, factor_known=False)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [3000.0, 300.0, 30.0])
def test_row_1_a_network_that_is_sure_of_some_samples(factor: float, seed: int) -> None:
    """Seven of ten labels are what the network says, and it says it loudly: they leave next to nothing in the update."""
    x, y = digits(10, seed)
    model = built(64, 200, 3, 10, seed).double()
    sharpen(model, factor)
    with torch.no_grad():
        y[:7] = model(x[:7]).argmax(dim=1)
    seen = Observation(model, capture(model, x, y), tuple(x.shape[1:]))
    for variant in told_variants(seen, 10)[seed % 2 :: 2]:
        judged(variant, x, y, 0.5, seed)


@cache
def memorized(seed: int) -> nn.Module:
    x, y = digits(150, seed)
    model = built(64, 200, 4, 10, seed)
    train(model, x.float(), y, 250, 1e-3, seed)
    sharpen(model, 4.0)
    return model.double()


@pytest.mark.parametrize("seed", range(4))
def test_row_1_a_batch_that_the_network_has_memorized(seed: int) -> None:
    x, y = digits(150, seed)
    model = memorized(seed)
    for start in (0, 20, 40):
        part = slice(start, start + 10)
        seen = Observation(model, capture(model, x[part], y[part]), tuple(x.shape[1:]))
        for variant in told_variants(seen, 10)[(seed + start // 20) % 2 :: 2]:
            judged(variant, x[part], y[part], 0.5, seed)


@pytest.mark.parametrize("seed", range(4))
def test_row_1_no_copies_are_invented_by_one_who_knows_the_loud_samples(seed: int) -> None:
    """The strongest three of ten, handed in alone, as often as the batch is large, and with their weights scaled to sum to one."""
    x, y = digits(10, seed)
    model = built(64, 200, 3, 10, seed).double()
    sharpen(model, 3000.0)
    with torch.no_grad():
        outputs = model(x)
        y[:7] = outputs[:7].argmax(dim=1)
    strong = F.cross_entropy(outputs, y, reduction="none").argsort(descending=True)[:3]
    seen = Observation(model, capture(model, x, y), tuple(x.shape[1:]))
    copies = strong[torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])]
    for variant in told_variants(seen, 10):
        for chosen in (strong, copies):
            scene = Scene(variant, x, y, x, y)
            found = liar(scene, lambda scene, _, chosen=chosen: Candidate(scene.inputs[chosen], scene.labels[chosen]))(variant)
            assert falsehoods(found, truth_of(model, x, y, size_told=variant.batch_size == 10)) == []


@pytest.mark.parametrize("seed", [1721, 2199, 2615, 3831, 5367, 6263, 8151])
def test_row_4_the_old_trials_that_were_wrong(seed: int) -> None:
    kind, status, missed, worst = trial(seed)
    limit = 0.2 if kind == "local float32" else 1e-3
    assert status is not Status.RECONSTRUCTED or missed < limit
    assert status is not Status.PARTIAL or worst < limit


@pytest.mark.parametrize("seed", range(12))
def test_row_4_full_batch_steps_on_pictures_much_alike(seed: int) -> None:
    """All is told rightly, the order does not matter: the replay decides."""
    x, y = digits(8, seed)
    x = x[:1] + 0.3 * (x - x[:1])
    model = built(64, 60, 3 + seed % 3, 10, seed).double()
    seen = plugins.build("protocols", f"fedavg:epochs={2 + seed % 3},batch_size=0,learning_rate=0.3").observe(model, Batch(x, y))
    judged(seen, x, y, seed=seed)


@pytest.mark.parametrize("seed", range(16))
def test_row_5_mini_batches_of_samples_much_alike(seed: int) -> None:
    x, y = digits(8, 100 + seed)
    x = x[:1] + (0.1, 0.3)[seed % 2] * (x - x[:1])
    model = built(64, 80, 3, 10, seed).double()
    protocol = f"fedavg:epochs={1 + seed % 3},batch_size={2 + seed % 4},learning_rate={(0.1, 0.03, 0.01)[seed % 3]}"
    seen = plugins.build("protocols", protocol).observe(model, Batch(x, y), seed=seed)
    judged(seen, x, y, seed=seed)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("factor", [1.05, 0.95, 2.0, 1.001])
def test_row_5_biases_trained_with_another_rate(factor: float, epochs: int) -> None:
    """Then all samples would be wrong by one factor: their span is right, their scale is not."""
    x, y = digits(6, 3)
    model = built(64, 120, 3, 10).double()
    local = LocalTraining(epochs, 2, 0.02)

    def follow(moving: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {name: (factor if name.endswith("bias") else 1.0) * tensor for name, tensor in capture(moving, inputs, labels).items()}

    order = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(epoch)) for epoch in range(epochs)])
    moved = local_steps(model, x, y, local, order, gradient=follow)
    update = {name: tensor / (local.factor(6) or 1.0) for name, tensor in moved.items()}
    judged(Observation(model, update, tuple(x.shape[1:]), batch_size=6, training=local), x, y)


@pytest.mark.parametrize("seed", range(4))
def test_row_6_large_inputs_whose_bias_gradients_were_halved(seed: int) -> None:
    """Inputs twice as long in a batch twice as large, half of it silent, leave this very update: that batch is a true answer."""
    x, y = digits(8, seed)
    x = 25500 * x
    model = built(64, 120, 4, 10, seed)
    update = {name: tensor / 2 if name.endswith("bias") else tensor for name, tensor in capture(model, x.float(), y).items()}
    silent = 2 * 25500 * digits(8, 100 + seed)[0]
    with torch.no_grad():
        other, named = torch.cat([2 * x, silent]), torch.cat([y, model(silent.float()).argmax(dim=1)])
    for name, tensor in capture(model, other.float(), named).items():
        assert float((tensor - update[name]).norm()) < 5e-5 * float(update[name].norm())
    seen = Observation(model, update, tuple(x.shape[1:]))
    assert judged(seen, other, named, 30.0, seed).status is Status.PARTIAL
    # Of sixteen, each of eight would count twice; in float32 two that are much alike leave the same, and where the network hardly turns
    # as a sample moves, even two that are not: then no sample is proved.
    assert judged(replace(seen, batch_size=16), other, named, 30.0, seed).status in (Status.PARTIAL, Status.UNPROVEN)
    # Eight were told: then the length by the bias gradient and that by the count disagree, and no sample is proved.
    contradicted = judged(replace(seen, batch_size=8), x, y, seed=seed)
    assert not contradicted.status.disclosed
    for length in (1.0, 2.0):
        told = replace(seen, batch_size=8)
        handed = liar(Scene(told, x, y, x, y), lambda scene, _, length=length: Candidate(length * scene.inputs, scene.labels))(told)
        assert not handed.status.disclosed


def test_row_6_faint_inputs_of_a_network_without_biases_in_bf16() -> None:
    for seed in range(4):
        x, y = digits(8, seed)
        x = 1e-3 * x
        model = built(64, 120, 4, 10, seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
        update = {name: tensor.bfloat16() for name, tensor in capture(model, x.float(), y).items()}
        update["1.weight"] = 1.5 * update["1.weight"]
        judged(Observation(model, update, tuple(x.shape[1:])), x, y, seed=seed, coarse=True)


@pytest.mark.parametrize("scale", [1e-7, 3e-7, 1e-6, 1e-5])
def test_row_6_inputs_near_the_rounding_of_what_they_are_added_to(scale: float) -> None:
    for seed in range(2):
        x, y = digits(8, seed)
        model = built(64, 120, 4, 10, seed)
        update = capture(model, (scale * x).float(), y)
        judged(Observation(model, update, tuple(x.shape[1:])), scale * x, y, seed=seed)
        damaged = {**update, "1.bias": 1.5 * update["1.bias"]}
        judged(Observation(model, damaged, tuple(x.shape[1:])), scale * x, y, seed=seed)


def normalized(seed: int) -> nn.Module:
    layers = list(built(64, 120, 4, 10, seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(*layers[:3], nn.BatchNorm1d(120), *layers[3:])


@pytest.mark.parametrize("seed", range(6))
def test_row_7_batch_statistics_and_a_zero_sample_in_fp16(seed: int) -> None:
    x, y = digits(8, seed)
    x[seed % 8] = 0.0
    model = normalized(seed)
    update = {name: tensor.half() for name, tensor in capture(model, x.float(), y).items()}
    judged(Observation(model, update, tuple(x.shape[1:])), x, y, seed=seed, coarse=True)


@pytest.mark.parametrize("factor", [1.01, 0.99, 1.5])
def test_row_7_batch_statistics_and_a_scaled_bias(factor: float) -> None:
    for seed in range(3):
        x, y = digits(8, seed)
        model = normalized(seed).double()
        update = capture(model, x, y)
        update["1.bias"] = factor * update["1.bias"]
        judged(Observation(model, update, tuple(x.shape[1:])), x, y, seed=seed)


@pytest.mark.parametrize("seed", range(12))
def test_row_8_labels_under_local_steps(seed: int) -> None:
    """Steps so large that a sample's columns before and after them say little of its label."""
    x, y = digits(8, 200 + seed)
    model = built(64, 150, 3, 10, seed).double()
    rate, mini, epochs = (0.05, 0.3, 1.0)[seed % 3], (0, 2, 3)[seed // 3 % 3], 1 + seed % 4
    protocol = f"fedavg:epochs={epochs},batch_size={mini},learning_rate={rate}"
    judged(plugins.build("protocols", protocol).observe(model, Batch(x, y), seed=seed), x, y, seed=seed)


@pytest.mark.parametrize("limit", [0.5, 0.9, 2.0])
def test_row_9_inputs_that_the_network_clamps(limit: float) -> None:
    for seed in range(3):
        x, y = digits(6, seed)
        x = 5 * (x - 0.5)
        model = Clamped(built(64, 120, 3, 10, seed), limit).double()
        judged(Observation(model, capture(model, x, y), tuple(x.shape[1:])), x, y, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_row_9_a_clamp_that_noise_does_not_reach(seed: int) -> None:
    x, y = digits(6, seed)
    x = 255 * x
    model = Clamped(built(64, 120, 3, 10, seed), 5.0).double()
    judged(Observation(model, capture(model, x, y), tuple(x.shape[1:])), x, y, seed=seed)


def planted(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor, Observation]:
    x, y = digits(8, seed)
    model = built(64, 150, 4, 10, seed).double()
    return model, x, y, Observation(model, capture(model, x, y), tuple(x.shape[1:]))


@pytest.mark.parametrize("factor", [0.5, 0.25, 0.8])
def test_row_10_an_update_that_was_scaled_in_secret(factor: float) -> None:
    """Half an update is one in which as many samples again left no trace, or one that was halved: nobody can know which."""
    _, x, y, seen = planted()
    found = judged(replace(seen, update={name: factor * tensor for name, tensor in seen.update.items()}), x, y, scale_told=False)
    assert "8 more samples" not in found.reason
    assert found.status is not Status.RECONSTRUCTED


@pytest.mark.parametrize("seed", range(4))
def test_row_10_class_weights_told_as_plain_cross_entropy(seed: int) -> None:
    model, x, y, seen = planted(seed)
    weights = torch.randint(1, 5, (10,), generator=torch.Generator().manual_seed(seed)).double()

    def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
        return (weights[labels] * F.cross_entropy(outputs, labels, reduction="none")).mean()

    for size in (None, 8):
        judged(replace(seen, update=capture(model, x, y, weighted), batch_size=size), x, y, seed=seed, scale_told=False)


@pytest.mark.parametrize("size", [7, 9, 10, 16])
def test_row_10_a_wrong_batch_size_is_contradicted(size: int) -> None:
    _, x, y, seen = planted()
    found = judged(replace(seen, batch_size=size), x, y)
    assert "batch size" in found.reason
    assert found.inputs is None or len(found.inputs) <= 8


@pytest.mark.parametrize("how", ["one changed", "all next", "one fewer"])
def test_row_10_wrong_labels_are_contradicted(how: str) -> None:
    _, x, y, seen = planted()
    labels = {"one changed": torch.cat([y[:7], (y[7:] + 1) % 10]), "all next": (y + 1) % 10, "one fewer": y[:7]}[how]
    found = judged(replace(seen, labels=labels), x, y)
    assert "label" in found.reason


@pytest.mark.parametrize("seed", range(4))
def test_row_11_one_neuron_at_its_kink(seed: int) -> None:
    """In float32 the client's neuron fires, in float64 it does not: the samples are right all the same, and must be proved."""
    x, y = digits(20, seed)
    x = x.float()
    model = built(64, 200, 4, 10, seed)
    assert kinked(model, x)
    update = capture(model, x, y)
    seen = Observation(model, update, tuple(x.shape[1:]))
    truth = truth_of(model, x, y)
    handed = liar(Scene(seen, x.double(), y, x.double(), y), the_truth)(seen)
    for found in (handed, Spear(seconds=20.0)(seen, seed=seed)):
        assert falsehoods(found, truth) == []
        assert found.status.disclosed, f"{found.status.name}: {found.reason}"
        assert found.inputs is not None
        assert len(found.inputs) >= 19


def kinked(model: nn.Sequential, x: Tensor) -> bool:
    """Move the bias of one neuron of the second layer until it fires for the first sample in float32 and not in float64."""
    with torch.no_grad():
        first, second = model[1], model[3]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        single = first(x.flatten(1)).relu()
        twin_first = F.linear(x.flatten(1).double(), first.weight.double(), first.bias.double()).relu()
        for neuron in range(200):
            before = second.bias[neuron].item()
            second.bias[neuron] -= second(single)[0, neuron]
            for _ in range(60):
                here = float(second(single)[0, neuron])
                there = float((twin_first @ second.weight.double().T + second.bias.double())[0, neuron])
                if here > 0 >= there:
                    return True
                second.bias[neuron] = torch.nextafter(second.bias[neuron], torch.tensor(torch.inf if here <= 0 else -torch.inf))
            second.bias[neuron] = before
    return False


def test_every_row_has_its_test() -> None:
    names = re.findall(r"def test_row_(\d+)_", "".join(path.read_text() for path in Path(__file__).parent.glob("test_cases*.py")))
    assert {int(name) for name in names} == set(range(1, 12))
