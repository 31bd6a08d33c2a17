"""Gradients as functions of a batch: capture them, split them by sample, replay a guess and measure the distance.

Everything goes through ``torch.func`` or works on copies: neither the model, nor its ``.grad``, nor the global random state is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.errors import Misuse, NotDeterministic
from unbatch.trace import LARGE, LinearCall, run

__all__ = [
    "Loss",
    "Replay",
    "capture",
    "check_deterministic",
    "compare",
    "couples",
    "loss_function",
    "per_example",
    "replay",
    "sensitivities",
]

Loss = str | Callable[[Tensor, Tensor], Tensor]
"""A name (``"cross_entropy"``) or a function (outputs (b, C), labels (b,)) -> mean loss over the batch, a scalar."""

FAINT = 1e-4
"""A tensor below this share of the whole update is compared with that share instead of with itself."""

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss}


@dataclass(frozen=True)
class Replay:
    """How far the update of a guessed batch is from the observed one.

    Attributes:
        residual: ‖replayed − observed‖ / ‖observed‖ over all tensors together.
        by_tensor: the same for every tensor alone; of one that is smaller than 1e-4 of the whole update, as a share of that, because a
            gradient that is zero but for rounding (a bias before batch statistics) says nothing.
    """

    residual: float
    by_tensor: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest residual of a single tensor."""
        return max(self.by_tensor.values())


def loss_function(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The function behind a loss name.

    Raises:
        Misuse: no loss has this name.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in _LOSSES:
        raise Misuse(f"a loss among {', '.join(_LOSSES)}", repr(loss), "name one of them or pass a function (outputs, labels) -> mean loss")
    return _LOSSES[loss]


def capture(
    model: nn.Module, inputs: Num[Tensor, " b *shape"], labels: Int64[Tensor, " b"], loss: Loss = "cross_entropy"
) -> dict[str, Tensor]:
    """The update that a client sends under FedSGD: the mean gradient over its batch.

    Args:
        model: as broadcast, in the mode in which the client runs it.
        inputs: (b, *shape) in the model's dtype.
        labels: (b,) class indices.
        loss: name or function, see ``Loss``.

    Returns:
        parameter name -> gradient, for every parameter that requires one.

    Raises:
        Misuse: a label is none of the model's classes.
        NotDeterministic: the gradient would not be a function of this batch alone. (Batch statistics make it one of the whole batch.)

    Example:
        >>> net = nn.Linear(2, 3)
        >>> update = capture(net, torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> {name: tuple(tensor.shape) for name, tensor in update.items()}
        {'weight': (3, 2), 'bias': (3,)}
    """
    check_deterministic(model, alone=False)
    measure = loss_function(loss)
    trained, fixed = _split(model)

    leaves = {name: tensor.requires_grad_() for name, tensor in trained.items()}
    with torch.enable_grad():
        outputs = torch.func.functional_call(model, {**leaves, **fixed}, (inputs,))
        _check_labels(labels, outputs, loss)
        value = measure(outputs, labels)
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf).detach() if gradient is None else gradient.detach()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


def per_example(
    model: nn.Module, inputs: Num[Tensor, " b *shape"], labels: Int64[Tensor, " b"], loss: Loss = "cross_entropy"
) -> dict[str, Tensor]:
    """The gradient of every sample alone: parameter name -> (b, *parameter shape). Their mean is ``capture``."""
    check_deterministic(model)
    measure = loss_function(loss)
    trained, fixed = _split(model)

    def one_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, {**parameters, **fixed}, (x[None],))
        _check_labels(labels, outputs, loss)
        return measure(outputs, y[None])

    gradients: dict[str, Tensor] = torch.func.vmap(torch.func.grad(one_loss), in_dims=(None, 0, 0))(trained, inputs, labels)
    return {name: tensor.detach() for name, tensor in gradients.items()}


