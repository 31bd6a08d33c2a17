"""What a client sent, whatever it is, to an observation, whose update is always (an average of) the mean gradient up to a factor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unbatch.errors import BadUpdate, Misuse, some
from unbatch.gradients import Loss
from unbatch.importers.files import room_for
from unbatch.importers.mistaken import check_not_weights
from unbatch.importers.names import by_name, check_tensors
from unbatch.importers.records import Sent, tensors_of
from unbatch.types import LocalTraining, Observation, Schema

__all__ = ["Kind", "load_observation"]

Kind = Literal["gradient", "difference", "weights"]
"""The mean gradient of a batch; the weights after local training less those before it; or the weights after it."""

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
    if kind not in get_args(Kind):
        raise Misuse(f"a kind of update among {', '.join(get_args(Kind))}", repr(kind), "say what the client sent")
    if kind == "gradient" and training is not None:
        raise Misuse("local training with a difference or weights", "a gradient", "say what the client sent, or leave the training out")
    if kind != "gradient" and training is None:
        training = LocalTraining()
    tensors = by_name(model, tensors_of(sent, room_for(model)), BadUpdate)
    check_tensors(model, tensors, BadUpdate, "only tensors named like parameters of the model", _SAME)
    parameters = dict(model.named_parameters())
    update = {name: tensor for name, tensor in tensors.items() if name in parameters}
    if kind != "weights":
        check_not_weights(parameters, update, kind)
    if kind != "gradient":
        update = _without_fixed(model, _differences(parameters, update) if kind == "weights" else update)
    model, update = _trained(model, update, rest_frozen, kind)
    factor = None if training is None else training.factor(batch_size)
    return Observation(
        model.to(device),
        {name: (_scaled(tensor, -1 / (factor or 1.0)) if training else tensor).to(device) for name, tensor in update.items()},
        tuple(input_shape),
        loss,
        batch_size,
        None if labels is None else labels.to(device),
        protocol="fedsgd" if training is None else _protocol(training),
        schema=schema,
        training=training,
        factor_known=factor_known and (training is None or factor is not None),
    )


def _differences(before: Mapping[str, nn.Parameter], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """After less before, subtracted in float64; as exact as the coarser of the two, but not coarser than float32."""
    return {
        name: (tensor.double() - before[name].detach().cpu().double()).to(
            torch.promote_types(min(tensor.dtype, before[name].dtype, key=lambda dtype: dtype.itemsize), torch.float32)
        )
        for name, tensor in after.items()
    }


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
    return f"fedavg:epochs={training.epochs},batch_size={training.batch_size or 0},{rate}{momentum}"
