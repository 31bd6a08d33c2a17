"""Where counts come from: the last layer where it is sure, a proved reconstruction where it is not; and what the audit says of it."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import unbatch
from unbatch import plugins, restoring
from unbatch.contracts import Attack, Estimate, LabelRestorer
from unbatch.gradients import capture
from unbatch.types import Batch, Candidate, Counts, Observation, Progress

SPEAR = restoring.QUICK


def network(seed: int = 0, gain: float = 1.0, bias: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10, bias=bias)).double()
    with torch.no_grad():
        model[-1].weight *= gain
    return model


def batch(size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((size, 40), generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(10, (size,), generator=generator))


def observed(secret: Batch, model: nn.Module, told: bool = True) -> Observation:
    return Observation(model, capture(model, secret.inputs, secret.labels), (40,), batch_size=len(secret) if told else None)


def counted(labels: Tensor) -> list[int]:
    return torch.bincount(labels, minlength=10).tolist()


@dataclasses.dataclass(frozen=True)
class Never(Attack):
    """Must not be asked."""

    def unsupported(self, observation: Observation) -> str | None:
        raise AssertionError("asked")

    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        raise AssertionError("asked")


@pytest.fixture
def no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbatch.restoring.QUICK", Never())


@pytest.mark.usefixtures("no_attack")
def test_no_attack_is_tried_where_the_last_layer_is_sure() -> None:
    secret = batch(12)
    found = unbatch.restore_labels(observed(secret, network()))
    assert found.restorer == "anchored"
    assert found.trust == 1
    assert found.counts is not None
    assert found.counts.tolist() == counted(secret.labels)


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize("restorer", ["ilrg", "llg", "idlg"])
def test_a_named_method_answers_alone(restorer: str) -> None:
    found = unbatch.restore_labels(observed(batch(12), network(gain=30)), restorer)
    assert found.restorer == restorer


@pytest.mark.usefixtures("no_attack")
def test_none_tries_none() -> None:
    found = unbatch.restore_labels(observed(batch(12), network(gain=30)), attack=None)
    assert found.restorer == "anchored"
    assert found.trust < 1


@pytest.mark.parametrize("seed", range(3))
def test_where_it_doubts_itself_the_attack_proves_the_counts(seed: int) -> None:
    secret = batch(12, seed)
    seen = observed(secret, network(seed, gain=30))
    alone = unbatch.restore_labels(seen, attack=None)
    assert alone.trust < 1
    found = unbatch.restore_labels(seen)
    assert found.restorer == SPEAR
    assert found.proved == 12
    assert found.counts is not None
    assert found.counts.tolist() == counted(secret.labels)


def test_without_a_bias_in_the_last_layer_the_attack_tells() -> None:
    secret = batch(8)
    found = unbatch.restore_labels(observed(secret, network(bias=False), told=False))
    assert found.restorer == SPEAR
    assert found.counts is not None
    assert found.counts.tolist() == counted(secret.labels)


def test_repeated_samples_are_counted_by_the_batch_size() -> None:
    once = batch(6)
    secret = Batch(once.inputs.repeat(2, 1), once.labels.repeat(2))
    found = unbatch.restore_labels(observed(secret, network(gain=30)))
    assert found.restorer == SPEAR
    assert found.counts is not None
    assert found.counts.tolist() == counted(secret.labels)


def test_a_wrong_batch_size_is_corrected_by_the_proof() -> None:
    secret = batch(12)
    seen = dataclasses.replace(observed(secret, network(gain=30)), batch_size=17)
    found = unbatch.restore_labels(seen)
    assert found.counts is not None
    assert found.counts.tolist() == counted(secret.labels)
    assert "a batch of 12 samples, not of 17" in found.reason


def test_where_the_attack_proves_nothing_the_restorer_answers() -> None:
    secret = batch(59)  # more than half of the neurons: too many for the attack
    found = unbatch.restore_labels(dataclasses.replace(observed(secret, network(gain=30)), batch_size=59))
    assert found.restorer == "anchored"
    assert found.counts is not None
    assert int(found.counts.sum()) == 59


def test_samples_that_left_no_trace_are_not_taken_for_copies() -> None:
    """A network that is sure of half of the batch: their gradient is zero, and the others were there once, not twice."""
    secret = batch(4)
    model = network(gain=30)
    update = {name: tensor / 2 for name, tensor in capture(model, secret.inputs, secret.labels).items()}
    found = unbatch.restore_labels(Observation(model, update, (40,), batch_size=8))
    assert found.restorer == f"{SPEAR} + anchored"
    assert "4 of 8 samples are proved, the rest is a guess" in found.reason
    assert found.counts is not None
    assert int(found.counts.sum()) == 8
    assert bool((found.counts >= torch.bincount(secret.labels, minlength=10)).all())


# --- in the audit ---


def test_an_audit_takes_the_counts_of_a_proved_batch() -> None:
    secret = batch(8)
    finding = unbatch.audit(observed(secret, network(), told=False), secret)
    assert finding.counts is not None
    assert finding.counts.restorer == "spear"
    assert finding.counts.counts is not None
    assert finding.counts.counts.tolist() == counted(secret.labels)


def test_an_audit_reads_the_last_layer_where_the_attack_fails() -> None:
    secret = batch(12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        smooth = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 10)).double()
    finding = unbatch.audit(observed(secret, smooth), secret)
    assert finding.reconstruction.status.name == "NOT_APPLICABLE"
    assert finding.counts is not None
    assert finding.counts.restorer == "anchored"
    assert finding.counts.counts is not None
    assert finding.counts.counts.tolist() == counted(secret.labels)


def test_an_audit_says_why_there_are_no_counts() -> None:
    secret = batch(59)
    finding = unbatch.audit(observed(secret, network(bias=False), told=False), secret, attack="spear:seconds=0.5")
    assert finding.counts is not None
    assert finding.counts.counts is None
    assert "no bias" in finding.counts.reason


def test_an_audit_says_that_it_was_told_the_labels() -> None:
    secret = batch(8)
    finding = unbatch.audit(dataclasses.replace(observed(secret, network()), labels=secret.labels), secret)
    assert finding.counts is not None
    assert finding.counts.restorer == "told"
    assert finding.counts.counts is not None
    assert finding.counts.counts.tolist() == counted(secret.labels)


@dataclasses.dataclass(frozen=True)
class Half(Attack):
    """Knows half of the samples. With more samples than the two layers have classes, no single one would be fixed by the update."""

    def unsupported(self, observation: Observation) -> str | None:
        return None

    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        secret = batch(8)
        return Candidate(secret.inputs[:4], secret.labels[:4], exhausted=True)


@dataclasses.dataclass(frozen=True)
class Mute(LabelRestorer):
    """Never says anything."""

    def unsupported(self, observation: Observation) -> str | None:
        return "mute"

    def estimate(self, observation: Observation, generator: torch.Generator) -> Estimate:
        raise AssertionError("asked")


def test_the_rest_of_a_batch_proved_in_part() -> None:
    secret = batch(8)
    finding = unbatch.audit(observed(secret, network()), secret, attack=Half())
    assert finding.counts is not None
    assert finding.counts.counts is not None
    assert finding.counts.counts.tolist() == counted(secret.labels)
    assert finding.counts.restorer == f"{Half().spec} + anchored"
    assert "4 of 8 samples are proved, the rest is read off" in finding.counts.reason
    guessed = unbatch.restore_labels(observed(secret, network()), Mute(), attack=Half())
    assert "the rest is a guess" in guessed.reason
    assert guessed.counts is not None
    assert int(guessed.counts.sum()) == 8
    assert bool((guessed.counts >= torch.bincount(secret.labels[:4], minlength=10)).all())


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1] * 6])
def test_a_size_that_is_told_rightly_loses_nothing(labels: list[int]) -> None:
    """Counts with a common divisor come out whole for other sizes too: what was told is then proved by the attack, as without it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 2)).double()
    secret = Batch(batch(len(labels)).inputs, torch.tensor(labels))
    for told in (True, False):
        found = unbatch.restore_labels(observed(secret, model, told))
        assert (found.determined, found.counts.tolist()) == (True, torch.bincount(secret.labels, minlength=2).tolist())


