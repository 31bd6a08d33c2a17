"""SPEAR on what a server really sees: several local steps, unknown learning rates, clipping, sums over clients."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.auditing import invert
from unbatch.contracts import Defense, Stage
from unbatch.types import Batch, Observation, Reconstruction, Status

SHAPE = (3, 8, 8)


@dataclass(frozen=True)
class Shrink(Defense):
    """Clips to an unknown size, the update or every sample by itself."""

    at: str = "CLIENT"
    rescales = True

    @property
    def stage(self) -> Stage:  # type: ignore[override]
        return Stage[self.at]

    def __call__(self, gradients, generator):  # type: ignore[no-untyped-def]
        if self.at == "CLIENT":
            return {name: 0.123 * tensor for name, tensor in gradients.items()}
        size = sum(tensor.flatten(1).square().sum(dim=1) for tensor in gradients.values()).sqrt()
        kept = (0.7 * size.median() / size).clamp_max(1)
        return {name: tensor * kept.view(-1, *[1] * (tensor.ndim - 1)) for name, tensor in gradients.items()}


def case(samples: int = 12, width: int = 80, seed: int = 0) -> tuple[nn.Module, Batch]:
    model = plugins.build("models", f"mlp:width={width},depth=4").build(SHAPE, 5, seed).double()
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn((samples, 3, 4, 4), generator=generator, dtype=torch.float64)
    x = nn.functional.interpolate(pictures, SHAPE[1:]) + 0.02 * torch.randn((samples, *SHAPE), generator=generator, dtype=torch.float64)
    return model, Batch(x, torch.randint(5, (samples,), generator=generator))


def seen(spec: str, *defenses: Defense, samples: int = 12) -> tuple[Observation, Batch]:
    model, batch = case(samples)
    return plugins.build("protocols", spec).observe(model, batch, defenses=defenses), batch


def error(found: Reconstruction, batch: Batch) -> float:
    assert found.inputs is not None
    assert len(found.inputs) == len(batch)
    return float(torch.cdist(batch.inputs.flatten(1), found.inputs.double().flatten(1)).amin(dim=1).max())


def labels_right(found: Reconstruction, batch: Batch) -> bool:
    assert found.inputs is not None
    assert found.labels is not None
    order = torch.cdist(batch.inputs.flatten(1), found.inputs.double().flatten(1)).argmin(dim=1)
    return torch.equal(found.labels[order], batch.labels)


@pytest.mark.parametrize("momentum", ["0", "0.9"])
@pytest.mark.parametrize("known", ["true", "false"])
@pytest.mark.parametrize(
    ("epochs", "size"), [pytest.param(1, 0, id="one step"), pytest.param(5, 0, id="five steps"), pytest.param(1, 4, id="an epoch of three")]
)
def test_local_steps_that_can_be_replayed_are_proved(epochs: int, size: int, known: str, momentum: str) -> None:
    spec = f"fedavg:epochs={epochs},batch_size={size},learning_rate=0.02,momentum={momentum},rate_known={known}"
    observation, batch = seen(spec)
    found = invert(observation, "spear:seconds=20")
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)
    if known == "false" and (epochs, size) != (1, 0):
        assert "learning rate was found to be 0.02" in found.reason


def test_several_epochs_in_small_steps_are_found_but_not_proved() -> None:
    """Nobody knows the order of the samples, so nothing can be replayed: right to the last digit, and still not proved."""
    observation, batch = seen("fedavg:epochs=4,batch_size=4,learning_rate=0.02")
    found = invert(observation, "spear:seconds=20")
    assert found.status is Status.APPROXIMATE
    assert "order" in found.reason
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)


def test_an_unknown_clipping_factor_changes_nothing() -> None:
    for spec in ("fedsgd", "fedavg:epochs=3,batch_size=0,learning_rate=0.02"):
        observation, batch = seen(spec, Shrink())
        open_end = invert(replace(observation, batch_size=None), "spear:seconds=20")
        assert open_end.status is not Status.RECONSTRUCTED  # somebody without a trace may be missing
        found = invert(replace(observation, batch_size=len(batch)), "spear:seconds=20").or_raise()
        assert error(found, batch) < 1e-6
        assert labels_right(found, batch)


def test_samples_clipped_one_by_one_are_replayed_with_their_weights() -> None:
    observation, batch = seen("fedsgd", Shrink("EXAMPLE"))
    found = invert(replace(observation, batch_size=len(batch)), "spear:seconds=20").or_raise()
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)
    assert "count differently" in found.reason


def test_sum_over_clients_is_one_batch() -> None:
    observation, batch = seen("secure_aggregation:clients=4")
    found = invert(observation, "spear:seconds=20").or_raise()
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)


def test_float32_differences_are_judged_by_the_rounding_of_weights() -> None:
    """after − before of float32 weights is rough where the learning rate is small: found all the same, and not called a mismatch."""
    model, batch = case()
    observation = plugins.build("protocols", "fedavg:batch_size=0,learning_rate=0.01").observe(model.float(), batch)
    assert 1e-6 < observation.resolution < 0.05
    found = invert(observation, "spear:seconds=20")
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert 1e-9 < error(found, batch) < 0.05


def test_a_wrong_learning_rate_is_noticed() -> None:
    """The server is told 0.05 where the client used 0.02: samples are found, but no replay gives the update."""
    model, batch = case()
    honest = plugins.build("protocols", "fedavg:epochs=3,batch_size=0,learning_rate=0.2").observe(model, batch)
    assert honest.training is not None
    told = plugins.build("protocols", "fedavg:epochs=3,batch_size=0,learning_rate=0.05").observe(model, batch)
    mixed = Observation(model, honest.update, SHAPE, batch_size=12, training=told.training)
    found = invert(mixed, "spear:seconds=20")
    assert found.status is not Status.RECONSTRUCTED


def test_float32_sum_over_many_clients() -> None:
    """With many samples in float32 a certified sample is known only roughly: taking it out must not blur the zeros of the others."""
    faces = plugins.build("datasets", "faces")
    model, batch = plugins.build("models", "mlp:width=300").build(faces.input_shape, 200, 0), faces.batch(60, 0)
    observation = plugins.build("protocols", "secure_aggregation:clients=6").observe(model.float(), batch)
    found = invert(observation, "spear:seconds=40").or_raise()
    assert error(found, batch) < 1e-3
    assert labels_right(found, batch)


@pytest.mark.parametrize(("margin", "found_at_least", "all_there"), [(3.0, 8, True), (20.0, 3, False)])
def test_samples_that_the_network_is_sure_of(margin: float, found_at_least: int, all_there: bool) -> None:
    """Gradients a million times smaller than the others' are found all the same; samples without any are told, not overlooked."""
    model, batch = case(samples=8)
    head = model.get_submodule(list(dict(model.named_modules()))[-1])
    with torch.no_grad():
        scores = model(batch.inputs)
        gap = -scores.topk(2, dim=1).values.diff(dim=1).max()
        for parameter in head.parameters():
            parameter.mul_(margin / gap)  # every sample is right by this margin at least
    update = plugins.build("protocols", "fedsgd").observe(model, Batch(batch.inputs, scores.argmax(dim=1))).update
    found = invert(Observation(model, update, SHAPE), "spear:seconds=10")
    assert found.inputs is not None
    assert len(found.inputs) >= found_at_least
    assert float(torch.cdist(found.inputs.flatten(1), batch.inputs.flatten(1)).amin(dim=1).max()) < 1e-3
    assert found.status is (Status.RECONSTRUCTED if all_there else Status.PARTIAL)
    assert all_there or "more of 8" in found.reason


