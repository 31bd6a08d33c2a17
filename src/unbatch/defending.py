"""Which defense closes the leak at which cost in accuracy, measured on the user's own model and data.

Each defense, at each batch size, is measured twice: on batches of the data it is attacked, and with it the model is trained, every step on
a defended gradient, and tested on data that was held out. Both are small experiments with one seed; what an attack of ours does not
recover another may, so a guarantee (ε of DP-SGD) stands beside what was measured, and is no better for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unbatch import auditing, plugins, seeds
from unbatch.contracts import Defense, Protocol
from unbatch.errors import BadUpdate, Misuse
from unbatch.origin import Origin
from unbatch.records import Record
from unbatch.types import Batch, Progress, Status, silent

__all__ = ["DEFENSES", "Plan", "Row", "Trade", "measure"]

DEFENSES: Final = (
    "none",
    "clipping:norm=1.0",
    "pruning:share=0.9",
    "quantization:kind=int8",
    "gaussian_noise:deviation=0.001",
    "gaussian_noise:deviation=0.01",
    "dp_sgd:noise_multiplier=0.1",
    "dp_sgd:noise_multiplier=1.0",
)
"""What is compared where the user names nothing; ``none`` is no defense."""

DELTA: Final = 1e-5


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        defenses: specifications; ``none`` is no defense.
        batch_sizes: samples of an update.
        attack: specification of the attack.
        trials: batches that are attacked, for each.
        epochs: of training.
        learning_rate: of training, plain SGD.
        test_share: of the data, held out.
        seed: of all randomness.
    """

    defenses: tuple[str, ...] = DEFENSES
    batch_sizes: tuple[int, ...] = (8, 32)
    attack: str = "spear:seconds=10.0"
    trials: int = 3
    epochs: int = 3
    learning_rate: float = 0.1
    test_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        counts = {"batch size": min(self.batch_sizes, default=0), "number of trials": self.trials, "number of epochs": self.epochs}
        if low := next((name for name, count in counts.items() if count < 1), None):
            raise Misuse(f"a {low} of one or more", str(counts[low]), "raise it")
        if not self.defenses:
            raise Misuse("at least one defense", "none", "name one, or none itself")
        if not 0 < self.learning_rate < math.inf:
            raise Misuse("a learning rate above zero", f"{self.learning_rate:g}", "give that of the training: 0.1")
        if not 0 < self.test_share < 1:
            raise Misuse("a share of the samples to test on between 0 and 1", f"{self.test_share:g}", "0.25 is usual")


class Row(Record):
    """One defense at one batch size.

    Attributes:
        defense: its specification, or ``none``.
        batch_size: samples of an update.
        attacked: samples in all batches that were attacked.
        recovered: how many of them came out exact, by the truth.
        proved: how many were proved by the update itself.
        statuses: how the attacks ended.
        accuracy: on the held-out data after training.
        error: standard error of the accuracy, from the number of held-out samples alone.
        epsilon: ε of DP-SGD at δ = 1e-5 for that training; None where the defense gives no guarantee.
        reason: why something is missing, or empty.
    """

    defense: str
    batch_size: int
    attacked: int
    recovered: int
    proved: int
    statuses: tuple[str, ...]
    accuracy: float
    error: float
    epsilon: float | None = None
    reason: str = ""


