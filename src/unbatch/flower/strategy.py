"""A strategy around a strategy: the inner one decides everything, this one looks at what clients send."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from unbatch import choosing, store
from unbatch.contracts import Attack
from unbatch.errors import Misuse, OutputFailed
from unbatch.flower.rounds import SUMMARY, Reply, RoundAudit
from unbatch.flower.summary import RoundSummary, page
from unbatch.gradients import Loss
from unbatch.training import LocalTraining
from unbatch.types import Observation, Schema

__all__ = ["AuditingStrategy"]

LOG = logging.getLogger("flwr.unbatch")
"""Below Flower's own logger: the lines appear where Flower's do."""


def _number(reply: Message) -> str:
    return str(reply.metadata.src_node_id)


class AuditingStrategy(Strategy):
    """Audits every client's update as an honest-but-curious server would, and leaves the federation as it is.

    Each call is handed to ``inner`` unchanged: who is sampled, what is sent and what is aggregated are the same, bit for bit. Findings
    go to ``out/round-N/client-ID/``, a summary of each round to ``out/round-N/summary.json``, and what people read to
    ``out/summary.txt`` and to Flower's log. A failure of an audit is written down and never ends the training.

    Args:
        inner: the strategy that runs the federation.
        model: builds the clients' module, in the mode (train or eval) in which they train it; called once.
        input_shape: of one sample.
        out: folder for the findings; it must not hold those of another federation.
        training: how clients train before they answer; its learning rate is None where the server does not know it. None if clients
            answer with gradients instead of weights.
        rest_frozen: whether parameters that come back unchanged, or not at all, were frozen.
        factor_known: False where clients clip what they answer, or scale it by a number that the server does not know.
        attack: name and settings of the attack, or an attack: ``"spear:seconds=20"`` gives it 20 seconds a client; ``"auto"`` tries all.
        loss: of the clients.
        schema: how to read an input; guessed from the shape if None.
        every: audit every so many rounds, from the first.
        clients: audit at most so many clients a round, those first that were audited longest ago; all if None.
        seconds: of a round, after which no further audit is begun.
        reports: whether to write reports with what was reconstructed. Without them nothing of the clients' data reaches the disk.
        save_updates: whether to save what was sent and answered, so that it can be audited again offline.
        samples_key: metric in which clients tell how many samples they trained on.
        name: of a client, for people; its number if None.
        seed: of the attack.

    Raises:
        Misuse: a setting cannot be, the model does not run on the shape, or ``out`` holds other findings.
        OutputFailed: ``out`` cannot be written.
        UnknownPlugin: there is no such attack or setting.
    """

    def __init__(
        self,
        inner: Strategy,
        model: Callable[[], nn.Module],
        input_shape: tuple[int, ...],
        out: str | Path,
        *,
        training: LocalTraining | None = LocalTraining(),  # noqa: B008  (frozen)
        rest_frozen: bool = False,
        factor_known: bool = True,
        attack: str | Attack = "spear",
        loss: Loss = "cross_entropy",
        schema: Schema | None = None,
        every: int = 1,
        clients: int | None = None,
        seconds: float = math.inf,
        reports: bool = True,
        save_updates: bool = False,
        samples_key: str = "num-examples",
        name: Callable[[Message], str] | None = None,
        seed: int = 0,
    ) -> None:
        if every < 1 or (clients is not None and clients < 1) or not seconds > 0:
            raise Misuse(
                "audits of at least one round, client and second", f"every={every}, clients={clients}, seconds={seconds}", "raise it"
            )
        _check_inner(inner)
        self.inner, self.out = inner, Path(out)
        self.every, self.clients, self.samples_key, self.name = every, clients, samples_key, name or _number
        self.rounds: list[RoundSummary] = []
        """What was found so far, by round."""
        self._sent: dict[str, dict[str, Tensor] | None] = {}
        self._audited_in: dict[str, int] = {}
        with torch.random.fork_rng(devices=[]):  # initial weights must not shift the random state of the federation
            victim = model()
        if not isinstance(victim, nn.Module):
            raise Misuse(
                "a function that builds the clients' torch.nn.Module", f"one that returns {type(victim).__name__}", "return the module"
            )
        shape = _checked_shape(victim, input_shape, loss)
        self._audit = RoundAudit(
            model=victim,
            input_shape=shape,
            out=self.out,
            attack=choosing.built(attack),
            training=training,
            rest_frozen=rest_frozen,
            factor_known=factor_known,
            loss=loss,
            schema=schema,
            seconds=seconds,
            reports=reports,
            save_updates=save_updates,
            seed=seed,
        )
        store.check_writable(self.out)
        if self.out.exists() and any(self.out.glob("round-*")):
            raise Misuse("an output folder without findings of another federation", repr(str(self.out)), "name another one")

    @property
    def disclosed(self) -> dict[str, list[int]]:
        """Name of every client of whom samples were proved to be disclosed -> the rounds in which they were."""
        found: dict[str, list[int]] = {}
        for done in self.rounds:
            for name in done.disclosed:
                found.setdefault(name, []).append(done.round)
        return found

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The inner strategy's messages, after a look at the arrays in them."""
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        if self._due(server_round):
            with _harmless(server_round):
                self._sent = _sent(messages)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The inner strategy's aggregate, after the audit: some strategies clip what they were sent in place."""
        replies = list(replies)
        if self._due(server_round):
            with _harmless(server_round):
                self._audit_round(server_round, replies)
            self._sent = {}
        return self.inner.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The inner strategy's."""
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The inner strategy's."""
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The inner strategy's, and where the findings go."""
        self.inner.summary()
        LOG.info("unbatch audits clients' updates with %s: %s", self._audit.attack.spec, self.out)

    def _due(self, server_round: int) -> bool:
        return (server_round - 1) % self.every == 0

    def _audit_round(self, server_round: int, replies: list[Message]) -> None:
        received = [self._received(reply) for reply in replies]
        received.sort(key=lambda reply: self._audited_in.get(reply.client, 0))
        whole = [index for index, reply in enumerate(received) if not reply.problem]
        for index in whole[self.clients :] if self.clients else []:
            received[index] = replace(received[index], problem=f"{self.clients} other clients were audited in this round")
        done = self._audit(server_round, received)
        self._audited_in |= {client.client: server_round for client in done.clients if client.outcome == "audited"}
        self.rounds.append(done)
        head, *lines = done.lines()
        LOG.log(logging.WARNING if done.disclosed or done.suspected else logging.INFO, head)
        for line in lines:
            LOG.info("    %s", line)
        self._write(done)

    def _write(self, done: RoundSummary) -> None:
        text = done.model_dump_json(indent=2) + "\n"
        try:
            store.publish(self._audit.folder(done.round), {SUMMARY: text})
            store.publish(self.out, {"summary.txt": page(self.rounds) + "\n"})
        except OutputFailed as error:
            LOG.warning("the summary of round %d is only in this log: %s", done.round, error)

    def _received(self, reply: Message) -> Reply:
        """A reply without Flower, or why there is nothing to audit in it."""
        client = str(reply.metadata.src_node_id)
        try:
            name = self.name(reply)
        except Exception as error:  # noqa: BLE001  (the user's function, which may look for what an error message does not have)
            LOG.warning("client %s has no name: %s: %s", client, type(error).__name__, error)
            name = client
        if reply.has_error():
            return Reply(client, name, {}, {}, problem=f"the client sent an error: {reply.error.reason}", failed=True)
        samples, before, after = _samples(reply, self.samples_key), self._sent.get(client), _tensors(reply)
        if before is None or after is None:
            said = "it was not sent" if before is None else "it did not answer with"
            return Reply(client, name, {}, {}, samples, f"{said} exactly one record of arrays of numbers")
        return Reply(client, name, before, after, samples)


