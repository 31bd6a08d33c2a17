"""What a client sent, whatever it is, to an observation, whose update is always (an average of) the mean gradient up to a factor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unbatch.errors import BadUpdate, Misuse, some
from unbatch.gradients import Loss
from unbatch.importers.files import room_for
from unbatch.importers.names import by_name, check_tensors
from unbatch.importers.optimizers import STEPS, adam_rate, check_is_update, decay_in, told_by, undo_adam
from unbatch.importers.records import Sent, tensors_of
from unbatch.importers.scales import clipped, differences
from unbatch.types import HUGE, LocalTraining, Observation, Schema, largest_number

__all__ = ["Kind", "Optimizer", "load_observation"]

Kind = Literal["gradient", "difference", "weights"]
"""The mean gradient of a batch; the weights after local training less those before it; or the weights after it."""

Optimizer = Literal["sgd", "adam", "adamw"]
"""Of the client. Of Adam, the first step from a zero state."""

_SAME = "check that the update comes from this very model"


def load_observation(
    model: nn.Module,
    sent: Sent,
    input_shape: Sequence[int],
    *,
    kind: Kind = "gradient",
    training: LocalTraining | None = None,
    rest_frozen: bool = False,
    factor_known: bool = True,
    optimizer: Optimizer = "sgd",
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    loss: Loss = "cross_entropy",
    batch_size: int | None = None,
    labels: Tensor | None = None,
    schema: Schema | None = None,
    device: torch.device | str = "cpu",
) -> Observation:
    """An observation from what a client sent, with model and update moved to ``device``.

    Args:
        model: as broadcast, with its weights, in the mode in which the client ran it.
        sent: a file of the update, see ``read_tensors``; or, in a running federation, a Flower ``ArrayRecord``, a list of numpy arrays in
            the order of ``state_dict()``, or a state dict. See ``names.by_name`` for how names are matched. Tensors that the model has
            but that are no parameters, such as running statistics, are left out.
        input_shape: of one sample.
        kind: what was sent, see ``Kind``.
        training: how the client trained, for a difference or weights; one step on all of its data at an unknown learning rate if None.
        rest_frozen: whether the parameters that the update lacks, or that did not move, were not trained. The observation then has a
            copy of the model in which they need no gradient.
        factor_known: False where the update was clipped, or scaled by a positive number that is not known.
        optimizer: see ``Optimizer``. Adam's first step is turned back into the gradient where the rounding of the weights lets it.
        weight_decay: λ, which adds λ times the weights to every gradient and is taken out; None to look for it in the update. That of
            ``training`` where that has one.
        clip_norm: to which the client clips its gradient; None to recognize a usual one by the length of the update.
        loss: see ``Observation``.
        batch_size: see ``Observation``.
        labels: see ``Observation``.
        schema: see ``Observation``.
        device: where the attack is to run.

    Raises:
        BadFile: see ``read_tensors``.
        BadUpdate: the update does not fit the model; the sentence names the tensor.
        Misuse: see ``Observation``.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> after = {name: tensor - 0.1 for name, tensor in net.state_dict().items()}
        >>> seen = load_observation(net, after, (2,), kind="weights", training=LocalTraining(learning_rate=0.1))
        >>> bool((seen.update["bias"] - 1).abs().max() < 1e-5), seen.factor_known
        (True, True)
    """
    _check_told(kind, training, optimizer)
    if kind != "gradient" and training is None:
        training = LocalTraining()
    if training is not None and weight_decay is not None:
        training = replace(training, weight_decay=weight_decay)
    parameters = dict(model.named_parameters())
    update, held = _sent(model, sent, kind)
    model, update = _trained(model, update, rest_frozen, kind)
    for name, tensor in update.items():
        largest_number(name, tensor)  # before anything is computed with it
    moved = update if kind == "gradient" else {name: -tensor for name, tensor in update.items()}
    before = {name: parameters[name].detach().cpu() for name in moved}
    server = _Server(model.to(device), tuple(input_shape), loss, batch_size, None if labels is None else labels.to(device), schema)
    if optimizer != "sgd":
        return _of_adam(server, moved, before, training, optimizer, held)
    update, training, remarks = _averaged(moved, before, training, batch_size, weight_decay)
    known = factor_known and (training is None or training.factor(batch_size) is not None)
    known, told = clipped(update, clip_norm, one_step=training is None or training.one_step(batch_size), known=known)
    protocol = "fedsgd" if training is None else _protocol(training)
    return server.observe(update, protocol, (*held, *remarks, *told), training=training, factor_known=known)


def _check_told(kind: Kind, training: LocalTraining | None, optimizer: Optimizer) -> None:
    """Refuse words that are none, and a gradient that comes from local training."""
    if kind not in get_args(Kind):
        raise Misuse(f"a kind of update among {', '.join(get_args(Kind))}", repr(kind), "say what the client sent")
    if kind == "gradient" and training is not None:
        raise Misuse("local training with a difference or weights", "a gradient", "say what the client sent, or leave the training out")
    if optimizer not in get_args(Optimizer):
        raise Misuse(f"an optimizer among {', '.join(get_args(Optimizer))}", repr(optimizer), "say what the client trained with")


def _sent(model: nn.Module, sent: Sent, kind: Kind) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The gradient, or the difference of the weights of what is trained; and what is to be said of it."""
    tensors = by_name(model, tensors_of(sent, room_for(model)), BadUpdate)
    check_tensors(model, tensors, BadUpdate, "only tensors named like parameters of the model", _SAME)
    parameters = dict(model.named_parameters())
    update, held = {name: tensor for name, tensor in tensors.items() if name in parameters}, tuple[str, ...]()
    if kind == "weights":
        update, held = differences(parameters, update)
    else:
        check_is_update(update, parameters)
    return (update if kind == "gradient" else _without_fixed(model, update)), held


