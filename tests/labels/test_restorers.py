"""Known answers of the label restorers, their naive twins, and what they refuse."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unbatch
from unbatch import plugins
from unbatch.contracts import Attack, Estimate, LabelRestorer
from unbatch.gradients import capture
from unbatch.labels._whole import expected_error
from unbatch.labels.anchored import Anchored
from unbatch.labels.ilrg import ILRG, class_embeddings, solve
from unbatch.labels.llg import LLG
from unbatch.last_layer import last_layer
from unbatch.linalg.simplex import whole
from unbatch.types import Candidate, Observation, Progress


def network(seed: int, sizes: tuple[int, ...] = (30, 80, 60, 10), activation: type[nn.Module] = nn.ReLU, gain: float = 1.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), activation()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        model[-1].weight *= gain
    return model


def observe(seed: int, labels: Tensor, told: bool = True, gain: float = 1.0, activation: type[nn.Module] = nn.ReLU) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    model = network(seed, gain=gain, activation=activation)
    inputs = torch.randn((len(labels), 30), generator=generator, dtype=torch.float64)
    return Observation(model, capture(model, inputs, labels), (30,), batch_size=len(labels) if told else None)


def random_labels(seed: int, size: int, classes: int = 10) -> Tensor:
    return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))


def counted(labels: Tensor) -> list[int]:
    return torch.bincount(labels, minlength=10).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_identity_gives_the_counts_from_the_true_mean_probability(seed: int) -> None:
    labels = random_labels(seed, 700)
    generator = torch.Generator().manual_seed(seed)
    model = network(seed)
    inputs = torch.randn((700, 30), generator=generator, dtype=torch.float64)
    shift = capture(model, inputs, labels)["4.bias"]
    mean = torch.softmax(model(inputs), dim=1).mean(dim=0)
    assert torch.allclose(700 * (mean - shift), torch.bincount(labels, minlength=10).double(), atol=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("size", [1, 5, 24, 64])
def test_the_default_restores_untrained_networks(size: int, activation: type[nn.Module]) -> None:
    for seed in range(3):
        labels = random_labels(seed, size)
        found = unbatch.restore_labels(observe(seed, labels, activation=activation))
        assert found.counts is not None, found.reason
        assert found.counts.tolist() == counted(labels)


def test_one_of_every_class() -> None:
    for seed in range(5):
        found = Anchored()(observe(seed, torch.arange(10)))
        assert found.counts is not None
        assert found.counts.tolist() == [1] * 10


def test_one_class_alone() -> None:
    found = Anchored()(observe(0, torch.full((40,), 7)))
    assert found.counts is not None
    assert found.counts.tolist() == [0] * 7 + [40, 0, 0]


def test_the_expected_error_is_the_error() -> None:
    errors, expected = [], []
    for seed in range(20):
        labels = random_labels(seed, 1000)
        found = Anchored()(observe(seed, labels))
        assert found.estimate is not None
        errors.append(float((found.estimate - torch.bincount(labels, minlength=10)).square().mean().sqrt()))
        expected.append(found.deviation)
    assert 0.4 < np.median(errors) / np.median(expected) < 2.5


@pytest.mark.parametrize("size", [7, 24])
def test_finds_an_unknown_batch_size(size: int) -> None:
    labels = torch.cat([torch.tensor([3]), random_labels(1, size - 1)])
    found = Anchored()(observe(1, labels, told=False))
    assert found.batch_size == size
    assert found.counts is not None
    assert found.counts.tolist() == counted(labels)


def test_asks_for_the_batch_size_where_it_cannot_be_found() -> None:
    found = Anchored()(observe(1, random_labels(1, 3000), told=False))
    assert found.counts is None
    assert "batch size" in found.reason
    for restorer in (ILRG(), LLG()):
        assert "batch size" in restorer(observe(1, torch.arange(4), told=False)).reason


def softened(model: nn.Module, inputs: Tensor, soft: Tensor) -> dict[str, Tensor]:
    loss = F.cross_entropy(model(inputs), soft)
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


@pytest.mark.parametrize("size", [1, 4, 16])
def test_refuses_smoothed_labels(size: int) -> None:
    for seed in range(5):
        model = network(seed)
        inputs = torch.randn((size, 30), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        soft = 0.8 * F.one_hot(random_labels(seed, size, 3), 10).double() + 0.02
        found = Anchored()(Observation(model, softened(model, inputs, soft), (30,), batch_size=size))
        assert found.counts is None
        assert "soft" in found.reason


def test_refuses_mixed_labels() -> None:
    model = network(0)
    inputs = torch.randn((8, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = F.one_hot(torch.arange(8), 10).double(), F.one_hot(torch.full((8,), 9), 10).double()
    found = Anchored()(Observation(model, softened(model, inputs, 0.65 * first + 0.35 * second), (30,), batch_size=8))
    assert "soft" in found.reason


def test_a_wrong_batch_size_is_noticed() -> None:
    labels = random_labels(0, 10)
    seen = observe(0, labels)
    found = Anchored()(Observation(seen.model, dict(seen.update), (30,), batch_size=11))
    assert found.counts is None
    assert "batch size is wrong" in found.reason


def test_noise_is_measured_and_does_not_make_it_refuse() -> None:
    labels = random_labels(0, 24)
    seen = observe(0, labels)
    generator = torch.Generator().manual_seed(0)
    noisy = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator).double() for name, tensor in seen.update.items()}
    found = Anchored()(Observation(seen.model, noisy, (30,), batch_size=24))
    assert 0.7e-3 < found.stats["noise"] < 1.4e-3
    assert found.counts is not None
    assert found.counts.tolist() == counted(labels)


def test_a_pruned_bias_is_noise_not_soft_labels() -> None:
    labels = random_labels(0, 24)
    seen = observe(0, labels)
    update = {name: tensor.clone() for name, tensor in seen.update.items()}
    update["4.bias"][update["4.bias"].abs().argmin()] = 0
    found = Anchored()(Observation(seen.model, update, (30,), batch_size=24))
    assert found.stats["noise"] > 0
    assert found.counts is not None


@pytest.mark.parametrize("name", ["anchored", "ilrg"])
def test_without_a_bias_it_says_so(name: str) -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10, bias=False)).double()
    update = capture(model, torch.randn(4, 30).double(), torch.arange(4))
    found = unbatch.restore_labels(Observation(model, update, (30,), batch_size=4), name, attack=None)
    assert not found.applicable
    assert "no bias" in found.reason


@pytest.mark.parametrize("name", ["idlg", "gradinversion", "llg"])
def test_methods_of_signs_refuse_features_below_zero(name: str) -> None:
    found = unbatch.restore_labels(observe(0, torch.arange(4), activation=nn.Tanh), name)
    assert not found.applicable
    assert "negative" in found.reason


def test_rlg_refuses_a_large_batch() -> None:
    assert "smaller than 10" in unbatch.restore_labels(observe(0, random_labels(0, 10)), "rlg").reason
    assert "full rank" in unbatch.restore_labels(observe(0, random_labels(0, 40), told=False), "rlg").reason


# --- naive twins ---


@pytest.mark.parametrize("seed", range(5))
def test_ilrg_is_its_naive_loop(seed: int) -> None:
    labels = random_labels(seed, 30)
    layer = last_layer(observe(seed, labels))
    shift, weight, bias = layer.bias_gradient.numpy(), layer.weight.numpy(), layer.bias.numpy()
    system, right = np.ones((11, 10)), np.full(11, 30.0)
    for j in range(10):
        scores = weight @ (layer.gradient.numpy()[j] / shift[j]) + bias
        softmax = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        for i in range(10):
            system[1 + i, j] = softmax[i] - (i == j)
    right[1:] = 30 * shift
    probabilities = torch.softmax(class_embeddings(layer) @ layer.weight.T + layer.bias, dim=1)
    assert np.allclose(solve(probabilities, layer.bias_gradient, 30)[0].numpy(), np.linalg.pinv(system) @ right, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_ablation_is_its_closed_form(seed: int) -> None:
    seen = observe(seed, random_labels(seed, 30))
    found = ILRG(uniform=True)(seen)
    assert found.counts is not None
    assert torch.equal(found.counts, whole(30 * (0.1 - last_layer(seen).bias_gradient), 30))


def test_the_ablation_is_sure_of_nothing() -> None:
    """Of samples that a network knows by heart g is nothing, and K/C of each class is whole (trial 946002)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5)).double()
    inputs, labels = torch.rand(5, 20, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 4])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    found = ILRG(uniform=True)(Observation(net, capture(net, inputs, labels), (20,), batch_size=5))
    assert found.counts is not None
    assert found.counts.tolist() == [1, 1, 1, 1, 1]
    assert not found.determined


