"""Counts from what a server really sees: local training, unknown factors, clipping, sums over clients. The truth is planted."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch import plugins
from unbatch.labels._local_training import along, average_position, unevenness
from unbatch.labels._scale import factors_of
from unbatch.labels.anchored import Anchored
from unbatch.labels.ilrg import ILRG
from unbatch.labels.llg import LLG
from unbatch.last_layer import last_layer
from unbatch.types import Batch, LocalTraining, Observation

CLASSES = 10


def network(seed: int, classes: int = CLASSES) -> nn.Module:
    return plugins.build("models", "mlp:width=80,depth=2").build((30,), classes, seed).double()


def batch(seed: int, size: int, classes: int = CLASSES) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((size, 30), generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(classes, (size,), generator=generator))


def truth(secret: Batch, classes: int = CLASSES) -> list[int]:
    return torch.bincount(secret.labels, minlength=classes).tolist()


def observed(protocol: str, secret: Batch, seed: int = 0, defenses: tuple[str, ...] = (), **changes: object) -> Observation:
    chain = [plugins.build("defenses", spec) for spec in defenses]
    seen = plugins.build("protocols", protocol).observe(network(seed), secret, defenses=chain, seed=seed)
    return replace(seen, batch_size=len(secret), **changes)


# --- local training ---


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("size", [5, 10, 0])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_counts_after_local_training(epochs: int, size: int, rate: float) -> None:
    right = 0
    for seed in range(3):
        secret = batch(seed, 20)
        found = Anchored()(observed(f"fedavg:epochs={epochs},batch_size={size},learning_rate={rate}", secret, seed))
        assert found.counts is not None, found.reason
        right += found.counts.tolist() == truth(secret)
    assert right == 3


def test_the_reader_is_told_that_the_model_moved() -> None:
    secret = batch(0, 20)
    for restorer in (Anchored(), ILRG(), LLG()):
        found = restorer(observed("fedavg:epochs=2,batch_size=5,learning_rate=0.01", secret))
        assert found.counts is not None
        assert found.stats["local_steps"] == 8
        assert "8 local steps of a changing model" in found.reason
    whole = Anchored()(observed("fedavg:epochs=1,batch_size=0,learning_rate=0.01", secret))
    assert whole.reason == ""
    assert "local_steps" not in whole.stats


def test_the_way_is_better_than_its_start() -> None:
    """Uneven classes, large steps: the probabilities go far, and the counts are off at the broadcast weights."""
    at_start = on_the_way = 0.0
    for seed in range(6):
        labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 6 + [3] * 4)
        secret = Batch(batch(seed, 60).inputs, labels)
        seen = observed("fedavg:epochs=5,batch_size=10,learning_rate=0.1", secret, seed)
        whole = torch.tensor(truth(secret))
        for_all = Anchored()(seen)
        alone = Anchored()(replace(seen, training=None))
        assert for_all.estimate is not None
        assert alone.estimate is not None
        on_the_way += float((for_all.estimate - whole).abs().sum())
        at_start += float((alone.estimate - whole).abs().sum())
    assert on_the_way < 0.7 * at_start


def test_the_expected_error_grows_with_the_way() -> None:
    secret = batch(1, 20)
    errors = [
        Anchored()(observed(f"fedavg:epochs=3,batch_size=5,learning_rate={rate}", secret, 1)).deviation for rate in (0.0001, 0.01, 0.03)
    ]
    assert errors[0] < errors[1] < errors[2]


def test_a_way_that_ends_nowhere_is_refused() -> None:
    secret = batch(0, 20)
    seen = observed("fedavg:epochs=2,batch_size=5,learning_rate=0.01", secret)
    huge = replace(seen, model=network(0).float(), update={name: 1e28 * tensor.float() for name, tensor in seen.update.items()})
    found = Anchored()(huge)
    assert found.counts is None
    assert "overflow" in found.reason


def test_samples_of_a_small_last_step_count_more() -> None:
    seen = observed("fedavg:batch_size=5,learning_rate=0.001", batch(0, 16))
    # Three steps of 5 and one of 1: shares 1/5 and 1 of a step each, 16 / 4 times that of the mean.
    each = torch.tensor([1 / 5] * 15 + [1.0]) * 16 / 4
    assert unevenness(seen) == pytest.approx(float(each.std(correction=0)))
    found = Anchored()(seen)
    assert found.deviation > 0.5
    assert unevenness(observed("fedavg:batch_size=4,learning_rate=0.001", batch(0, 16))) == 0


def test_very_many_steps_are_counted_not_walked() -> None:
    seen = observed("fedavg:batch_size=5,learning_rate=0.001", batch(0, 16))
    few, many = (
        replace(seen, batch_size=16, training=LocalTraining(epochs=epochs, batch_size=5, learning_rate=1e-9))
        for epochs in (2000, 1_000_000)
    )
    assert unevenness(many) == pytest.approx(unevenness(few) * (2000 / 1_000_000) ** 0.5)
    huge = replace(seen, batch_size=10**12, training=LocalTraining(epochs=1, batch_size=1, learning_rate=1e-15))
    assert unevenness(huge) == 0
    assert average_position(huge) == 0.5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_average_position_is_that_of_equal_steps(momentum: float) -> None:
    local = LocalTraining(epochs=4, batch_size=None, learning_rate=0.1, momentum=momentum)
    velocity = position = 0.0
    # A step's own gradient adds 1 to the velocity; what it counts in the end is how far that carries.
    places = []
    for _ in range(4):
        places.append(position)
        velocity = momentum * velocity + 1
        position += velocity
    counted = [local.weight(step, 1) for step in range(4)]
    expected = sum(place * weight for place, weight in zip(places, counted, strict=True)) / (sum(counted) * position)
    seen = observed(f"fedavg:epochs=4,batch_size=0,learning_rate=0.1,momentum={momentum}", batch(0, 8))
    assert average_position(seen) == pytest.approx(expected)


def test_the_ends_of_the_way_are_the_weights_before_and_after() -> None:
    secret, model = batch(0, 20), network(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    seen = observed("fedavg:epochs=2,batch_size=5,learning_rate=0.05", secret)
    places = along(seen)
    factor = seen.training.factor(20)
    for name, parameter in places[0].model.named_parameters():
        assert torch.equal(parameter, before[name])
    for name, parameter in places[-1].model.named_parameters():
        assert torch.allclose(parameter, before[name] - factor * seen.update[name], atol=1e-14)


# --- an unknown factor ---


@pytest.mark.parametrize("size", [1, 8, 16])
@pytest.mark.parametrize("factor", [1e-3, 0.37, 50.0])
def test_an_unknown_factor_is_found_by_whole_counts(size: int, factor: float) -> None:
    for seed in range(3):
        secret = batch(seed, size)
        seen = observed("fedsgd", secret, seed)
        scaled = replace(seen, update={name: factor * tensor for name, tensor in seen.update.items()}, factor_known=False)
        found = Anchored()(scaled)
        assert found.counts is not None, found.reason
        assert found.counts.tolist() == truth(secret)
        assert found.stats["factor"] == pytest.approx(factor, rel=0.05)


def test_a_clipped_update() -> None:
    """Where the mean probability is not known well enough to tell the factor it says so, and is not wrong."""
    right = 0
    for seed in range(100, 110):
        secret = batch(seed, 24)
        found = Anchored()(observed("fedsgd", secret, seed, defenses=("clipping:norm=0.01",)))
        if found.counts is None:
            assert "factor that the server does not know" in found.reason
            continue
        assert found.counts.tolist() == truth(secret)
        right += 1
    assert right >= 7


def test_samples_clipped_one_by_one() -> None:
    right = 0
    for seed in range(5):
        secret = batch(seed, 8)
        found = Anchored()(observed("fedsgd", secret, seed, defenses=("dp_sgd:clip=0.1,noise_multiplier=0",)))
        if found.counts is None:
            assert "unevenly" in found.reason or "factors" in found.reason
            continue
        assert found.counts.tolist() == truth(secret)
        assert found.deviation > 0.01
        right += 1
    assert right >= 3


def test_an_unknown_learning_rate() -> None:
    for seed in range(3):
        secret = batch(seed, 20)
        found = Anchored()(observed("fedavg:epochs=1,batch_size=5,learning_rate=0.02,rate_known=false", secret, seed))
        assert found.counts is not None, found.reason
        assert found.counts.tolist() == truth(secret)


def test_an_unknown_factor_is_refused_where_it_cannot_be_told() -> None:
    secret = batch(0, 24)
    seen = observed("fedsgd", secret, factor_known=False)
    assert "nor does it know the batch size" in Anchored()(replace(seen, batch_size=None)).reason
    assert "factor that the server does not know" in ILRG()(seen).reason
    many = observed("fedsgd", batch(0, 3000), factor_known=False)
    assert "too little to tell the factor" in Anchored()(many).reason
    wrong = replace(seen, batch_size=25)
    assert Anchored()(wrong).counts is None


def test_two_classes_do_not_tell_the_factor() -> None:
    secret = batch(0, 9, classes=2)
    model = network(0, classes=2)
    seen = plugins.build("protocols", "fedsgd").observe(model, secret)
    found = Anchored()(replace(seen, batch_size=9, factor_known=False))
    assert found.counts is None
    assert "factor" in found.reason


def test_methods_of_signs_need_no_factor() -> None:
    secret = batch(0, 8)
    seen = observed("fedsgd", secret)
    scaled = replace(seen, update={name: 0.01 * tensor for name, tensor in seen.update.items()}, factor_known=False)
    for name in ("llg", "idlg", "gradinversion", "rlg"):
        restorer = plugins.build("labels", name)
        expected, found = restorer(seen), restorer(scaled)
        assert torch.equal(found.presence, expected.presence)
        assert (found.counts is None) == (expected.counts is None)
        if expected.counts is not None:
            assert torch.equal(found.counts, expected.counts)


def test_the_factor_of_planted_counts_is_among_the_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(0, 9, (7,), generator=generator).double() + torch.tensor([1, 0, 0, 0, 0, 0, 0])
        total = int(counts.sum())
        mean = torch.softmax(torch.randn(7, generator=generator).double(), dim=0)
        shift: Tensor = mean - counts / total
        rarest = int((shift / mean).argmax())
        assert float(factors_of(mean, 3.3 * shift, total)[int(counts[rarest])]) == pytest.approx(3.3)


# --- secure aggregation, noise ---


def test_the_sum_over_clients_is_one_batch() -> None:
    secret = batch(0, 50)
    seen = observed("secure_aggregation:clients=10", secret)
    found = Anchored()(seen)
    assert found.counts is not None
    assert found.counts.tolist() == truth(secret)
    assert found.batch_size == 50


def test_clients_of_different_sizes_count_by_their_samples() -> None:
    secret = batch(3, 23)
    found = Anchored()(observed("secure_aggregation:clients=5", secret, 3))
    assert found.counts is not None
    assert found.counts.tolist() == truth(secret)


def test_noise_is_in_the_expected_error() -> None:
    secret = batch(0, 24)
    quiet, loud = (
        Anchored()(observed("fedsgd", secret, defenses=(f"gaussian_noise:deviation={size},unit=absolute",))) for size in (0.0001, 0.01)
    )
    assert quiet.counts is not None
    assert quiet.counts.tolist() == truth(secret)
    assert 0.003 < loud.stats["noise"] < 0.03
    assert loud.deviation > quiet.deviation


def test_the_last_layer_is_that_of_the_place() -> None:
    seen = observed("fedavg:epochs=2,batch_size=5,learning_rate=0.05", batch(0, 20))
    first, last = last_layer(along(seen)[0]), last_layer(along(seen)[-1])
    assert torch.equal(first.gradient, last.gradient)
    assert not torch.equal(first.weight, last.weight)
