"""What the server sees under each protocol, against the gradient of the whole batch and against each other."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from unbatch import plugins
from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.testing import check_protocol
from unbatch.types import Batch

ALL = plugins.names("protocols")


@dataclass(frozen=True)
class Halve(Defense):
    """Scales by one half at the stage that it is built for."""

    at: str = "CLIENT"
    rescales = True

    @property
    def stage(self) -> Stage:  # type: ignore[override]
        return Stage[self.at]

    def __call__(self, gradients, generator):  # type: ignore[no-untyped-def]
        return {name: tensor / 2 for name, tensor in gradients.items()}


def case() -> tuple[nn.Module, Batch]:
    model = plugins.build("models", "mlp:width=30,depth=3").build((8,), 4, 0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((12, 8), generator=generator, dtype=torch.float64)
    return model, Batch(x, torch.randint(4, (12,), generator=generator))


def distance(update: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((update[name] - other[name]).norm() / other[name].norm()) for name in other)


@pytest.mark.parametrize("name", ALL)
def test_keeps_the_contract(name: str) -> None:
    check_protocol(plugins.load("protocols", name)())


@pytest.mark.parametrize("name", ALL)
def test_all_is_known_by_default_and_dropout_that_is_off_is_no_obstacle(name: str) -> None:
    model, batch = case()
    assert plugins.build("protocols", name).observe(model, batch).factor_known
    off = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5)).double().eval()
    assert plugins.build("protocols", name).observe(off, batch).update


@pytest.mark.parametrize("spec", ["fedsgd", "fedavg:batch_size=0", "fedavg:batch_size=20,momentum=0.9", "secure_aggregation:clients=5"])
def test_one_step_of_everybody_is_the_gradient_of_the_united_batch(spec: str) -> None:
    model, batch = case()
    seen = plugins.build("protocols", spec).observe(model, batch)
    assert distance(dict(seen.update), capture(model, batch.inputs, batch.labels)) < 1e-12
    assert seen.one_gradient


def test_local_steps_are_not_a_gradient() -> None:
    model, batch = case()
    seen = plugins.build("protocols", "fedavg:epochs=2,batch_size=5,learning_rate=0.1").observe(model, batch)
    assert not seen.one_gradient
    assert seen.batch_size == 12
    assert 1e-3 < distance(dict(seen.update), capture(model, batch.inputs, batch.labels)) < 1


def test_unknown_rate_leaves_the_difference_as_it_is() -> None:
    model, batch = case()
    known = plugins.build("protocols", "fedavg:epochs=2,learning_rate=0.1").observe(model, batch)
    hidden = plugins.build("protocols", "fedavg:epochs=2,learning_rate=0.1,rate_known=false").observe(model, batch)
    assert known.training is not None
    assert hidden.training is not None
    factor = known.training.factor(12)
    assert factor == pytest.approx(0.4)
    assert hidden.training.learning_rate is None
    assert not hidden.factor_known
    for name in known.update:
        torch.testing.assert_close(known.update[name] * factor, hidden.update[name])
    assert any("factor" in sentence for sentence in hidden.knowledge.sentences())


@pytest.mark.parametrize("stage", [stage.name for stage in Stage])
@pytest.mark.parametrize("name", ALL)
def test_defenses_act_at_their_stage(name: str, stage: str) -> None:
    model, batch = case()
    plain = plugins.build("protocols", f"{name}:batch_size=0" if name == "fedavg" else name)
    bare, half = plain.observe(model, batch), plain.observe(model, batch, defenses=[Halve(stage)])
    for key in bare.update:
        torch.testing.assert_close(half.update[key], bare.update[key] / 2)
    assert not half.factor_known
    assert any("defended" in remark for remark in half.remarks)


@pytest.mark.parametrize("spec", ["secure_aggregation:clients=0", "fedavg:epochs=0", "fedavg:batch_size=-1", "fedavg:learning_rate=0"])
def test_misuse(spec: str) -> None:
    with pytest.raises(Misuse):
        plugins.build("protocols", spec)


def test_more_clients_than_samples() -> None:
    with pytest.raises(Misuse, match="13 samples"):
        plugins.build("protocols", "secure_aggregation:clients=13").observe(*case())


def test_batch_statistics_are_used_as_they_are_and_not_moved() -> None:
    _, batch = case()
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).double().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    seen = plugins.build("protocols", "fedsgd").observe(model, batch)
    alone = plugins.build("protocols", "fedsgd").observe(model.eval(), batch)
    assert distance(dict(seen.update), dict(alone.update)) > 1e-3
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