def test_a_class_without_gradient_does_not_break_ilrg() -> None:
    seen = observe(0, random_labels(0, 24))
    update = {name: tensor.clone() for name, tensor in seen.update.items()}
    update["4.bias"][2], update["4.weight"][2] = 0, 0
    found = ILRG()(Observation(seen.model, update, (30,), batch_size=24))
    assert found.counts is not None
    assert int(found.counts.sum()) == 24


@pytest.mark.parametrize("seed", range(5))
def test_llg_is_its_naive_loop(seed: int) -> None:
    seen = observe(seed, random_labels(seed, 30))
    sums = last_layer(seen).row_sums.tolist()
    impact = 1.1 / 30 * sum(r for r in sums if r < 0)
    counts = [0] * 10
    for j in [j for j in range(10) if sums[j] < 0]:
        counts[j], sums[j] = 1, sums[j] - impact
    while sum(counts) < 30:
        j = sums.index(min(sums))
        counts[j], sums[j] = counts[j] + 1, sums[j] - impact
    found = LLG()(seen)
    assert found.counts is not None
    assert found.counts.tolist() == counts


# --- properties ---


def updates(count: int) -> None:
    """Nonsense and half-sense: whatever the update, counts sum to the batch and none is negative."""
    generator = torch.Generator().manual_seed(count)
    models = [network(seed, gain=gain) for seed, gain in enumerate((1.0, 10.0, 100.0))]
    names = [name for name in plugins.names("labels") if name != "rlg"]
    given = 0
    for index in range(count):
        model, size = models[index % 3], int(torch.randint(1, 5000, (1,), generator=generator))
        scale = 10.0 ** float(torch.empty(1).uniform_(-8, 4, generator=generator))
        update = {name: scale * torch.randn(p.shape, generator=generator).double() for name, p in model.named_parameters()}
        if index % 2:
            for tensor in update.values():
                tensor[tensor.abs() < 0.5 * scale] = 0
        if index % 5 == 0:
            update["4.bias"] -= update["4.bias"].mean()
            update["4.weight"] -= update["4.weight"].mean(dim=0)
        seen = Observation(model, update, (30,), batch_size=size)
        spec = names[index % len(names)]
        settings = "populations=2,inputs=4" if spec == "anchored" else ""
        attack = "auto" if index % 20 == 0 else None  # nonsense has nothing to invert: now and then is enough
        found = unbatch.restore_labels(seen, f"{spec}:{settings}" if settings else spec, attack=attack)
        if found.counts is not None:
            given += 1
            assert int(found.counts.sum()) == size
            assert int(found.counts.min()) >= 0
        else:
            assert found.reason
    assert given > count / 3