Sizes = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Server:
    """What the server knows besides the update."""

    model: nn.Module
    input_shape: tuple[int, ...]
    loss: Loss
    batch_size: int | None
    labels: Tensor | None
    schema: Schema | None

    def observe(self, update: Sizes, protocol: str, remarks: tuple[str, ...], **known: Any) -> Observation:
        """The observation, with the update where the model is."""
        device = next(self.model.parameters()).device
        moved = {name: tensor.to(device) for name, tensor in update.items()}
        return Observation(**vars(self), update=moved, protocol=protocol, remarks=remarks, **known)


def _of_adam(
    server: _Server, moved: Sizes, before: Sizes, training: LocalTraining | None, optimizer: Optimizer, held: tuple[str, ...]
) -> Observation:
    """The gradient behind Adam's first step; where there is none to be had, of a model that looks tokens up, which rows moved."""
    try:
        update, remarks = _before_adam(moved, before, training, server.batch_size, optimizer)
    except (Misuse, BadUpdate):
        remark = f"that the client trained with {optimizer}: which numbers moved is known, the gradient is not"
        local = replace(training or LocalTraining(), learning_rate=None, weight_decay=0.0)
        rows = server.observe(moved, f"steps of {optimizer}", (*held, remark), training=local, factor_known=False, only_moved=True)
        if rows.schema is None or rows.schema.kind != "tokens" or training is None:
            raise
        return rows
    return server.observe(update, f"the first step of {optimizer}", (*held, *remarks))


def _averaged(
    moved: Sizes, before: Sizes, training: LocalTraining | None, samples: int | None, told: float | None
) -> tuple[dict[str, Tensor], LocalTraining | None, tuple[str, ...]]:
    """The (average) gradient of a client that trained with SGD, without the weight decay, which is looked for where it is not told."""
    if (rate := adam_rate(moved)) is not None:
        raise _signs(rate, None if training is None else training.learning_rate)
    even = told_by(moved)
    remarks = (even,) if even else ()
    lost = 0.0
    if training is None:
        lost = told or 0.0
    elif training.weight_decay:
        lost = training.decayed(samples) or 0.0
    if not lost and told is None and (found := decay_in(moved, before)) is not None:
        lost = found
        decay = found if training is None else _decay_rate(training, samples, found)
        said = "weight decay" if decay is None else f"weight decay of {decay:.3g}"
        remarks = (*remarks, f"{said}, which was found in the update and taken out, from all of its tensors alike")
        if training is not None and decay is not None:
            training = replace(training, weight_decay=decay)
    factor = (None if training is None else training.factor(samples)) or 1.0
    if lost:
        moved = {
            name: (tensor.double() - lost * before[name].to(tensor.device).double()).to(tensor.dtype) for name, tensor in moved.items()
        }
    return {name: _scaled(tensor, 1 / factor) for name, tensor in moved.items()} if training else dict(moved), training, remarks


def _signs(rate: float, told: float | None) -> BadUpdate:
    """Why an update whose numbers nearly all have this size is refused; with the learning rate that was told."""
    if told is not None and rate > STEPS * told:
        steps = f"{rate / told:.0f}"
        return BadUpdate(
            "the gradient, or steps of SGD",
            f"numbers nearly all of one size, {rate:g}, {steps} times the learning rate: steps of Adam, or signs of a gradient",
            f"if the client took {steps} steps of Adam or AdamW, no gradient can be read off them, and nothing exact of its data; ask"
            " `unbatch exposure` what the model gives away under SGD. If it took one, say --optimizer adam (or adamw) and"
            f" --learning-rate {rate:g}",
        )
    return BadUpdate(
        "the gradient, or steps of SGD",
        f"numbers nearly all of one size, {rate:g}: Adam's first step, or signs of a gradient",
        f"if the client used Adam or AdamW, say --optimizer adam (or adamw) --update-is difference or weights --learning-rate {rate:g}"
        " (optimizer='adam')",
    )


