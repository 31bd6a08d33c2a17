"""Attacks that change what they are judged by: nothing that they say is believed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenes import Lie, Scene, liar
from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.training import LocalTraining
from unbatch.types import Candidate, Observation, Status


def mirrored(scene: Scene, generator: torch.Generator) -> Candidate:
    """Numbers only change places, in the update and in the weights alike: no sum over them changes."""
    with torch.no_grad():
        for tensor in (scene.observation.update["0.weight"], dict(scene.observation.model.named_parameters())["0.weight"]):
            tensor.copy_(tensor.flip(1).clone())
    return Candidate(scene.inputs.flip(1), scene.labels)


def another_loss(scene: Scene, generator: torch.Generator) -> Candidate:
    def turned(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, (labels + 1) % outputs.shape[1])

    object.__setattr__(scene.observation, "loss", turned)
    return Candidate(scene.inputs, (scene.labels - 1) % scene.classes)


def another_activation(scene: Scene, generator: torch.Generator) -> Candidate:
    scene.observation.model[1] = nn.Identity()  # type: ignore[operator]
    return Candidate(scene.inputs, scene.labels)


def a_hook(scene: Scene, generator: torch.Generator) -> Candidate:
    scene.observation.model.register_forward_pre_hook(lambda _, given: (given[0].flip(1),))
    return Candidate(scene.inputs.flip(1), scene.labels)


class TwoFaced(Tensor):
    """A tensor that could answer differently each time that it is asked."""


def a_type_of_its_own(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(scene.inputs.as_subclass(TwoFaced), scene.labels)


def no_numbers(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(scene.inputs.to("meta"), scene.labels)


def sparse_labels(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels.to_sparse())


def counts_that_are_none(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels, stats=["seconds"])  # type: ignore[arg-type]


def a_reason_that_is_none(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels, reason=["none"])  # type: ignore[arg-type]


def rows_of_rows(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(features=torch.ones(2, 30, 2), layer="2.weight")


def the_end(scene: Scene, generator: torch.Generator) -> Candidate:
    """Of the process, with the code of success."""
    raise SystemExit(0)


class ItsOwnError(BaseException):
    pass


def the_end_of_another_kind(scene: Scene, generator: torch.Generator) -> Candidate:
    raise ItsOwnError


def the_end_of_a_generator(scene: Scene, generator: torch.Generator) -> Candidate:
    raise GeneratorExit


def nested(scene: Scene, generator: torch.Generator) -> Candidate:
    return Candidate(torch.nested.nested_tensor(list(scene.inputs)), scene.labels)


OF_ITS_OWN = [
    no_numbers,
    sparse_labels,
    counts_that_are_none,
    a_reason_that_is_none,
    rows_of_rows,
    the_end,
    the_end_of_another_kind,
    the_end_of_a_generator,
    pytest.param(nested, marks=pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")),
]


@pytest.mark.parametrize("lie", [*OF_ITS_OWN, mirrored, another_loss, another_activation, a_hook, a_type_of_its_own])
def test_an_attack_that_changes_what_it_is_judged_by_breaks_down(lie: Lie) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    inputs, labels = torch.randn(3, 20, dtype=torch.float64), torch.tensor([0, 1, 3])
    seen = Observation(model, capture(model, inputs, labels), (20,), batch_size=3)
    found = liar(Scene(seen, inputs, labels, inputs, labels), lie)(seen, seed=0)
    assert found.status is Status.BROKE_DOWN
    assert found.inputs is None


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.set_default_device("meta"),
        lambda: torch.set_default_dtype(torch.float16),
        lambda: torch.set_grad_enabled(False),
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.use_deterministic_algorithms(True),
    ],
)
def test_what_an_attack_sets_for_the_whole_process_is_put_back(setting: Callable[[], object]) -> None:
    def settings() -> tuple[object, ...]:
        modes = torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()
        return torch.get_default_device(), torch.get_default_dtype(), *modes

    def the_truth(scene: Scene, generator: torch.Generator) -> Candidate:
        setting()
        return Candidate(scene.inputs, scene.labels)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    inputs, labels = torch.randn(3, 20, dtype=torch.float64), torch.tensor([0, 1, 3])
    seen, before = Observation(model, capture(model, inputs, labels), (20,), batch_size=3), settings()
    assert liar(Scene(seen, inputs, labels, inputs, labels), the_truth)(seen, seed=0).status is Status.RECONSTRUCTED
    assert settings() == before


def test_what_is_judged_is_not_written_to_by_a_thread_that_was_left_behind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    inputs, labels = torch.randn(3, 20, dtype=torch.float64), torch.tensor([0, 1, 3])
    seen = Observation(model, capture(model, inputs, labels), (20,), batch_size=3)
    handed = inputs.clone()
    found = judge(seen, Candidate(handed, labels))
    handed.zero_()
    assert found.status is Status.RECONSTRUCTED
    assert torch.equal(found.inputs, inputs)


@pytest.mark.parametrize("training", [None, LocalTraining(epochs=2, batch_size=2, learning_rate=0.1)])
def test_fewer_samples_than_batch_statistics_need_are_a_wrong_proposal_and_no_misuse(training: LocalTraining | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10), nn.BatchNorm1d(10), nn.Linear(10, 4)).double().train()
    inputs, labels = torch.randn(4, 20, dtype=torch.float64), torch.tensor([0, 1, 3, 3])
    seen = Observation(model, capture(model, inputs, labels), (20,), batch_size=4, training=training)
    for count in (1, 3):
        found = judge(seen, Candidate(inputs[:count], labels[:count], order=torch.arange(count).expand(2, count)))
        assert not found.status.disclosed
    assert not judge(seen, Candidate(inputs[[0, 0]], labels[[0, 0]])).status.disclosed