def _check_labels(labels: Tensor, outputs: Tensor, loss: Loss) -> None:
    """Refuse labels that a named loss finds no class for; what another loss takes is its own affair."""
    classes = outputs.shape[-1]
    if isinstance(loss, str) and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        came = f"{int(labels.min())} to {int(labels.max())}"
        raise Misuse(f"labels from 0 to {classes - 1}", came, "give indices of the model's classes")


def _split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters that get a gradient, and copies of all else that the forward pass reads."""
    trained = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
    fixed = {name: tensor.detach() for name, tensor in model.named_parameters() if not tensor.requires_grad}
    return trained, fixed | {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def check_deterministic(model: nn.Module, *, alone: bool = True) -> None:
    """Refuse a model whose gradient is random or couples the samples of a batch.

    Args:
        model: in the mode in which it is used.
        alone: whether every sample must have a gradient of its own; without that, batch statistics are allowed.

    Raises:
        NotDeterministic: dropout is active, or a batch-norm layer normalizes with the statistics of the batch.

    Example:
        >>> check_deterministic(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
        Traceback (most recent call last):
        unbatch.errors.NotDeterministic: expected a deterministic model, got an active Dropout layer ('1', p=0.5): ...
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise NotDeterministic(
                "a deterministic model",
                f"an active {type(module).__name__} layer ({name!r}, p={module.p:g})",
                "call model.eval() if the client did, since a gradient taken under random dropout cannot be replayed",
            )
        if alone and couples(module):
            raise NotDeterministic(
                "a model that treats samples one by one",
                f"{type(module).__name__} in train mode ({name!r})",
                "call model.eval() if the client did, since statistics of the batch mix its samples",
            )


def couples(module: nn.Module) -> bool:
    """Whether a layer normalizes with the statistics of its batch."""
    return module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)


def replay(
    model: nn.Module,
    update: Mapping[str, Tensor],
    inputs: Num[Tensor, " b *shape"],
    labels: Int64[Tensor, " b"],
    loss: Loss = "cross_entropy",
    weights: Float[Tensor, " b"] | None = None,
    *,
    scale_free: bool = False,
    pruned: bool = False,
    large: int = LARGE,
) -> Replay:
    """Compute in float64 the gradient that a guess would have caused, and compare it with the observed one.

    The gradient of a very wide Linear layer is never formed: it is compared block by block.

    Args:
        model: as broadcast.
        update: parameter name -> observed mean gradient; parameters that are missing are not compared.
        inputs: (b, *shape) the guessed batch.
        labels: (b,) its labels.
        loss: as for ``capture``.
        weights: (b,) what the gradient of every sample counts; 1/b each if None.
        scale_free: compare up to a factor, fitted on all but the very wide layers.
        pruned: compare where the update is not zero; elsewhere the replay only must not be larger than the smallest number sent.
        large: see ``trace.run``.
    """
    result = run(model, inputs, large=large)
    measure = loss_function(loss)
    if weights is None:
        value = measure(result.outputs, labels)
    else:
        value = weights @ torch.func.vmap(lambda row, label: measure(row[None], label[None]))(result.outputs, labels)
    leaves = {name: leaf for name, leaf in result.parameters.items() if name in update}
    wide = [call for call in result.linears if call.weight in update and call.weight not in leaves]
    targets = [*leaves.values(), *(call.output for call in wide)]
    gradients = torch.autograd.grad(value, targets, allow_unused=True)
    if scale_free:
        factor = _fitted_factor([update[name] for name in leaves], list(gradients), pruned)
        gradients = tuple(None if gradient is None else factor * gradient for gradient in gradients)
    squares: dict[str, tuple[float, float]] = {}  # of the distance and of the observed tensor
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=False):
        squares[name] = _squared_distance(update[name], torch.zeros_like(leaf) if gradient is None else gradient, pruned)
    for name in {call.weight for call in wide}:
        factors = [
            (gradient.flatten(0, -2), call.input.detach().flatten(0, -2))
            for call, gradient in zip(wide, gradients[len(leaves) :], strict=True)
            if call.weight == name and gradient is not None
        ]
        squares[name] = _squared_distance_of_factors(update[name], factors, pruned)
    return _replay(squares)


