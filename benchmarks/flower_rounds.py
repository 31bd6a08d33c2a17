"""What auditing adds to a round of a Flower federation, and what noise of the client mod hides; runs in .venv-flower, in one process.

Four clients of 20 float32 samples train a network (width 200, three layers) for three rounds; times are CPU seconds of one thread.
"""

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": tempfile.mkdtemp()}

import harness
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from unbatch.flower import AuditingStrategy, DefenseMod
from unbatch.models.mlp import Mlp
from unbatch.training import LocalTraining, shuffled, train

CLIENTS, ROUNDS, SAMPLES = 4, 3, 20
RATES = ["E=1 lr=0.1", "E=1 lr=0.01", "E=1 lr=0.001", "E=5 lr=0.1", "E=5 lr=0.01", "E=5 lr=0.001"]
NOISE = ["noise=1e-4", "noise=1e-3", "noise=1e-2", "noise=3e-2", "noise=1e-1", "noise=1"]


class Grid:
    """Runs the clients one after the other."""

    def __init__(self, app: ClientApp) -> None:
        self.app, self.seconds = app, 0.0

    def get_node_ids(self) -> list[int]:
        return list(range(1, CLIENTS + 1))

    def send_and_receive(self, messages: Any, timeout: float) -> list[Message]:
        start, _ = time.process_time(), timeout
        replies = [self.app(sent, Context(1, sent.metadata.dst_node_id, {}, RecordDict(), {})) for sent in messages]
        self.seconds += time.process_time() - start
        return replies


class Timed(AuditingStrategy):
    """Counts what auditing costs: everything that this class does beside the inner strategy."""

    cost = 0.0

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        start = time.process_time()
        result = super().aggregate_train(server_round, replies)
        self.cost += time.process_time() - start
        return result


def federation(data: Any, local: LocalTraining, deviation: float, seed: int) -> tuple[Timed, float]:
    app = ClientApp(mods=[DefenseMod(f"gaussian_noise:{deviation}")] if deviation else [])

    def network() -> torch.nn.Module:
        return Mlp(depth=3).build(data.input_shape, harness.classes(data), seed)

    @app.train()
    def learn(msg: Message, context: Context) -> Message:
        model, sent = network(), msg.content["arrays"].to_torch_state_dict()
        model.load_state_dict(sent)
        number = int(msg.content["config"]["server-round"])
        batch = data.batch(SAMPLES, 1000 * seed + 10 * number + context.node_id)
        order = shuffled(local.epochs, SAMPLES, torch.Generator().manual_seed(number))
        moved = train(model, batch.inputs.float(), batch.labels, local, order)
        after = ArrayRecord({name: tensor - moved[name] for name, tensor in sent.items()})
        return Message(RecordDict({"arrays": after, "metrics": MetricRecord({"num-examples": SAMPLES})}), reply_to=msg)

    with tempfile.TemporaryDirectory() as out:
        inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
        strategy = Timed(inner, network, data.input_shape, Path(out), training=local, schema=data.schema, attack="spear:seconds=5")
        grid = Grid(app)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=ROUNDS)
    return strategy, grid.seconds


def measure(data: Any, key: str, federations: int) -> dict[str, Any]:
    told = dict(part.split("=") for part in key.split()[1:])
    local = LocalTraining(epochs=int(told.get("E", 1)), learning_rate=float(told.get("lr", 0.1)))
    played = [federation(data, local, float(told.get("noise", 0)), seed) for seed in range(federations)]
    clients = [client for strategy, _ in played for done in strategy.rounds for client in done.clients]
    statuses = [client.status or f"{client.outcome}: {client.reason}" for client in clients]
    return {
        "audited": len(clients),
        "disclosed": sum(client.disclosed for client in clients),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "largest residual of a proof": max((client.residual or 0 for client in clients if client.status == "RECONSTRUCTED"), default=None),
        "training": sum(seconds for _, seconds in played) / (federations * ROUNDS),
        "auditing": sum(strategy.cost for strategy, _ in played) / (federations * ROUNDS),
    }


torch.set_num_threads(1)
logging.getLogger("flwr").setLevel(logging.ERROR)
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
options = harness.arguments(__doc__, federations=2, sets="mnist,cifar10")
results = harness.Results("flower_rounds")
for name in options.sets.split(","):
    pool = harness.dataset(name)
    for case in results.missing([f"{name} {setting}" for setting in RATES + NOISE]):
        results.put(case, measure(pool, case, options.federations))
        print(case, results.content["cases"][case], flush=True)

print("\n| federation | clients disclosed | statuses | CPU seconds a round: training | auditing |\n|---|---|---|---|---|")
for case, found in results.content["cases"].items():
    told = ", ".join(f"{status} {count}" for status, count in found["statuses"].items())
    times = " | ".join(f"{found[part]:.2f}" for part in ("training", "auditing"))
    print(f"| {case} | {found['disclosed']} of {found['audited']} | {told} | {times} |")