def test_half_of_what_was_told_proved_and_the_same_left_is_not_determined() -> None:
    once = torch.tensor([1, 2, 0])
    exact = Counts(once, once > 0, "", once.double(), {}, "spear", 3, determined=True, expected_error=0.0)
    again = dataclasses.replace(exact, restorer="anchored", expected_error=0.01)
    found = restoring._with_rest(dataclasses.replace(exact, proved=3), again, Counts(), 6)
    assert (found.determined, found.expected_error, found.counts.tolist()) == (False, None, [2, 4, 0])


def test_what_is_used_by_default_exists() -> None:
    assert plugins.build("labels", restoring.RESTORER).spec == restoring.RESTORER
    assert plugins.build("attacks", restoring.QUICK).spec == restoring.QUICK


@pytest.mark.parametrize("known", [True, False])
def test_as_many_proved_as_were_told_are_not_all_where_the_update_holds_more(known: bool) -> None:
    secret, model = batch(7), network()
    seen = Observation(model, capture(model, secret.inputs, secret.labels), (40,), batch_size=6, factor_known=known)

    @dataclasses.dataclass(frozen=True)
    class Six(Attack):
        def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
            return Candidate(secret.inputs[:6], secret.labels[:6])

    found = unbatch.audit(seen, None, Six())
    assert found.reconstruction.status is unbatch.Status.PARTIAL
    assert found.counts is not None
    assert not found.counts.determined
