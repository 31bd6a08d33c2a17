"""Whole federations in Flower's simulation engine (ray): a real model, real digits, one careless client among careful ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: run `make test-flower`")
pytest.importorskip("ray", reason="ray is not installed: run `make test-flower`")

import federation
from federation import RATE, SAMPLES, SHAPE, LocalGrid, batch_of, message, network, recovers, trained
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from flwr.simulation import run_simulation

from unbatch import store
from unbatch.cli import execute
from unbatch.flower import AuditingStrategy, DefenseMod, RoundSummary
from unbatch.training import LocalTraining
from unbatch.types import Status

CLIENTS, ROUNDS, CARELESS = 4, 3, 0
STEP = LocalTraining(learning_rate=RATE)

pytestmark = pytest.mark.filterwarnings("ignore")  # of ray and of Flower, about themselves


class Ordered(FedAvg):
    """FedAvg of all clients that adds them up in the same order in every run: node numbers and arrivals are random."""

    def __init__(self) -> None:
        # A simulation starts rounds as soon as enough nodes are there: wait for all.
        super().__init__(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, sorted(replies, key=partition_of))


def partition_of(reply: Message) -> int:
    return int(reply.content["metrics"]["partition-id"])


def clients(local: LocalTraining, mod: DefenseMod | None = None) -> ClientApp:
    """Every client but the careless one is defended by the mod."""
    train_locally: Callable[..., Any] = trained  # a function in a function is pickled whole: ray knows no tests

    def careful(msg: Message, context: Any, call_next: Any) -> Message:
        if mod is None or context.node_config["partition-id"] == CARELESS:
            return call_next(msg, context)
        return mod(msg, context, call_next)

    app = ClientApp(mods=[careful])

    @app.train()
    def train(msg: Message, context: Any) -> Message:
        partition, server_round = int(context.node_config["partition-id"]), int(msg.content["config"]["server-round"])
        sent = dict(msg.content["arrays"].to_torch_state_dict())
        after = train_locally(sent, batch_of(partition, server_round), local, seed=server_round)
        metrics = MetricRecord({"num-examples": SAMPLES, "partition-id": partition})
        return Message(RecordDict({"arrays": ArrayRecord(after), "metrics": metrics}), reply_to=msg)

    return app


def start(strategy: Strategy, grid: Any) -> Result:
    return strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=ROUNDS)


def simulate(strategy: Strategy, app: ClientApp) -> None:
    """All rounds in Flower's simulation engine."""
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        start(strategy, grid)

    # Without a dashboard and with little shared memory: this is a small machine.
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    settings = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80_000_000}
    run_simulation(server, app, CLIENTS, backend_config={"client_resources": resources, "init_args": settings})


def auditing_strategy(out: Path, local: LocalTraining = STEP) -> AuditingStrategy:
    return AuditingStrategy(
        Ordered(),
        network,
        SHAPE,
        out,
        training=local,
        save_updates=True,
        name=lambda reply: f"ward {partition_of(reply)}",
    )


def test_nothing_is_told_to_anybody() -> None:
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditingStrategy, Path]:
    """Four clients, three rounds, one of them undefended."""
    out = tmp_path_factory.mktemp("careless") / "findings"
    strategy = auditing_strategy(out)
    simulate(strategy, clients(STEP, DefenseMod("gaussian_noise:deviation=1.0")))
    return strategy, out


def test_the_report_names_the_undefended_client_and_no_other_in_every_round(careless: tuple[AuditingStrategy, Path]) -> None:
    strategy, out = careless
    assert strategy.disclosed == {f"ward {CARELESS}": [1, 2, 3]}
    for server_round in range(1, ROUNDS + 1):
        summary = RoundSummary.model_validate_json((out / f"round-{server_round}" / "summary.json").read_text())
        assert (summary.disclosed, summary.suspected) == ((f"ward {CARELESS}",), ())
        assert len(summary.clients) == CLIENTS
        for client in summary.clients:
            assert client.outcome == "audited"
            assert client.disclosed == (client.name == f"ward {CARELESS}")
            assert client.told == SAMPLES
            assert (out / f"round-{server_round}" / str(client.folder) / "report.html").is_file()
    assert (out / "summary.txt").read_text().startswith("samples were disclosed of client ward 0 (rounds 1, 2, 3)\n")


def test_what_it_discloses_is_what_the_client_had(careless: tuple[AuditingStrategy, Path]) -> None:
    strategy, out = careless
    for done in strategy.rounds:
        [client] = [client for client in done.clients if client.disclosed]
        stored, tensors = store.load(out / f"round-{done.round}" / str(client.folder))
        assert stored.status == "RECONSTRUCTED"
        assert recovers(tensors["inputs"], batch_of(CARELESS, done.round))
        assert sorted(tensors["labels"].tolist()) == sorted(batch_of(CARELESS, done.round).labels.tolist())


def test_the_saved_updates_audited_offline_give_the_same_finding(
    careless: tuple[AuditingStrategy, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy, out = careless
    for done in strategy.rounds:
        for client in done.clients:
            again = tmp_path / f"{done.round}-{client.client}"
            code = offline(out / f"round-{done.round}" / str(client.folder), again)
            said = capsys.readouterr().err
            if client.status == Status.NOT_APPLICABLE.name:
                assert (code, again.exists()) == (2, False)
                assert client.reason in said
            else:
                stored, _ = store.load(again)
                assert code == (3 if client.disclosed else 0)
                assert (stored.status, stored.reconstructed) == (client.status, client.samples)
                # What is left is the rounding of float32, of which a busy machine, where the search stops earlier, may leave more.
                assert stored.residual == pytest.approx(client.residual, rel=1e-3, abs=1e-5)


def offline(saved: Path, out: Path) -> int:
    """The command line on what the strategy saved of a client, as a gate."""
    files = {"--weights": saved / "weights.safetensors", "--update": saved / "reply.safetensors", "--out": out}
    told = {"--update-is": "weights", "--learning-rate": RATE, "--batch-size": SAMPLES, "--input-shape": "1,8,8", "--fail-on": "exact"}
    given = {"--model": f"{federation.__file__}:network", **files, **told}
    return execute(["audit", "--quiet", "--attack=spear", *(str(word) for pair in given.items() for word in pair)])


def test_auditing_changes_no_bit_of_the_federation(tmp_path: Path) -> None:
    app = clients(STEP, DefenseMod("gaussian_noise:deviation=1.0", seed=0))
    message(0, RecordDict())  # gives this process an identity
    alone = start(Ordered(), LocalGrid(app, CLIENTS))
    strategy = auditing_strategy(tmp_path / "out")
    watched = start(strategy, LocalGrid(app, CLIENTS))
    assert {name: array.data for name, array in watched.arrays.items()} == {name: array.data for name, array in alone.arrays.items()}
    assert strategy.disclosed == {f"ward {CARELESS}": [1, 2, 3]}


def test_several_local_epochs_of_full_batches(tmp_path: Path) -> None:
    local = LocalTraining(epochs=3, learning_rate=0.05)
    strategy = auditing_strategy(tmp_path / "out", local)
    simulate(strategy, clients(local, DefenseMod("gaussian_noise:deviation=1.0")))
    assert strategy.disclosed == {f"ward {CARELESS}": [1, 2, 3]}
    for done in strategy.rounds:
        [client] = [client for client in done.clients if client.disclosed]
        assert Status[str(client.status)].disclosed
        _, tensors = store.load(tmp_path / "out" / f"round-{done.round}" / str(client.folder))
        assert recovers(tensors["inputs"], batch_of(CARELESS, done.round), 1e-2)
