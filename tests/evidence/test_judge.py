"""What is called disclosed, and what is not: proposals that are handed to the judge, some with the truth in them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.models.mlp import Mlp
from unbatch.training import LocalTraining
from unbatch.types import Candidate, Inverted, Observation, Reconstruction, Status

SHAPE, SAMPLES = (3, 6, 6), 8


def batch(seed: int, count: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, *SHAPE), generator=generator, dtype=torch.float64), torch.randint(7, (count,), generator=generator)


@pytest.fixture(scope="module", params=["relu", "silu"])
def seen(request: pytest.FixtureRequest) -> Observation:
    model = Mlp(width=80, depth=4, activation=request.param).build(SHAPE, 7, 1).double()
    return Observation(model, capture(model, *batch(0)), SHAPE)


def count(found: Reconstruction) -> int:
    return 0 if found.inputs is None else len(found.inputs)


def error(found: Reconstruction, truth: Tensor) -> float:
    assert found.inputs is not None
    distance = (found.inputs.flatten(1)[:, None] - truth.flatten(1)).norm(dim=2) / truth.flatten(1).norm(dim=1)
    return float(distance.amin(dim=1).max())


def test_the_truth_is_proved_to_the_last_digits(seen: Observation) -> None:
    x, y = batch(0)
    found = judge(replace(seen, batch_size=SAMPLES), Candidate(x, y)).or_raise()
    assert found.accuracy is not None
    assert float(found.accuracy.max()) < 1e-12
    assert (found.missing, count(found)) == (0, SAMPLES)


def test_without_a_batch_size_twins_that_rounding_hides_are_within_the_accuracy(seen: Observation) -> None:
    x, y = batch(0)
    found = judge(seen, Candidate(x, y)).or_raise()
    assert found.accuracy is not None
    assert 1e-8 < float(found.accuracy.max()) < 1e-5
    assert (found.missing, count(found)) == (0, SAMPLES)


def test_what_is_nearly_right_is_shown_beside_what_is_proved(seen: Observation) -> None:
    """As noise leaves it: a few are proved, and the others right to three digits, which a reader has to see."""
    x, y = batch(0)
    near = x + 1e-2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    found = judge(seen, Candidate(torch.cat([near[5:], x[:5]]), torch.cat([y[5:], y[:5]])))
    assert (found.status, count(found)) == (Status.PARTIAL, 5)
    assert found.approximate is not None
    assert found.shown is not None
    assert torch.equal(found.approximate, near[5:])
    assert torch.equal(found.shown, torch.cat([x[:5], near[5:]]))
    assert (error(found, x), found.missing) == (0, 3)
    assert "3 beside them that are not" in found.summary()


def test_what_does_not_come_near_together_is_not_shown(seen: Observation) -> None:
    (x, y), (other, _) = batch(0), batch(1)
    found = judge(seen, Candidate(torch.cat([x[:5], other[5:]]), y))
    assert (found.status, count(found), found.approximate) == (Status.PARTIAL, 5, None)


def test_junk_beside_one_that_is_most_of_the_update_is_not_shown() -> None:
    """Seven of which the network is sure leave little, so that any seven come near to the update together with the one that is proved."""
    torch.manual_seed(976022)
    generator = torch.Generator().manual_seed(976022)
    layers = [nn.Linear(60, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 5)]
    model = nn.Sequential(*layers).double()
    x, junk = (torch.randn((8, 60), generator=generator, dtype=torch.float64) for _ in range(2))
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 5
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(60)
    seen = Observation(model, capture(model, x, y), (60,), batch_size=8)
    junk[0] = x[0]
    named = model(junk).argmax(dim=1)
    named[0] = y[0]
    found = judge(seen, Candidate(junk, named))
    assert (found.status, count(found), found.approximate) == (Status.PARTIAL, 1, None)
    assert found.residual is not None
    assert found.residual < 0.3


def test_what_the_proved_ones_leave_nothing_for_is_not_shown(seen: Observation) -> None:
    """All members and one of junk explain the update with nothing left: the junk is that."""
    (x, y), (other, labels) = batch(0), batch(1)
    found = judge(seen, Candidate(torch.cat([x, other[:1]]), torch.cat([y, labels[:1]])))
    assert (count(found), found.approximate) == (SAMPLES, None)


@pytest.mark.parametrize("kept", [1, 5, SAMPLES - 1])
def test_members_are_proved_one_by_one_and_what_is_missing_is_known(seen: Observation, kept: int) -> None:
    x, y = batch(0)
    found = judge(seen, Candidate(x[:kept], y[:kept]))
    assert found.status is Status.PARTIAL
    assert count(found) == kept
    assert found.missing == SAMPLES - kept
    assert f"1/{SAMPLES} of the update" in found.reason


@pytest.mark.parametrize("factor_known", [True, False])
def test_labels_that_leave_the_same_at_the_layer_that_is_seen_are_not_told(factor_known: bool) -> None:
    """Two classes of equal weights, as where a head starts from zeros: only the last layer's gradient, of all samples, tells them."""
    torch.manual_seed(976104)
    model = Mlp(width=80, depth=3).build(SHAPE, 7, 1).double()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.weight[1] = last.weight[0]
    x, y = batch(0)
    y = y.clone()
    y[:2] = torch.tensor([0, 1])
    seen = Observation(model, capture(model, x, y), SHAPE, factor_known=factor_known)
    turned = torch.cat([y[:2].flip(0), y[2:]])
    for labels in (y, turned):
        found = judge(seen, Candidate(x[:6], labels[:6]))
        assert (found.status, count(found), found.labels, found.missing) == (Status.PARTIAL, 6, None, None)
    whole = judge(seen, Candidate(x, y))
    assert whole.labels is not None
    assert torch.equal(whole.labels, y)
    last.requires_grad_(False)
    frozen = judge(Observation(model, capture(model, x, y), SHAPE, batch_size=SAMPLES, factor_known=factor_known), Candidate(x, turned))
    assert (frozen.status, count(frozen), frozen.labels) == (Status.PARTIAL, SAMPLES, None)


