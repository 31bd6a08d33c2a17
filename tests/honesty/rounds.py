"""The rounds of the honesty trials: how an update comes about, and what the server is told of it, rightly or wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import plugins
from unbatch.gradients import Loss
from unbatch.training import LocalTraining
from unbatch.types import Batch, Observation

Tensors = dict[str, Tensor]

TOLD_RIGHTLY = ("gradient", "gradient", "local training", "local training", "sum", "defended", "rounded", "own loss", "factor unknown")
TOLD_WRONGLY = (
    "batch size",
    "labels",
    "learning rate",
    "momentum",
    "epochs",
    "loss",
    "secret factor",
    "halved",
    "scaled tensor",
    "scaled biases",
    "class weights",
    "noise",
    "one entry",
    "foreign weights",
    "swapped neurons",
    "hidden rounding",
    "mode",
)
KINDS = TOLD_RIGHTLY + TOLD_WRONGLY
LOCAL = ("local training", "learning rate", "momentum", "epochs")
"""Kinds that need local steps."""

DEFENSES: tuple[Callable[[Random], str], ...] = (
    lambda draw: f"gaussian_noise:deviation={10 ** draw.uniform(-9, -0.5)},unit={draw.choice(('update', 'tensor'))}",
    lambda draw: f"pruning:share={draw.uniform(0.02, 0.9)},of={draw.choice(('tensor', 'update'))}",
    lambda draw: f"clipping:norm={10 ** draw.uniform(-3, 1)}",
    lambda draw: f"dp_sgd:clip={10 ** draw.uniform(-2, 1)},noise_multiplier={draw.choice((0.0, 10 ** draw.uniform(-6, 0)))}",
    lambda draw: f"quantization:kind={draw.choice(('fp16', 'bf16', 'int8', 'sign'))}",
)


def normalizes_by_batch(model: nn.Module) -> bool:
    return any(module.training and isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def observed(draw: Random, kind: str, model: nn.Module, batch: Batch, seed: int, facts: dict[str, str]) -> tuple[Observation, bool]:
    """The server's view of a round, told rightly or wrongly; and whether the update is coarse."""
    size, classes = len(batch), _classes(model, batch)
    protocol = _protocol(draw, kind, size, float(batch.inputs.square().mean()), normalizes_by_batch(model))
    chain = [draw.choice(DEFENSES)(draw) for _ in range(draw.choice((1, 1, 2)))] if kind == "defended" else []
    if kind == "secret factor":
        chain = [f"clipping:norm={10 ** draw.uniform(-4, -1)}"]
    if kind == "rounded":
        chain = [f"quantization:kind={draw.choice(('fp16', 'bf16'))}"]
    facts |= {"protocol": protocol, "defenses": " ".join(chain)}
    defenses = [plugins.build("defenses", spec) for spec in chain]
    coarse = any(spec.startswith("quantization") for spec in chain)
    loss = _loss(draw, kind, classes, facts)
    seen: Observation = plugins.build("protocols", protocol).observe(model, batch, loss, defenses, seed)
    told = {"loss": "cross_entropy"} if kind in ("loss", "class weights") else {}
    told |= _told_of_the_batch(draw, kind, seen, batch, classes, facts)
    seen = replace(seen, **told)  # type: ignore[arg-type]
    seen = _mistold(draw, kind, seen, facts)
    return seen, coarse or kind == "hidden rounding"


def _classes(model: nn.Module, batch: Batch) -> int:
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    return last.out_features


def _protocol(draw: Random, kind: str, size: int, square: float, coupled: bool) -> str:
    """The round, such that no step of a network that normalizes by the batch sees a single sample."""
    which = draw.choices(("fedsgd", "fedavg", "sum"), (60, 30, 10))[0]
    which = {"gradient": "fedsgd", "own loss": "fedsgd", "factor unknown": "fedsgd", "sum": "sum", "mode": "fedsgd"}.get(kind, which)
    if kind in LOCAL:
        which = "fedavg"
    if which == "fedsgd":
        return "fedsgd"
    if which == "sum":
        return f"secure_aggregation:clients={draw.randint(1, max(1, size // 2) if coupled else size)}"
    epochs, mini = draw.choice((1, 1, 1, 2, 3, 4)), draw.choice((0, 0, draw.randint(1, size), draw.randint(1, size)))
    if coupled and mini and size % mini == 1 % mini:
        mini = 0
    rate = 10 ** draw.uniform(-3, -0.5) / max(1.0, square)
    momentum = draw.choice((0.0, 0.0, draw.uniform(0.3, 0.95)))
    known = kind != "local training" or draw.random() < 0.8
    return f"fedavg:epochs={epochs},batch_size={mini},learning_rate={rate},momentum={momentum},rate_known={str(known).lower()}"