class Trade(Record):
    """What was measured, as ``defend.json`` holds it."""

    format: Literal[1] = 1
    model: str
    attack: str
    trained_on: int
    tested_on: int
    epochs: int
    learning_rate: float
    seed: int
    rows: tuple[Row, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    origin: Origin | None = None


def measure(build: Callable[[], nn.Module], data: Batch, plan: Plan | None = None, name: str = "", progress: Progress = silent) -> Trade:
    """Attack and train under every defense of the plan.

    Args:
        build: makes the model; called once, and copied.
        data: inputs and labels, at least twice as many as the largest batch.
        plan: what to measure.
        name: of the model, for the report.
        progress: told what goes on.

    Raises:
        Misuse: too little data, or no such defense.

    Example:
        >>> inputs = torch.rand((40, 12), dtype=torch.float64)
        >>> data = Batch(inputs, (inputs[:, 0] > 0.5).long())
        >>> net = lambda: nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2)).double()
        >>> trade = measure(net, data, Plan(defenses=("none",), batch_sizes=(4,), trials=1, epochs=1))
        >>> trade.rows[0].recovered, trade.rows[0].epsilon
        (4, None)
    """
    plan = plan or Plan()
    defenses = {spec: None if spec == "none" else plugins.build("defenses", spec) for spec in plan.defenses}
    order = torch.randperm(len(data), generator=seeds.generator(plan.seed, "data"))
    held = max(1, round(plan.test_share * len(data)))
    test, train = (Batch(data.inputs[part], data.labels[part], data.schema) for part in (order[:held], order[held:]))
    if len(train) < max(plan.batch_sizes):
        came = f"{len(train)} after {held} were held out"
        raise Misuse(f"at least {max(plan.batch_sizes)} samples to train on", came, "give more data, or smaller batches")
    model = build().eval()
    cases = [(spec, size) for size in plan.batch_sizes for spec in defenses]
    rows = []
    for done, (spec, size) in enumerate(cases):
        progress(f"{spec}, batches of {size}", done / len(cases))
        rows.append(_row(model, defenses[spec], spec, size, train, test, plan))
    return Trade(
        model=name or type(model).__name__,
        attack=plan.attack,
        trained_on=len(train),
        tested_on=len(test),
        epochs=plan.epochs,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        rows=tuple(rows),
        environment=auditing.environment(),
    )


def _row(model: nn.Module, defense: Defense | None, spec: str, size: int, train: Batch, test: Batch, plan: Plan) -> Row:
    chain = () if defense is None else (defense,)
    findings = []
    for trial in range(plan.trials):
        batch = next(_batches(train, size, _seed(plan.seed, "data", trial)))
        seen = _protocol().observe(model, batch, defenses=chain, seed=_seed(plan.seed, "defense", -1 - trial))
        findings.append(auditing.audit(seen, batch, attack=plan.attack, seed=plan.seed))
    steps = plan.epochs * (len(train) // size)
    accuracy, diverged = _trained(model, chain, size, train, test, plan)
    epsilon, reason = _guarantee(defense, steps, size / len(train))
    disclosed = [finding.reconstruction for finding in findings if finding.reconstruction.status.disclosed]
    return Row(
        defense=spec,
        batch_size=size,
        attacked=plan.trials * size,
        recovered=sum(sum(finding.exact) for finding in findings),
        proved=sum(0 if made.inputs is None else len(made.inputs) for made in disclosed),
        statuses=tuple(Status(finding.reconstruction.status).name for finding in findings),
        accuracy=accuracy,
        error=math.sqrt(max(accuracy * (1 - accuracy), 0.0) / len(test)),
        epsilon=epsilon,
        reason="; ".join(filter(None, (diverged, reason))),
    )


def _seed(seed: int, role: seeds.Role, turn: int) -> int:
    """The seed of a turn: of every batch, and of every step's noise."""
    return (seeds.derive(seed, role) + turn) % seeds.LARGEST


def _protocol() -> Protocol:
    built: Protocol = plugins.build("protocols", "fedsgd")
    return built


def _batches(data: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Whole batches of the data in a drawn order; the rest is left out."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    for start in range(0, len(data) - size + 1, size):
        part = order[start : start + size]
        yield Batch(data.inputs[part], data.labels[part], data.schema)


def _trained(model: nn.Module, chain: Sequence[Defense], size: int, train: Batch, test: Batch, plan: Plan) -> tuple[float, str]:
    """Accuracy on the held-out data after plain SGD on what the server receives, and whether that training broke off."""
    client, step, diverged = copy.deepcopy(model), 0, ""
    try:
        for epoch in range(plan.epochs):
            for batch in _batches(train, size, _seed(plan.seed, "data", plan.trials + epoch)):
                step += 1
                update = _protocol().observe(client, batch, defenses=chain, seed=_seed(plan.seed, "defense", step)).update
                _descend(client, update, plan.learning_rate)
    except BadUpdate as error:
        diverged = f"training broke off in step {step}: {error.came}"
    with torch.no_grad():
        inputs = test.inputs.to(next(client.parameters()).dtype) if test.inputs.is_floating_point() else test.inputs
        return float((client(inputs).argmax(dim=1) == test.labels).double().mean()), diverged


@torch.no_grad()
def _descend(client: nn.Module, update: Mapping[str, Tensor], rate: float) -> None:
    for name, parameter in client.named_parameters():
        if name in update:
            parameter.sub_(update[name].to(parameter.dtype), alpha=rate)


def _guarantee(defense: Defense | None, steps: int, rate: float) -> tuple[float | None, str]:
    """ε of the whole training, or why there is none."""
    account: Any = getattr(defense, "epsilon", None)
    if account is None:
        return None, ""
    try:
        return float(account(max(1, steps), rate, delta=DELTA)), ""
    except Misuse as error:
        return None, str(error)
