"""Gradients as functions of a batch: capture them, split them by sample, replay a guess and measure the distance.

Everything goes through ``torch.func`` or works on copies: neither the model, nor its ``.grad``, nor the global random state is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn

from unbatch.determinism import check_deterministic
from unbatch.errors import Misuse, named
from unbatch.losses import Loss, loss_function, quiet_vmap, slopes, slopes_alone
from unbatch.scores import plain
from unbatch.swap import called_with
from unbatch.trace import LARGE, model_errors, run

__all__ = [
    "Loss",
    "Replay",
    "capture",
    "check_deterministic",
    "compare",
    "jacobians",
    "loss_function",
    "per_example",
    "replay",
    "sensitivities",
]

FEW = 16
"""Directions up to which they are pulled back one by one, as sums: vmap, and slopes that are given, cost PyTorch an import of a second."""

FAINT = 1e-4
"""A tensor below this share of the whole update is compared with that share instead of with itself. Chosen."""


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


def capture(
    model: nn.Module,
    inputs: Num[Tensor, " b *shape"],
    labels: Int64[Tensor, " b"],
    loss: Loss = "cross_entropy",
    *,
    check: bool = True,
) -> dict[str, Tensor]:
    """The update that a client sends under FedSGD: the mean gradient over its batch.

    Args:
        model: as broadcast, in the mode in which the client runs it.
        inputs: (b, *shape) in the model's dtype.
        labels: (b,) class indices.
        loss: name or function, see ``Loss``.
        check: whether to run the model twice on a few samples first, to see that it is deterministic; False where that was seen before.

    Returns:
        parameter name -> gradient, for every parameter that requires one.

    Raises:
        Misuse: a label is none of the model's classes; or the model or the loss does not run: its own exception is named.
        NotDeterministic: the gradient would not be a function of this batch alone. (Batch statistics make it one of the whole batch.)

    Example:
        >>> net = nn.Linear(2, 3)
        >>> update = capture(net, torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> {name: tuple(tensor.shape) for name, tensor in update.items()}
        {'weight': (3, 2), 'bias': (3,)}
    """
    if check:
        check_deterministic(model, inputs, alone=False)
    measure = loss_function(loss)
    trained, fixed = _split(model)

    leaves = {name: tensor.requires_grad_() for name, tensor in trained.items()}
    with torch.enable_grad():
        with model_errors(inputs):
            outputs = plain(called_with(model, {**leaves, **fixed}, inputs.clone()))  # a model may write to what it is given
        _check_outputs(outputs, labels, loss)
        value = measure(outputs, labels)
        with _no_gradient():
            gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf).detach() if gradient is None else gradient.detach()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


def per_example(
    model: nn.Module,
    inputs: Num[Tensor, " b *shape"],
    labels: Int64[Tensor, " b"],
    loss: Loss = "cross_entropy",
    *,
    check: bool = True,
) -> dict[str, Tensor]:
    """Every sample's part in the gradient of the batch: parameter name -> (b, *parameter shape). Their mean is ``capture``.

    Where the loss is a mean over samples, as it nearly always is, this is the gradient of every sample alone. Where the loss itself couples
    them (class weights: their weighted mean divides by the sum of the batch's weights) no sample has a loss of its own within the batch.
    Then this is b times what the sample contributes to the common gradient, which is what a client that clips sample by sample works on:
    with class weights, b wᵢ / Σ w times the gradient of the sample alone.

    Args:
        model: as broadcast, in the mode in which the client runs it.
        inputs: (b, *shape) in the model's dtype.
        labels: (b,) class indices.
        loss: name or function, see ``Loss``.
        check: whether to try first, on a few samples, that the model is deterministic and treats them one by one.

    Raises:
        Misuse: as for ``capture``.
        NotDeterministic: the model draws at random, or couples the samples of a batch.
    """
    if check:
        check_deterministic(model, inputs)
    trained, fixed = _split(model)
    buffers = {name for name, _ in model.named_buffers()}

    def outputs_of(parameters: dict[str, Tensor], x: Tensor) -> Any:
        # Copies, for a model may write to its buffers and to what it is given.
        own = {name: tensor.clone() if name in buffers else tensor for name, tensor in fixed.items()}
        return plain(called_with(model, {**parameters, **own}, x.clone()))

    with model_errors(inputs), torch.no_grad():
        outputs = outputs_of(trained, inputs)
    _check_outputs(outputs, labels, loss)
    directions = slopes(loss, outputs, labels)

    def along(parameters: dict[str, Tensor], x: Tensor, direction: Tensor) -> Tensor:
        output: Tensor = outputs_of(parameters, x[None])[0]
        return (output * direction).sum()

    gradient = torch.func.grad(along)
    try:
        with quiet_vmap():
            gradients: dict[str, Tensor] = torch.func.vmap(gradient, in_dims=(None, 0, 0))(trained, inputs, directions)
    except RuntimeError:  # something in the model is not made for vmap: one by one, then
        with model_errors(inputs):
            rows = [gradient(trained, x, direction) for x, direction in zip(inputs, directions, strict=True)]
        gradients = {name: torch.stack([row[name] for row in rows]) for name in trained}
    return {name: tensor.detach() for name, tensor in gradients.items()}


@contextmanager
def _no_gradient() -> Iterator[None]:
    """What autograd raises where model and loss cannot be differentiated, as one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "not enough memory" in str(error):
            raise
        raise Misuse("a model and a loss that can be differentiated", named(error), "check what forward and the loss do") from error


def _check_outputs(outputs: Any, labels: Tensor, loss: Loss) -> None:
    """Refuse what no loss can be taken of, and labels that a named loss finds no class for; what another loss takes is its own affair."""
    if not isinstance(outputs, Tensor) or not outputs.ndim:
        raise Misuse("a model that returns a tensor of scores", type(outputs).__name__, "wrap it so that it returns a tensor (b, classes)")
    classes = outputs.shape[-1]
    classes = 2 if classes == 1 and loss == "bce" else classes
    if isinstance(loss, str) and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        came = f"{int(labels.min())} to {int(labels.max())}"
        raise Misuse(f"labels from 0 to {classes - 1}", came, "give indices of the model's classes")


def _split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters that get a gradient, and copies of all else that the forward pass reads."""
    trained = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
    fixed = {name: tensor.detach() for name, tensor in model.named_parameters() if not tensor.requires_grad}
    return trained, fixed | {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


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


def sensitivities(
    model: nn.Module,
    inputs: Num[Tensor, " b *shape"],
    weight: str,
    loss: Loss = "cross_entropy",
    z: Float[Tensor, "b m"] | None = None,
    classes: Int64[Tensor, " c"] | None = None,
) -> Float[Tensor, "c b m"]:
    """∂ℓ(x_i, y)/∂z of one Linear layer, for every sample i and every class y: the columns that a label would cause.

    Args:
        model: as broadcast.
        inputs: (b, *shape).
        weight: name of the layer's weight.
        loss: as for ``capture``; that of a batch of one, which says no more than its direction where a loss couples samples.
        z: (b, m) what the layer makes of the inputs, where that is known already.
        classes: (c,) those that are asked for; None for all that the model scores.

    Returns:
        (c, b, m) in float64.
    """
    result = run(model, inputs, known={} if z is None else {weight: z})
    outputs = result.outputs.detach()
    classes = torch.arange(outputs.shape[1], device=inputs.device) if classes is None else classes
    columns = []
    for chunk in torch.split(classes, max(1, (1 << 19) // max(1, outputs.numel()))):
        at_outputs = slopes_alone(loss, outputs, chunk)
        columns.append(_pulled_back(result.outputs, result.made_by(weight), at_outputs))
    return torch.cat(columns)


def jacobians(model: nn.Module, inputs: Num[Tensor, " b *shape"], weight: str) -> Float[Tensor, "c b m"]:
    """∂outputs/∂z of one Linear layer, for every sample: every column that it may leave, whatever the loss, is a sum of these.

    Args:
        model: as broadcast.
        inputs: (b, *shape).
        weight: name of the layer's weight.
    """
    result = run(model, inputs)
    outputs = result.outputs.detach()
    each = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)[:, None].expand(-1, *outputs.shape)
    return _pulled_back(result.outputs, result.made_by(weight), each).double()


def _pulled_back(outputs: Tensor, inner: Tensor, directions: Float[Tensor, "c b k"]) -> Tensor:
    """∂(direction · outputs)/∂inner for every direction."""
    if len(directions) <= FEW:
        with _no_gradient(), torch.enable_grad():
            sums = [(direction * outputs).sum() for direction in directions]
            return torch.stack([torch.autograd.grad(one, inner, retain_graph=True)[0] for one in sums])
    try:
        with quiet_vmap():
            return torch.autograd.grad(outputs, inner, directions, retain_graph=True, is_grads_batched=True)[0]
    except RuntimeError:  # something in the model's backward pass is not made for vmap
        with _no_gradient():
            return torch.stack([torch.autograd.grad(outputs, inner, one, retain_graph=True)[0] for one in directions])
