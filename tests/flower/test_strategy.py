"""The auditing strategy on messages made by hand: no ray, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("flwr", reason="Flower is not installed: run `make test-flower`")

from federation import RATE, SAMPLES, SHAPE, answer, batch_of, context, message, network, record, recovers, tensors_in, trained
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
from flwr.serverapp.strategy import FedAvg

from unbatch import store
from unbatch.contracts import Attack
from unbatch.errors import Misuse, UnknownPlugin
from unbatch.flower import AuditingStrategy, DefenseMod, RoundSummary
from unbatch.gradients import capture
from unbatch.training import LocalTraining
from unbatch.types import Candidate

STEP = LocalTraining(learning_rate=RATE)


class Inner(FedAvg):
    """FedAvg that takes its messages from the test instead of from a grid, and remembers what it was handed."""

    def __init__(self, messages: list[Message]) -> None:
        super().__init__()
        self.messages, self.handed = messages, []

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        return iter(self.messages)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.handed.append(replies)
        return super().aggregate_train(server_round, replies)


def build(inner: Any, out: Path, **settings: Any) -> AuditingStrategy:
    return AuditingStrategy(inner, network, SHAPE, out, **{"training": STEP, **settings})


def sent_to(nodes: int, state: Mapping[str, Tensor]) -> list[Message]:
    same = ArrayRecord(dict(state))
    return [message(100 + node, record(same)) for node in range(nodes)]


def play(strategy: AuditingStrategy, replies: list[Message], server_round: int = 1) -> Any:
    """One round."""
    list(strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), None))  # type: ignore[arg-type]
    return strategy.aggregate_train(server_round, iter(replies))


def honest(messages: list[Message], server_round: int = 1) -> list[Message]:
    state = network().state_dict()
    return [answer(sent, trained(state, batch_of(client, server_round), STEP)) for client, sent in enumerate(messages)]


def test_a_client_that_takes_one_step_is_disclosed(tmp_path: Path) -> None:
    messages = sent_to(2, network().state_dict())
    strategy = build(Inner(messages), tmp_path / "out")
    play(strategy, honest(messages))
    assert strategy.disclosed == {"100": [1], "101": [1]}
    for client in range(2):
        folder = tmp_path / "out" / "round-1" / f"client-{100 + client}"
        stored, tensors = store.load(folder)
        assert stored.status == "RECONSTRUCTED"
        assert recovers(tensors["inputs"], batch_of(client, 1))
        assert sorted(stored.labels or ()) == sorted(batch_of(client, 1).labels.tolist())
        assert "all 8 samples were reconstructed" in (folder / "report.html").read_text()
    summary = RoundSummary.model_validate_json((tmp_path / "out" / "round-1" / "summary.json").read_text())
    assert summary == strategy.rounds[0]
    assert [(c.status, c.samples, c.told) for c in summary.clients] == [("RECONSTRUCTED", SAMPLES, SAMPLES)] * 2
    told = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert told[0] == "samples were disclosed of client 100 (round 1); client 101 (round 1)"
    assert told[3].startswith("    client 100: RECONSTRUCTED, 8 of 8 samples reconstructed, residual ")


def test_the_aggregate_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    messages = sent_to(3, network().state_dict())
    alone, metrics = Inner(messages).aggregate_train(1, honest(messages))
    inner = Inner(messages)
    strategy = build(inner, tmp_path)
    before = torch.get_rng_state()
    assert list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), None)) == messages  # type: ignore[arg-type]
    replies = honest(messages)
    audited, same_metrics = strategy.aggregate_train(1, iter(replies))
    assert inner.handed[0] == replies
    assert audited is not None
    assert {name: array.data for name, array in audited.items()} == {name: array.data for name, array in alone.items()}
    assert same_metrics == metrics
    assert len(strategy.disclosed) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_building_the_model_does_not_shift_the_random_state(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    AuditingStrategy(FedAvg(), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), SHAPE, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_learning_rate_costs_nothing(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path, training=LocalTraining())
    play(strategy, honest(messages))
    assert strategy.disclosed == {"100": [1]}
    assert "not the factor by which the update was scaled" in store.load(tmp_path / "round-1" / "client-100")[0].knowledge


def test_gradients_and_numbered_arrays(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    batch = batch_of(0, 1)
    strategy = build(Inner(messages), tmp_path / "gradients", training=None)
    play(strategy, [answer(messages[0], capture(network(), batch.inputs.float(), batch.labels))])
    assert strategy.disclosed == {"100": [1]}

    state = network().state_dict()
    messages = [message(100, record(ArrayRecord([tensor.numpy() for tensor in state.values()])))]
    after = ArrayRecord([tensor.numpy() for tensor in trained(state, batch, STEP).values()])
    strategy = build(Inner(messages), tmp_path / "numbered")
    play(strategy, [answer(messages[0], after)])
    assert strategy.disclosed == {"100": [1]}


@pytest.mark.parametrize("told", [None, 7.5, 0, -3, float("nan")])
def test_without_a_usable_number_of_samples_it_is_not_told(tmp_path: Path, told: float | None) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path)
    [reply] = honest(messages)
    strategy._sent = {"100": network().state_dict()}
    if told is None:
        del reply.content["metrics"]
    else:
        reply.content["metrics"]["num-examples"] = told
    strategy._audit_round(1, [reply])
    [client] = strategy.rounds[0].clients
    assert (client.told, client.status, client.samples) == (None, "RECONSTRUCTED", SAMPLES)


def broken_replies(to: list[Message]) -> list[Message]:
    """One reply of every kind that cannot be audited."""
    state = network().state_dict()
    good = trained(state, batch_of(0, 1), STEP)
    name = next(iter(good))
    two = answer(to[7], good)
    two.content["more"] = ArrayRecord(good)
    return [
        Message(Error(1, "out of memory"), reply_to=to[0]),
        answer(to[1], {other: tensor for other, tensor in good.items() if other != name}),
        answer(to[2], {**good, name: good[name].flatten()}),
        answer(to[3], {**good, name: good[name] * float("nan")}),
        answer(to[4], state),
        answer(to[5], None),
        answer(to[6], ArrayRecord({"w": Array("float32", (1,), "not numpy", b"\0")})),
        two,
    ]


def test_what_cannot_be_audited_is_written_down_and_stops_nobody(tmp_path: Path) -> None:
    messages = sent_to(8, network().state_dict())
    strategy = build(Inner(messages), tmp_path)
    strategy._sent = {str(100 + node): network().state_dict() for node in range(8)}
    strategy._audit_round(1, broken_replies(messages))
    told = [(client.outcome, client.reason) for client in strategy.rounds[0].clients]
    assert told[0] == ("failed", "the client sent an error: out of memory")
    name = next(iter(network().state_dict()))
    for (outcome, reason), expected in zip(
        told[1:5],
        [f"none for {name!r}", f"{name!r} of shape (120, 64), got (7680,)", "NaN or infinity", "zeros in every tensor"],
        strict=True,
    ):
        assert outcome == "refused"
        assert expected in reason
    assert {told[5], told[6], told[7]} == {("left out", "it did not answer with exactly one record of arrays of numbers")}
    assert strategy.disclosed == {}
    assert tensors_in(tmp_path) == set()


def test_an_answer_that_was_not_asked_for_cannot_be_compared(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner([messages[0], messages[0]]), tmp_path)
    play(strategy, honest(messages))
    [client] = strategy.rounds[0].clients
    assert (client.outcome, client.reason) == ("left out", "it was not sent exactly one record of arrays of numbers")


def test_a_made_up_number_of_samples_does_not_hold_the_round_up(tmp_path: Path) -> None:
    messages = sent_to(2, network().state_dict())
    strategy = build(Inner(messages), tmp_path, training=LocalTraining(batch_size=SAMPLES, learning_rate=RATE))
    replies = honest(messages)
    replies[0].content["metrics"]["num-examples"] = 10**15
    assert play(strategy, replies)[0] is not None
    told = {client.client: (client.outcome, client.disclosed) for client in strategy.rounds[0].clients}
    assert told == {"100": ("refused", False), "101": ("audited", True)}
    assert "125,000,000,000,000: no attack follows so many" in strategy.rounds[0].clients[0].reason


def test_weak_noise_is_not_called_safe(tmp_path: Path) -> None:
    """Noise of a thousandth takes the proof away, not the pictures."""
    messages = sent_to(1, network().state_dict())
    batch, mod = batch_of(0, 1), DefenseMod("gaussian_noise:deviation=0.001", seed=0)
    state = network().state_dict()
    reply = mod(messages[0], context(100), lambda msg, _: answer(msg, trained(state, batch, STEP)))
    strategy = build(Inner(messages), tmp_path)
    play(strategy, [reply])
    [client] = strategy.rounds[0].clients
    assert (client.status, client.disclosed, client.suspected) == ("APPROXIMATE", False, True)
    assert strategy.rounds[0].suspected == ("100",)
    assert recovers(store.load(tmp_path / "round-1" / "client-100")[1]["inputs"], batch, 0.05)
    told = (tmp_path / "summary.txt").read_text().splitlines()
    assert told[1] == "something near the data, not proved, was found of client 100 (round 1): judge by the reports"
    assert told[3] == "round 1: 0 of 1 audited clients disclosed; look at 100 too"


@dataclass(frozen=True)
class Crash(Attack):
    def unsupported(self, observation: Any) -> None:
        return None

    def reconstruct(self, observation: Any, generator: Any, progress: Any) -> Candidate:
        raise ZeroDivisionError("a bug")


def test_an_attack_that_crashes_says_nothing_of_the_client(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path, attack=Crash())
    assert play(strategy, honest(messages))[0] is not None
    [client] = strategy.rounds[0].clients
    assert (client.outcome, client.status, client.disclosed) == ("audited", "BROKE_DOWN", False)
    assert "ZeroDivisionError: a bug" in client.reason
    assert "BROKE_DOWN (the attack failed with ZeroDivisionError: a bug)" in (tmp_path / "summary.txt").read_text()


def test_a_disk_that_cannot_be_written_keeps_the_finding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path, save_updates=True)
    (tmp_path / "round-1").write_text("in the way")
    assert play(strategy, honest(messages))[0] is not None
    [client] = strategy.rounds[0].clients
    assert client.disclosed
    assert client.folder is None
    assert client.reason.count("expected an output folder") == 2
    assert strategy.disclosed == {"100": [1]}


def test_a_bug_around_the_audit_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path)
    monkeypatch.setattr(strategy, "_received", None)
    assert play(strategy, honest(messages))[0] is not None
    assert strategy.rounds == []


def test_a_client_without_a_name_goes_by_its_number(tmp_path: Path) -> None:
    messages = sent_to(2, network().state_dict())
    strategy = build(Inner(messages), tmp_path, name=lambda reply: f"ward {reply.content['metrics']['num-examples']}")
    replies = [honest(messages)[0], Message(Error(1, "out of memory"), reply_to=messages[1])]
    assert play(strategy, replies)[0] is not None
    assert [client.name for client in strategy.rounds[0].clients] == ["ward 8", "101"]


def test_clients_are_named_as_the_operator_names_them(tmp_path: Path) -> None:
    messages = sent_to(2, network().state_dict())
    names = {100: "ward 1", 101: "../ward 2"}
    strategy = build(Inner(messages), tmp_path / "out", name=lambda reply: names[reply.metadata.src_node_id])
    play(strategy, honest(messages))
    assert strategy.disclosed == {"ward 1": [1], "../ward 2": [1]}
    assert sorted(path.name for path in (tmp_path / "out" / "round-1").iterdir()) == ["client-100", "client-101", "summary.json"]


def test_only_some_rounds_and_clients(tmp_path: Path) -> None:
    messages = sent_to(3, network().state_dict())
    strategy = build(Inner(messages), tmp_path, every=2, clients=2)
    for server_round in range(1, 6):
        play(strategy, honest(messages, server_round), server_round)
    assert [done.round for done in strategy.rounds] == [1, 3, 5]
    audited = [{client.client for client in done.clients if client.outcome == "audited"} for done in strategy.rounds]
    assert [len(chosen) for chosen in audited] == [2, 2, 2]
    assert audited[0] | audited[1] == {"100", "101", "102"}
    assert {c.reason for done in strategy.rounds for c in done.clients if c.outcome == "left out"} == {
        "2 other clients were audited in this round"
    }


def test_a_spent_budget_leaves_clients_out_by_name(tmp_path: Path) -> None:
    messages = sent_to(2, network().state_dict())
    strategy = build(Inner(messages), tmp_path, seconds=1e-9)
    play(strategy, honest(messages))
    assert {(c.outcome, c.reason) for c in strategy.rounds[0].clients} == {
        ("left out", "the round's budget of 1e-09 seconds was spent before its turn")
    }


def test_without_reports_nothing_of_the_clients_reaches_the_disk(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path, reports=False)
    play(strategy, honest(messages))
    assert strategy.disclosed == {"100": [1]}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["summary.json", "summary.txt"]


def test_the_summary_is_plain_json(tmp_path: Path) -> None:
    messages = sent_to(1, network().state_dict())
    strategy = build(Inner(messages), tmp_path)
    play(strategy, honest(messages))
    read = json.loads((tmp_path / "round-1" / "summary.json").read_text())
    assert read["format"] == 1
    assert read["disclosed"] == ["100"]
    assert read["clients"][0]["client"] == "100"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": 0}, "every=0"),
        ({"clients": 0}, "clients=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"inner": "fedavg"}, "a str: wrap the one that runs the federation"),
        ({"model": lambda: 3}, "one that returns int"),
        ({"input_shape": (3, 8, 8)}, "a model that runs on inputs of shape"),
    ],
)
def test_misuse_is_refused_before_the_first_round(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    given = {"inner": FedAvg(), "model": network, "input_shape": SHAPE, "out": tmp_path, **settings}
    with pytest.raises(Misuse, match=expected.replace("(", r"\(")):
        AuditingStrategy(**given)
    with pytest.raises(UnknownPlugin):
        AuditingStrategy(FedAvg(), network, SHAPE, tmp_path, attack="telepathy")
    assert AuditingStrategy(FedAvg(), network, SHAPE, tmp_path, attack="auto:seconds=5")  # as on the command line


def test_a_strategy_with_a_start_of_its_own_is_refused(tmp_path: Path) -> None:
    class Own(FedAvg):
        def start(self, *args: Any, **settings: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(Misuse, match="Own, which has a start of its own"):
        AuditingStrategy(Own(), network, SHAPE, tmp_path)


def test_findings_of_another_federation_are_not_mixed_with_these(tmp_path: Path) -> None:
    (tmp_path / "round-1").mkdir()
    with pytest.raises(Misuse, match="findings of another federation"):
        build(FedAvg(), tmp_path)
