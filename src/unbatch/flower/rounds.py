"""The audit of one round: what was sent out and what came back, to findings on disk. Knows no Flower.

Nothing that goes wrong here may end the training that is watched: every failure becomes a line of the summary.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unbatch import auditing, store
from unbatch.choosing import Auto
from unbatch.contracts import Attack
from unbatch.errors import BadUpdate, OutputFailed, UnbatchError
from unbatch.flower.summary import ClientSummary, RoundSummary
from unbatch.gradients import Loss
from unbatch.importers import load_observation, load_weights
from unbatch.report import html
from unbatch.training import LocalTraining
from unbatch.types import Finding, Observation, Schema

__all__ = ["SUMMARY", "Reply", "RoundAudit"]

SUMMARY = "summary.json"

MOST_STEPS = 2_000


@dataclass(frozen=True, eq=False)
class Reply:
    """One client in one round.

    Attributes:
        client: the node's number.
        name: for people.
        before: the arrays that it was sent.
        after: the arrays that it answered with.
        samples: how many samples it says that it trained on.
        problem: why there is nothing to audit, or empty.
        failed: whether that is because the client sent an error.
    """

    client: str
    name: str
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    samples: int | None = None
    problem: str = ""
    failed: bool = False


@dataclass(frozen=True, eq=False)
class RoundAudit:
    """Audits the replies of a round: see ``AuditingStrategy`` for the settings."""

    model: nn.Module
    input_shape: tuple[int, ...]
    out: Path
    attack: Attack | Auto
    training: LocalTraining | None
    rest_frozen: bool
    factor_known: bool
    loss: Loss
    schema: Schema | None
    seconds: float
    reports: bool
    save_updates: bool
    seed: int

    def __call__(self, number: int, replies: Iterable[Reply]) -> RoundSummary:
        """Audit a round and write what was found."""
        start = time.perf_counter()
        clients = [self._audited(number, reply, time.perf_counter() - start) for reply in replies]
        return RoundSummary(
            round=number,
            attack=self.attack.spec,
            disclosed=tuple(client.name for client in clients if client.disclosed),
            suspected=tuple(client.name for client in clients if client.suspected),
            seconds=time.perf_counter() - start,
            clients=tuple(clients),
        )

    def folder(self, number: int) -> Path:
        """Where a round's findings go."""
        return self.out / f"round-{number}"

    def _audited(self, number: int, reply: Reply, spent: float) -> ClientSummary:
        summary = ClientSummary(client=reply.client, name=reply.name, outcome="left out", told=reply.samples, reason=reply.problem)
        if reply.problem:
            return summary.model_copy(update={"outcome": "failed" if reply.failed else "left out"})
        folder = self.folder(number) / f"client-{reply.client}"
        summary = self._with_files(summary, reply, folder)
        if spent > self.seconds:
            return summary.with_reason(f"the round's budget of {self.seconds:g} seconds was spent before its turn")
        try:
            finding = auditing.audit(self.observe(reply), attack=self.attack, seed=self.seed)
        except UnbatchError as error:
            return summary.with_reason(str(error), outcome="refused")
        except Exception as error:  # noqa: BLE001  (a bug in an attack must not end the training that it watches)
            return summary.with_reason(f"{type(error).__name__}: {error}", outcome="crashed", traceback=traceback.format_exc())
        return self._with_report(summary.with_finding(finding), finding, folder)

    def _with_files(self, summary: ClientSummary, reply: Reply, folder: Path) -> ClientSummary:
        """Save what went out and what came back, if that was asked for."""
        if not self.save_updates:
            return summary
        files = {"weights.safetensors": reply.before, "reply.safetensors": reply.after}
        try:
            store.publish(folder, {name: partial(save_file, _plain(tensors)) for name, tensors in files.items()})
        except OutputFailed as error:
            return summary.with_reason(str(error))
        return summary.model_copy(update={"folder": folder.name})

    def _with_report(self, summary: ClientSummary, finding: Finding, folder: Path) -> ClientSummary:
        if not self.reports:
            return summary
        try:
            store.save(finding, folder, html.render)
        except UnbatchError as error:
            return summary.with_reason(str(error))
        return summary.model_copy(update={"folder": folder.name})

    def observe(self, reply: Reply) -> Observation:
        """What the server sees of a client.

        Raises:
            BadUpdate: what came back does not fit what was sent.
            Misuse: what was sent does not fit the model.
        """
        self._check_told(reply.samples)
        return load_observation(
            load_weights(copy.deepcopy(self.model), reply.before),
            reply.after,
            self.input_shape,
            kind="gradient" if self.training is None else "weights",
            training=self.training,
            rest_frozen=self.rest_frozen,
            factor_known=self.factor_known,
            loss=self.loss,
            batch_size=reply.samples,
            schema=self.schema,
        )

    def _check_told(self, samples: int | None) -> None:
        """Refuse a number of samples, which clients may make up, that would have the audit count local steps for hours."""
        if samples is None or self.training is None:
            return
        steps = self.training.epochs * -(-samples // (self.training.batch_size or samples))
        if steps > MOST_STEPS:
            raise BadUpdate(f"at most {MOST_STEPS:,} local steps", f"{steps:,}", "no attack follows so many; check what the client counts")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Copies, because safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