@pytest.mark.parametrize("told", [True, False])
def test_half_of_a_gradient_holds_all_of_the_batch(told: bool) -> None:
    """Pruning is no defense: the entries that are left are exact, and the gradient's rank is low."""
    model, batch = case(samples=6)
    seen = plugins.build("protocols", "fedsgd").observe(model, batch, defenses=[plugins.build("defenses", "pruning:share=0.5")])
    found = invert(replace(seen, batch_size=6 if told else None), "spear:seconds=20").or_raise()
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)
    assert "pruned" in found.reason


def test_guessed_inputs_are_never_called_exact() -> None:
    model, batch = case(samples=10)
    seen = plugins.build("protocols", "fedsgd").observe(model, batch, defenses=[plugins.build("defenses", "pruning:share=0.85")])
    found = invert(replace(seen, batch_size=10), "spear:seconds=10")
    assert found.status not in (Status.RECONSTRUCTED, Status.PARTIAL)
    assert found.reason


def test_batch_statistics_behind_the_layer() -> None:
    """A network in train mode: no sample has a gradient of its own, but the batch as a whole is found, labelled and replayed."""
    torch.manual_seed(0)
    _, batch = case(samples=10)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 80), nn.ReLU(), nn.BatchNorm1d(80), nn.Linear(80, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 5)
    )
    observation = plugins.build("protocols", "fedsgd").observe(model.double().train(), batch)
    found = invert(observation, "spear:seconds=20").or_raise()
    assert error(found, batch) < 1e-6
    assert labels_right(found, batch)


def test_batch_statistics_before_the_activation_are_an_obstacle() -> None:
    _, batch = case(samples=10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Linear(80, 5)).double().train()
    found = invert(plugins.build("protocols", "fedsgd").observe(model, batch))
    assert found.status is Status.NOT_APPLICABLE
    assert "instead of ReLU" in found.reason


def test_an_order_that_nobody_knows_leaves_an_approximation() -> None:
    """12 samples in steps of 5, 5 and 2: a sample of the small step counts more than twice what the others do, in an epoch."""
    observation, batch = seen("fedavg:epochs=3,batch_size=5,learning_rate=0.01")
    found = invert(observation, "auto:seconds=30")
    assert (found.status, found.attack.partition(":")[0]) == (Status.APPROXIMATE, "spear")
    assert "order" in found.reason
    assert error(found, batch) < 1e-6


def test_two_columns_mixed_in_one_are_told_apart_where_rounding_blurs_their_ratios(shared_data: Callable[[str], Path]) -> None:
    data = plugins.build("datasets", f"npz:{shared_data('tinyimagenet_val.npz')}")
    model, batch = plugins.build("models", "mlp:width=200").build(data.input_shape, len(data.schema.classes), 7), data.batch(20, 7)
    seen = plugins.build("protocols", "fedavg:epochs=10,batch_size=5,learning_rate=0.1").observe(model, batch, seed=7)

    found = invert(seen, "spear:seconds=60", seed=7)

    assert found.inputs is not None
    near = torch.cdist(batch.inputs.double().flatten(1), found.inputs.double().flatten(1)).amin(dim=1)
    assert bool((near < 1e-3 * batch.inputs.double().flatten(1).norm(dim=1)).all())