def _fitted_factor(observed: list[Tensor], replayed: list[Tensor | None], pruned: bool) -> float:
    pairs = [(o.to(r.dtype), r * (o != 0) if pruned else r) for o, r in zip(observed, replayed, strict=False) if r is not None]
    size = sum(float(r.square().sum()) for _, r in pairs)
    return sum(float((o * r).sum()) for o, r in pairs) / size if size else 1.0


def compare(update: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> Replay:
    """How far a replayed update is from the observed one, over the tensors of both.

    Example:
        >>> compare({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 3.0])}).residual
        0.2
    """
    return _replay({name: _squared_distance(update[name], replayed[name].double()) for name in update if name in replayed})


def _replay(squares: Mapping[str, tuple[float, float]]) -> Replay:
    def ratio(distance: float, size: float) -> float:
        return math.sqrt(distance / size) if size > 0 else (0.0 if distance == 0 else math.inf)

    size = sum(s for _, s in squares.values())
    by_tensor = {name: ratio(d, max(s, FAINT**2 * size)) for name, (d, s) in squares.items()}
    return Replay(ratio(sum(d for d, _ in squares.values()), size), by_tensor)


def _squared_distance(observed: Tensor, replayed: Tensor, pruned: bool = False) -> tuple[float, float]:
    observed = observed.to(replayed.dtype)
    if pruned:
        sent = observed != 0
        smallest = observed[sent].abs().min() if bool(sent.any()) else torch.inf
        replayed = replayed.where(sent, (replayed.abs() - smallest).clamp_min(0))
    return float((replayed - observed).square().sum()), float(observed.square().sum())


def _squared_distance_of_factors(
    observed: Tensor, factors: list[tuple[Tensor, Tensor]], pruned: bool = False, block: int = 1 << 14
) -> tuple[float, float]:
    distance = size = 0.0
    for start in range(0, observed.shape[1], block):
        columns = slice(start, start + block)
        replayed = sum(
            (left.T @ right[:, columns] for left, right in factors), torch.zeros((), dtype=torch.float64, device=observed.device)
        )
        d, s = _squared_distance(observed[:, columns], replayed.expand_as(observed[:, columns]), pruned)
        distance, size = distance + d, size + s
    return distance, size


def sensitivities(model: nn.Module, inputs: Num[Tensor, " b *shape"], weight: str, loss: Loss = "cross_entropy") -> Float[Tensor, "c b m"]:
    """∂ℓ(x_i, y)/∂z of one Linear layer, for every sample i and every class y: the columns that a label would cause.

    Args:
        model: as broadcast.
        inputs: (b, *shape).
        weight: name of the layer's weight.
        loss: as for ``capture``.

    Returns:
        (c, b, m) in float64, for all c classes that the model scores.
    """
    result = run(model, inputs)
    call: LinearCall = next(call for call in result.linears if call.weight == weight)
    outputs = result.outputs.detach()
    classes = torch.arange(outputs.shape[1], device=inputs.device)
    columns = []
    for chunk in torch.split(classes, max(1, (1 << 21) // max(1, outputs.numel()))):
        at_outputs = _slopes(loss, outputs, chunk)
        (at_layer,) = torch.autograd.grad(result.outputs, call.output, at_outputs, retain_graph=True, is_grads_batched=True)
        columns.append(at_layer)
    return torch.cat(columns)


def _slopes(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """∂ℓ(outputs_i, y)/∂outputs_i for every sample i and every given y: (c, b, C)."""
    if loss == "cross_entropy":
        return torch.softmax(outputs, dim=1) - F.one_hot(labels, outputs.shape[1]).to(outputs)[:, None]
    measure = loss_function(loss)

    def summed(outputs: Tensor, label: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: measure(row[None], label[None]))(outputs).sum()

    return torch.func.vmap(torch.func.grad(summed), in_dims=(None, 0))(outputs, labels)