def test_counts_sum_to_the_batch_and_are_never_negative() -> None:
    updates(200)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_counts_sum_to_the_batch_over_ten_thousand_updates() -> None:
    updates(10_000)


@pytest.mark.parametrize("size", [4, 24, 64, 300])
def test_hard_labels_are_never_called_soft(size: int) -> None:
    for seed in range(15):
        found = Anchored(inputs=32)(observe(seed + 100, random_labels(seed, size)))
        assert found.counts is not None, found.reason


# --- the figures of the issue, on real data ---


@pytest.fixture
def mnist(shared_data: Callable[[str], Path]) -> unbatch.contracts.Dataset:
    return plugins.build("datasets", f"npz:{shared_data('mnist_test.npz')}")


def right(data: unbatch.contracts.Dataset, size: int, seeds: range) -> float:
    scores = []
    for seed in seeds:
        batch = data.batch(size, seed)
        model = plugins.build("models", "mlp:width=300,depth=3").build(data.input_shape, 10, seed)
        update = capture(model, batch.inputs.float(), batch.labels)
        found = unbatch.restore_labels(Observation(model, update, data.input_shape, batch_size=size), attack=None)
        assert found.counts is not None
        scores.append(float((found.counts == torch.bincount(batch.labels, minlength=10)).double().mean()))
    return float(np.mean(scores))