def test_junk_among_members_is_dropped(seen: Observation) -> None:
    (x, y), (other, labels) = batch(0), batch(1)
    found = judge(seen, Candidate(torch.cat([other[:3], x[:6]]), torch.cat([labels[:3], y[:6]])))
    assert found.status is Status.PARTIAL
    assert count(found) == 6
    assert error(found, x) < 1e-12


@pytest.mark.parametrize(
    ("name", "inputs", "labels"),
    [
        ("junk", lambda x: batch(1)[0] + 0 * x, lambda y: y),
        ("convex mixtures", lambda x: 0.5 * (x + x.roll(1, 0)), lambda y: y),
        ("slight mixtures", lambda x: x + 1e-2 * x.roll(1, 0), lambda y: y),
        ("scaled members", lambda x: 1.05 * x, lambda y: y),
        ("wrong labels", lambda x: x, lambda y: (y + 1) % 7),
        ("zeros", lambda x: 0 * x, lambda y: y),
        ("huge", lambda x: 1e30 * x, lambda y: y),
    ],
)
def test_what_is_not_a_member_is_not_disclosed(seen: Observation, name: str, inputs: object, labels: object) -> None:
    x, y = batch(0)
    found = judge(seen, Candidate(inputs(x), labels(y)))  # type: ignore[operator]
    assert not found.status.disclosed, name
    assert found.proved is None


def test_two_copies_of_one_member_are_one(seen: Observation) -> None:
    x, y = batch(0)
    found = judge(seen, Candidate(torch.cat([x[:4], x[:1] * (1 + 1e-9)]), torch.cat([y[:4], y[:1]])))
    assert found.status is Status.PARTIAL
    assert count(found) == 4


@pytest.mark.parametrize("given", ["nan", "shape", "labels", "label type", "order"])
def test_a_faulty_proposal_is_the_attacks_fault(seen: Observation, given: str) -> None:
    x, y = batch(0)
    candidate = {
        "nan": Candidate(x * torch.nan, y),
        "shape": Candidate(x[:, :2], y),
        "labels": Candidate(x, y + 7),
        "label type": Candidate(x, y.double()),
        "order": Candidate(x, y, order=torch.zeros((1, SAMPLES), dtype=torch.int64)),
    }[given]
    found = judge(seen, candidate)
    assert found.status is Status.BROKE_DOWN
    assert "the attack returned" in found.reason


# what was told


def test_what_was_told_is_held_against_what_is_proved(seen: Observation) -> None:
    x, y = batch(0)
    for told, word in (
        ({"batch_size": 12}, "one of the two is wrong"),
        ({"batch_size": 2 * SAMPLES}, "2 times"),
        ({"labels": (y + 1) % 7}, "labels that were told"),
        ({"update": {name: tensor / 2 for name, tensor in seen.update.items()}}, "or the update was scaled"),
    ):
        found = judge(replace(seen, **told), Candidate(x, y))  # type: ignore[arg-type]
        assert found.status is Status.PARTIAL, told
        assert word in found.reason
        assert count(found) == SAMPLES