@contextmanager
def _harmless(server_round: int) -> Iterator[None]:
    """Whatever happens in the block, the federation goes on: who watches must not be able to stop it."""
    try:
        yield
    except Exception:
        LOG.exception("the audit of round %d failed; training goes on", server_round)


def _sent(messages: list[Message]) -> dict[str, dict[str, Tensor] | None]:
    """Node -> what it was sent; None where there is nothing, or more than one thing, to compare its answer with."""
    sent: dict[str, dict[str, Tensor] | None] = {}
    copies: dict[int, dict[str, Tensor] | None] = {}
    for message in messages:
        node, record = str(message.metadata.dst_node_id), id(_only_arrays(message))
        if record not in copies:  # all clients are sent the same record, as a rule
            copies[record] = _tensors(message)
        sent[node] = None if node in sent else copies[record]
    return sent


def _check_inner(inner: object) -> None:
    if not isinstance(inner, Strategy):
        raise Misuse("a strategy of flwr.serverapp.strategy", f"a {type(inner).__name__}", "wrap the one that runs the federation")
    if type(inner).start is not Strategy.start:
        raise Misuse(
            "a strategy that runs rounds as Strategy.start does",
            f"{type(inner).__name__}, which has a start of its own",
            "save the updates in it, and audit them with `unbatch audit`",
        )


def _checked_shape(model: nn.Module, input_shape: tuple[int, ...], loss: Loss) -> tuple[int, ...]:
    """Run the model once before the first round instead of failing in each."""
    ones = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Observation(model, ones, tuple(input_shape), loss).input_shape


def _only_arrays(message: Message) -> ArrayRecord | None:
    records = list(message.content.array_records.values()) if message.has_content() else []
    return records[0] if len(records) == 1 else None


def _tensors(message: Message) -> dict[str, Tensor] | None:
    """Copies of the only arrays in a message, or None if there is no such thing."""
    record = _only_arrays(message)
    try:
        return None if record is None else dict(record.to_torch_state_dict())
    except (TypeError, ValueError, EOFError, OSError):  # no arrays of NumPy, or damaged ones
        return None


def _samples(reply: Message, key: str) -> int | None:
    """A whole number above zero under the key of exactly one record of metrics, or None."""
    values = [record[key] for record in reply.content.metric_records.values() if key in record]
    if len(values) == 1 and isinstance(values[0], (int, float)) and values[0] >= 1 and float(values[0]).is_integer():
        return int(values[0])
    return None