def test_mnist_mlp_at_64_and_128(mnist: unbatch.contracts.Dataset) -> None:
    assert right(mnist, 64, range(10)) >= 0.99
    assert right(mnist, 128, range(10)) >= 0.75


SECRET = torch.randn((6, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Told(Attack):
    """Knows the first inputs, and their labels if it is honest."""

    honest: bool = True
    most: int = 6

    def unsupported(self, observation: Observation) -> str | None:
        return None

    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        labels = torch.tensor([0, 1, 2, 3, 4, 0])
        labels = labels if self.honest else labels + 1
        return Candidate(SECRET[: self.most], labels[: self.most])


def test_the_labels_of_a_proved_attack_are_taken_and_no_others() -> None:
    model = network(0, gain=30)
    seen = Observation(model, capture(model, SECRET, torch.tensor([0, 1, 2, 3, 4, 0])), (30,), batch_size=6)
    proved = unbatch.restore_labels(seen, attack=Told())
    assert proved.restorer == Told().spec
    assert proved.counts is not None
    assert proved.counts.tolist() == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert unbatch.restore_labels(seen, attack=Told(honest=False)).restorer == "anchored"


def test_the_restorer_answers_for_the_rest_of_a_batch_proved_in_part() -> None:
    model = network(0, gain=30)
    seen = Observation(model, capture(model, SECRET, torch.tensor([0, 1, 2, 3, 4, 0])), (30,), batch_size=6)
    found = unbatch.restore_labels(seen, attack=Told(most=5))
    assert found.counts is not None
    assert found.counts.tolist() == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert found.proved == 5


@pytest.mark.parametrize("label", [1, 4])
def test_a_batch_of_one_class_comes_out_whole_for_any_size(label: int) -> None:
    """The rank falls short of the size where samples repeat, and nothing says so."""
    inputs = torch.randn((5, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64).repeat(2, 1)[:8]
    model, labels = network(0), torch.full((8,), label)
    found = Anchored()(Observation(model, capture(model, inputs, labels), (30,)))
    assert found.counts is None
    assert not found.determined


@pytest.mark.parametrize("name", ["idlg", "gradinversion"])
@pytest.mark.parametrize("told", [1, 2])
def test_signs_do_not_confirm_a_size_that_no_layer_shows(name: str, told: int) -> None:
    """One class is pulled up, and two are there: so it is of one sample, or of two, and of any number that was told as so many."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(30, 2)).double()
    inputs, labels = torch.rand((8, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([1, 1, 1, 0] * 2)
    found = plugins.build("labels", name)(Observation(model, capture(model, inputs, labels), (30,), batch_size=told))
    assert not found.determined
    if told == 1:
        seen = Observation(network(0), capture(network(0), torch.rand(1, 30).double(), torch.tensor([4])), (30,), batch_size=1)
        assert plugins.build("labels", name)(seen).determined


def test_rlg_says_so_where_the_last_layer_has_no_gradient() -> None:
    model = network(0)
    update = {name: 0 * tensor if name == "4.weight" else tensor for name, tensor in capture(model, *_some(3)).items()}
    found = plugins.build("labels", "rlg")(Observation(model, update, (30,)))
    assert "zero" in found.reason
    assert found.presence is None


def test_labels_that_repeat_mislead_rlg_which_says_no_more_than_likely() -> None:
    """Four samples of one class: their rows can be mixed so that only one class that is not there is below zero."""
    wrong = 0
    for seed in range(20):
        model, (inputs, _) = network(seed), _some(4, seed)
        found = plugins.build("labels", "rlg")(Observation(model, capture(model, inputs, torch.full((4,), 3)), (30,)))
        assert "likely" in found.reason
        wrong += int(found.presence is not None and int(found.presence.sum()) > 1)
    assert wrong


def _some(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    inputs = torch.randn((size, 30), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return inputs, random_labels(seed, size)


@pytest.mark.parametrize("size", [1, 12])
def test_copies_of_one_sample_leave_what_one_does(size: int) -> None:
    inputs = torch.randn((1, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(size, 30)
    model, labels = network(0), torch.full((size,), 4)
    update = capture(model, inputs, labels)
    assert Anchored()(Observation(model, update, (30,))).counts is None
    assert Anchored()(Observation(model, update, (30,), batch_size=1)).determined


@pytest.mark.parametrize("labels", [[3, 3, 3, 3, 5, 5], [1, 1, 2, 2, 3, 3, 4, 4]])
def test_the_last_layer_of_zeros_shows_classes_and_no_samples(labels: list[int]) -> None:
    """All samples of a class have one column there, and the layers before it have no gradient."""
    model = network(0, sizes=(30, 80, 20), gain=0.0)
    nn.init.zeros_(model[-1].bias)
    inputs = torch.randn((len(labels), 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Anchored()(Observation(model, capture(model, inputs, torch.tensor(labels)), (30,)))
    assert found.counts is None


@pytest.mark.parametrize(("labels", "told"), [([4] * 12, 24), ([4] * 12, 13), ([1, 2, 2, 5, 5, 5, 5, 5], 32)])
@pytest.mark.parametrize("restorer", [Anchored(), ILRG()])
def test_counts_that_are_whole_for_other_sizes_too_do_not_confirm_the_told_one(
    restorer: LabelRestorer, labels: list[int], told: int
) -> None:
    seen = observe(0, torch.tensor(labels))
    assert Anchored()(seen).determined  # its own size, which the rank shows
    found = restorer(dataclasses.replace(seen, batch_size=told))
    assert not found.determined


@pytest.mark.parametrize("seed", range(3))
def test_ilrg_is_not_sure_where_a_class_is_sure_of_itself(seed: int) -> None:
    """A memorized batch: the samples that are right leave nothing, and other counts come out as whole."""
    model, labels = network(seed, sizes=(30, 80, 2)), torch.tensor([0, 1, 1, 1])
    inputs = torch.randn((4, 30), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    found = ILRG()(Observation(model, capture(model, inputs, labels), (30,), batch_size=4))
    assert not found.determined


@pytest.mark.parametrize("seed", [0, 3])
def test_whole_counts_confirm_nothing_where_the_model_is_sure(seed: int) -> None:
    """A memorized batch: zeros of classes that nobody is given are no evidence for the rest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(64, 200), nn.GELU(), nn.Linear(200, 200), nn.GELU(), nn.Linear(200, 100)]
        model, labels, inputs = nn.Sequential(*layers).double(), torch.tensor([7, 7, 31, 31]), torch.rand(4, 64, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert not Anchored()(Observation(model, capture(model, inputs, labels), (64,), batch_size=4)).determined


def test_counts_that_may_be_off_by_half_a_sample_are_not_determined() -> None:
    """Of a sharpened network, whose counts are 0 but for two that nobody knows (seed 284 of an adversary)."""
    counts = torch.tensor([0.0, 0.002, 0.0, 0.005, 0.468, 0.522, 0.0, 0.003, 0.0, 0.0], dtype=torch.float64)
    deviation = torch.tensor([0.0, 0.05, 0.0, 0.09, 9.0, 10.0, 0.0, 0.05, 0.0, 0.0], dtype=torch.float64)
    assert expected_error(counts, deviation, 1) is None


class _InParts(nn.Module):
    """Reads a sample in two parts, each a row of its own; or gives its weight to a second layer, turned round."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.first, self.head = nn.Linear(30 if tied else 15, 60), nn.Linear(30 if tied else 60, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.tied:
            return self.head(self.first(x).relu() @ self.first.weight)
        return self.head(self.first(x.reshape(-1, 15)).relu().view(len(x), 2, 60).mean(dim=1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("told", [None, 2, 3])
def test_directions_that_are_no_samples_refute_no_batch_size(tied: bool, told: int | None) -> None:
    torch.manual_seed(0)
    model, inputs, labels = _InParts(tied).double(), torch.randn(3, 30).double(), torch.tensor([2, 5, 2])
    found = Anchored()(Observation(model, capture(model, inputs, labels), (30,), batch_size=told))
    if told == 2:
        assert "holds at least 3 samples, not 2" in found.reason
        return
    assert "at least" not in found.reason
    assert found.counts is None if told is None and tied else found.counts.tolist() == counted(labels)


def test_ilrg_refuses_ratios_that_overflow() -> None:
    seen = observe(3, torch.tensor([0, 1, 2]))
    name = [name for name in seen.update if name.endswith("bias")][-1]
    faint = seen.update[name].clone()
    faint[4] = 1e-310
    loud = seen.update[name.replace("bias", "weight")].clone()
    loud[4] = 1e28
    found = ILRG()(dataclasses.replace(seen, update={**seen.update, name: faint, name.replace("bias", "weight"): loud}), seed=0)
    assert found.counts is None
    assert "overflow" in found.reason


@pytest.mark.parametrize("name", ["idlg", "gradinversion"])
def test_features_that_noise_leaves_at_zero_are_not_taken_for_such_as_are_never_negative(name: str) -> None:
    """Softshrink lets only large inputs pass, of either sign: a class was said to be there that was not (trial 902685)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 40), nn.Softshrink(10.0), nn.Linear(40, 3)).double()
        inputs = 255 * torch.rand(20, 30, dtype=torch.float64)
    seen = Observation(model, capture(model, inputs, torch.zeros(20, dtype=torch.int64)), (30,))
    assert unbatch.restore_labels(seen, name, attack=None).presence is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_range_holds_the_share_of_a_class_whose_gradient_was_rounded(seed: int, dtype: torch.dtype) -> None:
    """One of six is 0.16667, and 0.16699 in bfloat16 where the others are hardly likely (trial 902608)."""
    labels = torch.tensor([0, 3, 5, 7, 8, 9])
    model = network(seed, gain=1.0)
    with torch.no_grad():
        model[-1].bias.fill_(0.0).index_fill_(0, torch.tensor([1]), 12.0)
    inputs = torch.randn((6, 30), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    update = {key: tensor.to(dtype) for key, tensor in capture(model, inputs, labels).items()}
    ranges = unbatch.restore_labels(Observation(model, update, (30,), batch_size=6), "llg", attack=None).ranges
    assert ranges is not None
    share = torch.bincount(labels, minlength=10) / 6
    assert bool(((ranges[:, 0] <= share + 1e-9) & (share <= ranges[:, 1] + 1e-9)).all())


def test_what_is_determined_lies_in_its_range() -> None:
    @dataclasses.dataclass(frozen=True)
    class Near(LabelRestorer):
        def unsupported(self, observation: Observation) -> str | None:
            return None

        def estimate(self, observation: Observation, generator: torch.Generator) -> Estimate:
            shares = torch.tensor([0.9990, 0.0010] + 8 * [0.0], dtype=torch.float64)
            return Estimate(2 * shares, expected_error=0.01, ranges=torch.stack([shares - 2e-4, shares + 2e-4], dim=1).clamp(0, 1))

    found = Near()(observe(0, torch.tensor([0, 0])))
    assert found.determined
    assert found.ranges is not None
    assert found.ranges[:2].round(decimals=6).tolist() == [[0.9988, 1.0], [0.0, 0.0012]]


def test_what_made_up_inputs_say_does_not_narrow_a_range() -> None:
    """They have unit variance. Real ones were 255 times as large, and one of five ranges missed the truth."""
    for seed in range(30):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 2)).double()
        generator = torch.Generator().manual_seed(seed)
        inputs = 255 * torch.rand((6, 20), generator=generator, dtype=torch.float64)
        labels = torch.randint(2, (6,), generator=generator)
        ranges = Anchored()(Observation(model, capture(model, inputs, labels), (20,), batch_size=6)).ranges
        assert ranges is not None
        share = torch.bincount(labels, minlength=2).double() / 6
        assert bool(((ranges[:, 0] <= share + 1e-9) & (share <= ranges[:, 1] + 1e-9)).all()), seed


@pytest.mark.parametrize("seed", [1270529, 1270530, 1270531])
def test_counts_are_not_determined_by_a_bias_that_was_cut_off(seed: int) -> None:
    net = network(seed, (10, 200, 200, 50)).double()
    with torch.no_grad():
        list(net.parameters())[-2].mul_(30)
    x = torch.randn((1, 10), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    update = {name: each.clamp(-1e-2, 1e-2) for name, each in capture(net, x, torch.tensor([0])).items()}
    found = unbatch.restore_labels(Observation(net, update, (10,), batch_size=1), attack=None)
    assert not found.determined or found.counts.tolist() == [1] + [0] * 49