def test_without_the_factor_copies_of_all_are_not_told_from_samples_without_a_trace(seen: Observation) -> None:
    """Trial 362552: one of two had left nothing, and the other was said to have been there twice."""
    blind = replace(seen, factor_known=False, batch_size=2 * SAMPLES)
    found = judge(blind, Candidate(*batch(0)))
    assert found.status is Status.PARTIAL
    assert found.missing is None
    assert "unless samples are missing that left no trace" in found.reason


def test_without_the_factor_only_a_batch_size_says_that_nobody_is_missing(seen: Observation) -> None:
    x, y = batch(0)
    blind = replace(seen, factor_known=False, update={name: 0.3 * tensor for name, tensor in seen.update.items()})
    assert judge(blind, Candidate(x, y)).status is Status.PARTIAL
    assert judge(replace(blind, batch_size=SAMPLES), Candidate(x, y)).status is Status.RECONSTRUCTED
    short = judge(replace(blind, batch_size=SAMPLES + 2), Candidate(x, y))
    assert (short.status, short.missing) == (Status.PARTIAL, None)  # the other two may repeat these
    assert "the other 2 left no trace in it, or repeat these" in short.reason


# weak samples, small tensors


def test_a_sample_of_which_the_network_is_sure_is_missing_and_not_made_up() -> None:
    """The head is so sharp that samples with the right label leave nothing: the batch is not whole without them."""
    model = Mlp(width=80, depth=3).build(SHAPE, 7, 1).double()
    with torch.no_grad():
        model[-1].weight.mul_(100000)  # type: ignore[operator, union-attr]
        model[-1].bias.mul_(100000)  # type: ignore[operator, union-attr]
        x, y = batch(0, 10)
        sure = model(x).argmax(dim=1)
        y = torch.where(torch.arange(10) < 4, (sure + 1) % 7, sure)
    seen = Observation(model, capture(model, x, y), SHAPE)
    found = judge(seen, Candidate(x[:4], y[:4]))
    assert (found.status, found.missing) == (Status.PARTIAL, 6)
    assert "no trace" in found.reason
    made_up = judge(seen, Candidate(torch.cat([x[:4], batch(5)[0][:6]]), torch.cat([y[:4], sure[4:]])))
    assert made_up.status is not Status.RECONSTRUCTED
    assert made_up.inputs is None or not made_up.status.disclosed or error(made_up, x[:4]) < 1e-6


def test_a_small_tensor_counts_by_itself(seen: Observation) -> None:
    """Small inputs make a gradient that is little beside the bias': half as large is wrong all the same."""
    x, y = batch(0)
    update = capture(seen.model, 1e-2 * x, y)
    assert judge(replace(seen, update=update), Candidate(1e-2 * x, y)).status is Status.RECONSTRUCTED
    first = next(name for name in update if name.endswith("weight"))
    spoiled = replace(seen, update={**update, first: 1.5 * update[first]})
    assert not judge(spoiled, Candidate(1.5e-2 * x, y)).status.disclosed


def test_a_neuron_at_its_kink_is_decided_by_its_mask() -> None:
    model = nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 3)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((16, 6), generator=generator, dtype=torch.float64)
    y = torch.arange(16) % 3
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model[0].bias[3] = 1e-8 - x[0] @ model[0].weight[3]
    update = {name: tensor.float() for name, tensor in capture(model, x, y).items()}
    nearby = x.clone()
    nearby[0] -= 1e-7 * model[0].weight[3].detach() / model[0].weight[3].detach().norm()  # type: ignore[union-attr]
    assert (model[0](nearby[0]) > 0).logical_xor(model[0](x[0]) > 0).sum() == 1
    found = judge(Observation(model, update, (6,)), Candidate(nearby, y))
    assert found.residual is not None
    assert found.residual < 1e-6
    wrong = judge(Observation(model, update, (6,)), Candidate(nearby + 1e-3, y))
    assert not wrong.status.disclosed


# inner layers