def _loss(draw: Random, kind: str, classes: int, facts: dict[str, str]) -> Loss:
    """What the client minimizes."""
    which = "cross_entropy"
    if kind in ("loss", "own loss"):
        which = draw.choice(("smoothed", "squares", "weighted"))
    if kind == "class weights":
        which = "weighted"
    facts["loss"] = which
    weights = torch.tensor([float(draw.randint(1, 5)) for _ in range(classes)], dtype=torch.float64)

    def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=0.1)

    def squares(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - F.one_hot(labels, classes).to(outputs)).square().sum(dim=1).mean()

    def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
        rows = F.cross_entropy(outputs, labels, reduction="none")
        return (weights.to(outputs)[labels] * rows).mean()

    return {"smoothed": smoothed, "squares": squares, "weighted": weighted}.get(which, "cross_entropy")


def _told_of_the_batch(draw: Random, kind: str, seen: Observation, batch: Batch, classes: int, facts: dict[str, str]) -> dict[str, Any]:
    """Batch size and labels, as the server is told them."""
    size, told = len(batch), {}
    needs = seen.training is not None and seen.training.batch_size is not None
    if draw.random() < 0.5 and not needs:
        told["batch_size"] = draw.choice((None, size))
    if kind == "batch size":
        wrong = [size + 1, size + 2, 2 * size, size - 1, max(1, size // 2)]
        told["batch_size"] = draw.choice([other for other in wrong if other not in (0, size)])
    elif kind == "labels":
        labels = batch.labels.clone()
        how = draw.choice(("one changed", "all next", "one fewer"))
        if how == "one changed":
            labels[0] = (labels[0] + 1) % classes
        labels = {"all next": (labels + 1) % classes, "one fewer": labels[1:]}.get(how, labels)
        told |= {"labels": labels, "batch_size": draw.choice((None, len(labels) or None))}
        facts["labels told"] = how
    elif draw.random() < 0.25:
        told["labels"] = batch.labels[torch.randperm(size, generator=torch.Generator().manual_seed(draw.getrandbits(30)))]
        facts["labels told"] = "rightly"
    facts["size told"] = str(told.get("batch_size", seen.batch_size))
    return told


def _mistold(draw: Random, kind: str, seen: Observation, facts: dict[str, str]) -> Observation:
    """The observation with one of its facts, or its update, spoiled; unchanged for other kinds."""
    factor = draw.choice((0.5, 0.9, 0.99, 1.01, 1.05, 1.5, 2.0))
    if kind in ("learning rate", "momentum", "epochs") and seen.training is not None:
        facts["told"] = f"{kind} wrong by {factor}"
        return replace(seen, training=_other(seen.training, kind, factor))
    if kind == "factor unknown":
        strange = 10 ** draw.uniform(-3, 3)
        return replace(seen, update={key: strange * tensor for key, tensor in seen.update.items()}, factor_known=False)
    if kind == "secret factor":
        return replace(seen, factor_known=True)
    return replace(seen, update=_spoiled(draw, kind, dict(seen.update), factor, facts))


def _spoiled(draw: Random, kind: str, update: Tensors, factor: float, facts: dict[str, str]) -> Tensors:
    """The update with some damage, or as it is."""
    names = list(update)
    name, generator = draw.choice(names), torch.Generator().manual_seed(draw.getrandbits(30))
    match kind:
        case "halved":
            update = {key: 0.5 * tensor for key, tensor in update.items()}
        case "scaled tensor":
            name = draw.choice((name, *names[:2]))
            facts["spoiled"], update[name] = f"{name} times {factor}", factor * update[name]
        case "scaled biases":
            facts["spoiled"] = f"biases times {factor}"
            update = {key: factor * tensor if key.endswith("bias") else tensor for key, tensor in update.items()}
        case "noise":
            size = 10 ** draw.uniform(-10, -1)
            facts["spoiled"] = f"noise of {size:.1e}"
            update = {key: tensor + size * tensor.abs().mean() * randn(tensor, generator) for key, tensor in update.items()}
        case "one entry":
            damaged = update[name].clone()
            damaged.view(-1)[draw.randrange(damaged.numel())] += damaged.abs().max() * 10 ** draw.uniform(-6, 1)
            facts["spoiled"], update[name] = f"one entry of {name}", damaged
        case "swapped neurons":
            facts["spoiled"], update[name] = f"{name} rolled", update[name].roll(1, 0)
        case "hidden rounding":
            half = draw.choice((torch.float16, torch.bfloat16))
            facts["spoiled"], update = f"rounded to {half}", {key: tensor.to(half).to(tensor) for key, tensor in update.items()}
    return update


def _other(training: LocalTraining, kind: str, factor: float) -> LocalTraining:
    if kind == "momentum":
        return replace(training, momentum=0.9 if training.momentum < 0.5 else 0.0)
    if kind == "epochs":
        return replace(training, epochs=training.epochs + 1)
    return replace(training, learning_rate=factor * (training.learning_rate or 0.01))


def randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
