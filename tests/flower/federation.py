"""A small federation on real digits: clients that take one step, messages made by hand, and the simulation engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: run `make test-flower`")

import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor, nn

from unbatch.datasets.digits import Digits
from unbatch.models.mlp import Mlp
from unbatch.training import LocalTraining, shuffled, train
from unbatch.types import Batch

SHAPE = (1, 8, 8)
RATE = 0.1
SAMPLES = 8
State = dict[str, Tensor]


def network(seed: int = 0) -> nn.Module:
    return Mlp(width=120, depth=3).build(SHAPE, 10, seed)


def batch_of(client: int, server_round: int, samples: int = SAMPLES) -> Batch:
    """The secret of a client in a round."""
    return Digits().batch(samples, seed=1000 * client + server_round)


def trained(sent: Mapping[str, Tensor], batch: Batch, local: LocalTraining, seed: int = 0) -> State:
    """The weights after a client's training, as float32 as a client's are."""
    model = network()
    model.load_state_dict(dict(sent))
    order = shuffled(local.epochs, len(batch), torch.Generator().manual_seed(seed))
    moved = train(model, batch.inputs.float(), batch.labels, local, order)
    return {name: tensor - moved[name] for name, tensor in sent.items()}


def record(arrays: Mapping[str, Tensor] | ArrayRecord | None, metrics: Mapping[str, float | int] | None = None) -> RecordDict:
    content = RecordDict()
    if arrays is not None:
        content["arrays"] = arrays if isinstance(arrays, ArrayRecord) else ArrayRecord(dict(arrays))
    if metrics is not None:
        content["metrics"] = MetricRecord(dict(metrics))
    return content


def message(node: int, content: RecordDict, kind: str = MessageType.TRAIN) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(content, node, kind)


def answer(to: Message, arrays: Mapping[str, Tensor] | ArrayRecord | None, samples: float | None = SAMPLES) -> Message:
    return Message(record(arrays, None if samples is None else {"num-examples": samples}), reply_to=to)


class LocalGrid:
    """Runs clients one after the other in this process, where a simulation would start ray."""

    def __init__(self, app: ClientApp, clients: int) -> None:
        self.app, self.clients = app, clients

    def get_node_ids(self) -> list[int]:
        return [100 + partition for partition in range(self.clients)]

    def send_and_receive(self, messages: Iterable[Message], **settings: object) -> list[Message]:
        return [self.app(sent, context(sent.metadata.dst_node_id, sent.metadata.dst_node_id - 100)) for sent in messages]


def context(node: int, partition: int = 0) -> Context:
    return Context(run_id=1, node_id=node, node_config={"partition-id": partition}, state=RecordDict(), run_config={})


def recovers(made: Tensor, batch: Batch, accuracy: float = 1e-3) -> bool:
    """Whether every sample of the batch is among the reconstructed ones, to this share of its norm."""
    truth = batch.inputs.double().flatten(1)
    return bool((torch.cdist(truth, made.double().flatten(1)).amin(dim=1) < accuracy * truth.norm(dim=1)).all())


def tensors_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.safetensors")}