def test_what_an_inner_layer_sees_is_proved_as_such(seen: Observation) -> None:
    x, _ = batch(0)
    inside = seen.model[:3](x).detach()  # type: ignore[index]
    found = judge(seen, Candidate(features=inside, layer="3.weight"))
    assert found.status is Status.FEATURES
    assert found.features is not None
    assert torch.equal(found.features, inside)
    assert found.inputs is None
    for lie in (torch.rand_like(inside), 1.05 * inside, inside.flip(1), 0.5 * (inside + inside.roll(1, 0))):
        assert judge(seen, Candidate(features=lie, layer="3.weight")).status is not Status.FEATURES
    assert judge(seen, Candidate(features=inside, layer="5.weight")).status is not Status.FEATURES


def test_a_layer_with_a_way_around_it_proves_nothing() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(9, 30), nn.Linear(30, 30), nn.Linear(30, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            return self.c((h + self.b(h)).relu())

    model = Around().double()
    x = torch.randn((5, 9), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = Observation(model, capture(model, x, torch.arange(5) % 4), (9,))
    assert judge(seen, Candidate(features=model.a(x).relu().detach(), layer="b.weight")).status is Status.UNPROVEN
    assert judge(seen, Candidate(x, torch.arange(5) % 4)).status is Status.RECONSTRUCTED


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        ({}, Status.INCONSISTENT),
        ({"exhausted": True}, Status.BUDGET_EXHAUSTED),
        ({"converged": True}, Status.CONVERGED),
        ({"diverged": True}, Status.DIVERGED),
        ({"converged": True, "exhausted": True}, Status.BUDGET_EXHAUSTED),
        ({"diverged": True, "exhausted": True}, Status.DIVERGED),
    ],
)
def test_what_shows_nothing_is_called_by_how_its_search_ended(seen: Observation, ended: dict[str, bool], status: Status) -> None:
    x, y = batch(1)
    assert judge(seen, Candidate(x, y, **ended)).status is status  # type: ignore[arg-type]
    assert judge(seen, Candidate(**ended)).status is status  # type: ignore[arg-type]


@pytest.mark.parametrize("ended", ["exhausted", "converged", "diverged"])
def test_how_a_search_ended_takes_nothing_from_a_proof(seen: Observation, ended: str) -> None:
    x, y = batch(0)
    assert judge(seen, Candidate(x, y, **{ended: True})).status is Status.RECONSTRUCTED  # type: ignore[arg-type]


def test_the_inverted_layer_is_handed_on(seen: Observation) -> None:
    x, y = batch(0)
    assert judge(seen, Candidate(x, y, inverted=Inverted("1.weight", 80))).inverted == Inverted("1.weight", 80)


def test_a_sample_of_a_class_that_counts_nothing_ends_no_judgment() -> None:
    """By itself it has no loss, 0 / 0; and no entry of a pruned gradient holds it."""
    (x, y), loss = batch(0), nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1, 1, 1, 1, 1, 1]))
    y = torch.cat([torch.zeros(1, dtype=torch.int64), y[1:].clamp_min(1)])
    model = Mlp(width=80, depth=2).build(SHAPE, 7, 1).double()
    twice = torch.cat([x, x[-1:]]), torch.cat([y, y[-1:]])
    update = capture(model, x, y, loss)
    pruned = {name: tensor.where(tensor.abs() > tensor.abs().quantile(0.2), 0.0) for name, tensor in update.items()}
    for given, (inputs, labels) in ((capture(model, *twice, loss), twice), (pruned, (x, y))):
        found = judge(Observation(model, given, SHAPE, loss), Candidate(inputs, labels))
        assert found.status is not Status.RECONSTRUCTED
        assert found.inputs is not None
        assert not found.status.disclosed or not any(torch.equal(row, x[0]) for row in found.inputs)


class _Patches(nn.Module):
    """Reads a sample in four parts, each a row of its own, and takes their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(15, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x.reshape(-1, 15)).relu()
        return self.head(rows.view(len(x), -1, 40).mean(dim=1))


@pytest.mark.parametrize("local", [None, LocalTraining(2, None, 0.1)])
@pytest.mark.parametrize("told", [True, False])
def test_rows_that_are_parts_of_samples_are_no_samples(told: bool, local: LocalTraining | None) -> None:
    torch.manual_seed(0)
    model, inputs, labels = _Patches().double(), torch.rand(2, 60, dtype=torch.float64), torch.arange(2)
    seen = Observation(model, capture(model, inputs, labels), (60,), training=local)
    found = judge(seen, Candidate(inputs, labels if told else None))
    assert found.status in (Status.UNPROVEN, Status.APPROXIMATE, Status.INCONSISTENT)