def _decay_rate(training: LocalTraining, samples: int | None, lost: float) -> float | None:
    """λ of a client whose weights lost this share by decay; None where rate or steps are not known."""
    rate, low, high = training.learning_rate, 0.0, 1.0
    if rate is None or training.factor(samples) is None:
        return None
    high = 0.999 / rate
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (replace(training, weight_decay=middle).decayed(samples) or 0.0) < lost else (low, middle)
        if high - low < 1e-15 * high:
            break
    return high


def _before_adam(
    moved: Sizes, before: Sizes, training: LocalTraining | None, samples: int | None, optimizer: Optimizer
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The gradient behind Adam's first step, in a type that is no finer than what is known of it."""
    if training is None or training.learning_rate is None or not training.one_step(samples):
        came = "a gradient" if training is None else "no learning rate" if training.learning_rate is None else "several steps"
        raise Misuse(
            "a difference or weights after the first step of Adam on all samples, and its learning rate",
            came,
            "say --update-is and --learning-rate; later steps divide by a mean of squares, and what is left of gradients is not known"
            " (of a model that looks tokens up, unbatch audit still reads which)",
        )
    if (rate := adam_rate(moved)) is not None and abs(math.log(rate / training.learning_rate)) > OTHER:
        came = f"{training.learning_rate:g}, where nearly every number moved by {rate:g}"
        do = f"say --learning-rate {rate:g} if it was the first step; of several steps no gradient can be read"
        raise Misuse("the learning rate of Adam's first step", came, do)
    decay = training.weight_decay
    gradient, off = undo_adam(moved, before, training.learning_rate, ADAM, decay if optimizer == "adamw" else 0.0)
    if optimizer == "adam" and decay:
        gradient = {name: tensor - decay * before[name].to(tensor.device).double() for name, tensor in gradient.items()}
    kept = next((dtype for dtype in (torch.float32, torch.bfloat16) if off <= 4 * torch.finfo(dtype).eps), None)
    if kept is None:
        first = f"Adam's first step, of which rounding left the signs only (sizes are off by {100 * min(off, 1.0):.0f} %)"
        raise BadUpdate(
            "an update that shows the sizes of gradients",
            "no first step of Adam, which moves all numbers alike: several steps, or another optimizer" if rate is None else first,
            "nothing exact can be read off it here; ask `unbatch exposure` what the model gives away under SGD",
        )
    said = (
        f"the gradient, read off the first step of {optimizer} to {off:.0e} by how far it falls short of the learning rate (ε = {ADAM:g})"
    )
    largest = max(float(tensor.abs().max()) for tensor in gradient.values())
    return {name: tensor.to(kept) if largest < HUGE else tensor for name, tensor in gradient.items()}, (said,)


OTHER = 0.2
"""Logarithm by which a rate may differ from the size of Adam's first step: weight decay that is decoupled moves it a little."""

ADAM = 1e-8
"""ε of Adam, PyTorch's default."""


def _without_fixed(model: nn.Module, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The differences of trained parameters: those of frozen ones must be zero, and say nothing."""
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if odd := [name for name, tensor in moved.items() if name in fixed and bool(tensor.any())]:
        raise BadUpdate(f"no change of {some(odd)}, frozen in the model", "one", "let the model's code freeze only what the client froze")
    return {name: tensor for name, tensor in moved.items() if name not in fixed}


def _trained(model: nn.Module, update: dict[str, Tensor], rest_frozen: bool, kind: Kind) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model with frozen what the update lacks, if the user says that it was frozen, and the update of the rest."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    rest = {name for name in trained if name not in update}
    if rest and not rest_frozen:
        raise BadUpdate(
            f"a {'gradient' if kind == 'gradient' else 'tensor'} for every trained parameter of the model",
            f"none for {some([name for name in trained if name in rest])}",
            "check that the update comes from this very model, and if these were frozen or only adapters were trained,"
            " say so with --rest-frozen (rest_frozen=True)",
        )
    if kind != "gradient":
        rest |= {name for name, tensor in update.items() if not bool(tensor.any())}
    if rest_frozen and rest and rest != set(trained):
        model = copy.deepcopy(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in rest)
        update = {name: tensor for name, tensor in update.items() if name not in rest}
    return model, update


def _scaled(tensor: Tensor, by: float) -> Tensor:
    """In the tensor's own precision, which tells how it was rounded, unless the result leaves its range."""
    product = (tensor.double() * by).to(tensor.dtype)
    return product if bool(product.isfinite().all()) else tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * by


def _protocol(training: LocalTraining) -> str:
    """In the words of the plug-in ``fedavg``."""
    rate = "rate_known=False" if training.learning_rate is None else f"learning_rate={training.learning_rate:g}"
    momentum = f",momentum={training.momentum:g}" if training.momentum else ""
    momentum += f",weight_decay={training.weight_decay:.3g}" if training.weight_decay else ""
    momentum += ",nesterov=true" if training.nesterov else ""
    return f"fedavg:epochs={training.epochs},batch_size={training.batch_size or 0},{rate}{momentum}"
