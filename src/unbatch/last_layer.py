"""The last layer and its gradient, which is all that most restorers read.

| papers    | here            | meaning                                                        |
|-----------|-----------------|----------------------------------------------------------------|
| W, c      | weight, bias    | of the last layer, (C, D) and (C,): scores z = W e + c         |
| G, g      | gradient, shift | ∂L/∂W = mean of (p − y) eᵀ and ∂L/∂c = mean of p − y           |
| e         | features        | of a sample, (D,), what the last layer is fed                  |
| p, y      |                 | softmax of a sample's scores, its one-hot label                |
| n, K      | counts          | samples of each class, and of all: n = K (mean p − g), exactly |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Generator, Tensor

from unbatch.errors import Inapplicable
from unbatch.trace import LinearCall, run
from unbatch.types import Observation

__all__ = ["ROUNDINGS", "LastLayer", "labels_of_batch", "last_layer", "noise_inputs", "obstacle"]

ROUNDINGS = 100.0
"""Roundings that a sum over classes or features may be off by. Chosen. Swept."""

NOISES = 4.0
"""Deviations of the noise that an entry must be above: of a thousand classes, one in thirty batches has a wrong one. Chosen. Swept."""

KEPT = 0.98
"""Share of the entries that are not zero from which on nothing was pruned. Chosen."""

SAME = 1e-9
"""How far scores may be from a logarithm of a softmax. Chosen."""

SURELY = 3.5
"""Deviations about a share that are called its range: nineteen of twenty classes are within, measured over all kinds of networks.
Swept."""

FEW = 2
"""Samples that show which layers a model runs."""

TINIEST = 0.1
"""Least entry of a gradient, as a share of its median entry, above which the smallest ones were cut off. Chosen. Swept."""


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The last layer in float64; see the module's notation.

    Attributes:
        weight: (C, D).
        bias: (C,), zero where the layer has none.
        gradient: (C, D).
        shift: (C,), or None where the layer has no bias.
        features: (s, D) of a few noise inputs.
        rounding: relative precision of the update.
    """

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    gradient: Float[Tensor, "c d"]
    shift: Float[Tensor, " c"] | None
    features: Float[Tensor, "s d"]
    rounding: float

    @property
    def classes(self) -> int:
        """C."""
        return len(self.weight)

    @property
    def non_negative(self) -> bool:
        """Whether no feature is ever below zero, as after ReLU or a sigmoid; features that noise leaves at zero do not say it."""
        return bool((self.features >= 0).all()) and bool(self.features.any())

    @property
    def noise(self) -> float:
        """Deviation of what was added to an entry of G or g: columns of a softmax's gradient sum to zero, so what they sum to is foreign.

        Zero where rounding explains the sums. Pruned entries count as noise too; of two classes both are pruned together, which the sums
        do not show, but then there are zeros and nothing between them and the entries that were kept.
        """
        blocks = [self.gradient] if self.shift is None else [self.gradient, self.shift[:, None]]
        deviations = [float(block.sum(dim=0).square().mean().sqrt()) / self.classes**0.5 for block in blocks]
        sizes = [float(block.abs().sum(dim=0).max()) for block in blocks]
        seen = max(d if d > ROUNDINGS * self.rounding * size else 0.0 for d, size in zip(deviations, sizes, strict=True))
        return max(seen, _pruned(self.gradient))

    @property
    def there(self) -> Bool[Tensor, " c"]:
        """(C,) which classes surely have samples: n_j/K = mean p_j − g_j, and a mean probability is not negative."""
        size = self.bias_gradient.abs().max()
        return self.bias_gradient < -max(ROUNDINGS * self.rounding * float(size), NOISES * self.noise)

    @property
    def excess(self) -> float:
        """How many times as large g is as it can be: the shares of the classes and the mean probabilities differ by at most 1 in all.

        At most 1 where the scale of the update is right, up to rounding and noise.
        """
        if self.shift is None:
            return 0.0
        noise = self.noise * self.classes
        return max(0.0, float(self.shift.clamp_min(0).sum()) - noise) / (1 + ROUNDINGS * self.rounding)

    @property
    def bounds(self) -> Float[Tensor, "c 2"] | None:
        """The smallest and the largest share of the batch that each class can have; None where the layer has no bias.

        Whatever the mean probability is, n_j/K ≥ −g_j, and the rest that this leaves goes to any one class. Each g_j was rounded.
        """
        if self.shift is None:
            return None
        least = (-self.bias_gradient * (1 - self.rounding) - NOISES * self.noise).clamp_min(0)
        most = least + (1 - least.sum()).clamp_min(0) + ROUNDINGS * self.rounding
        return torch.stack([least, most.clamp_max(1)], dim=1)

    def ranges(self, shares: Float[Tensor, " c"], deviation: Float[Tensor, " c"]) -> Float[Tensor, "c 2"] | None:
        """The same, narrowed to three and a half deviations about what was read.

        Args:
            shares: (C,) of the classes, as read.
            deviation: (C,) of these.
        """
        if (bounds := self.bounds) is None:
            return None
        least, most = bounds.unbind(dim=1)
        low = (shares - SURELY * deviation).clamp(least, most)
        return torch.stack([low, (shares + SURELY * deviation).clamp(low, most)], dim=1)

    @property
    def row_sums(self) -> Float[Tensor, " c"]:
        """Σ_d G_jd."""
        return self.gradient.sum(dim=1)

    @property
    def lowest(self) -> Float[Tensor, " c"]:
        """The smallest entry of every row of G; where no feature is negative, below zero means that the class is there."""
        return self.gradient.amin(dim=1)

    @property
    def bias_gradient(self) -> Float[Tensor, " c"]:
        """G's neighbor g.

        Raises:
            Inapplicable: the layer has no bias.
        """
        if self.shift is None:
            raise Inapplicable("the last layer has no bias in the update, whose gradient gives the counts")
        return self.shift


def _pruned(gradient: Float[Tensor, "c d"], fewest: int = 200) -> float:
    """Deviation of the entries that were set to zero, if the smallest were: up to the least that was kept, all alike."""
    sizes = gradient.abs().flatten()
    kept = sizes[sizes > 0]
    if len(kept) < fewest or len(kept) > KEPT * len(sizes) or float(kept.min()) < TINIEST * float(kept.median()):
        return 0.0
    return float(kept.min()) * ((1 - len(kept) / len(sizes)) / 3) ** 0.5


def obstacle(observation: Observation, *, bias: bool = False) -> str | None:
    """Why the gradient of the last layer does not tell the labels: no such layer, no softmax cross-entropy, no bias where one is needed."""
    found = _find(observation, _probe(observation, samples=FEW))  # what the samples say is asked by ``last_layer``
    if isinstance(found, str):
        return found
    if bias and (found.bias is None or found.bias not in observation.update):
        return f"the last layer {found.weight!r} has no bias in the update, whose gradient gives the counts"
    return None


def last_layer(observation: Observation) -> LastLayer:
    """Read the last layer.

    Raises:
        Inapplicable: see ``obstacle``.
    """
    call = _find(observation, _probe(observation))
    if isinstance(call, str):
        raise Inapplicable(call)
    parameters, update = dict(observation.model.named_parameters()), observation.update
    weight = parameters[call.weight].detach().double()
    told = call.bias is not None and call.bias in update
    return LastLayer(
        weight,
        weight.new_zeros(len(weight)) if call.bias is None else parameters[call.bias].detach().double(),
        update[call.weight].double(),
        update[str(call.bias)].double() if told else None,
        call.input.detach().double(),
        torch.finfo(observation.dtype).eps,
    )


def _probe(observation: Observation, samples: int = 16) -> tuple[Tensor, list[LinearCall]]:
    noise = noise_inputs(observation, samples, torch.Generator(observation.device).manual_seed(0))
    ran = run(observation.model, noise)
    return ran.outputs, ran.linears


def _find(observation: Observation, ran: tuple[Tensor, list[LinearCall]]) -> LinearCall | str:
    outputs, calls = ran
    if not calls:
        return "the model runs no Linear layer"
    call = calls[-1]
    if call.weight not in observation.update:
        return f"the last layer {call.weight!r} is frozen: the update holds no gradient of it"
    if sum(other.weight == call.weight for other in calls) > 1 or call.input.ndim != 2:
        return f"the last layer {call.weight!r} is applied more than once a sample"
    if outputs.shape != call.output.shape:
        return "the model's outputs are not those of its last Linear layer"
    if not bool(outputs.isfinite().all()):
        return "the scores of the model overflow: the weights, or the update of local training, are too large"
    plain = torch.equal(outputs, call.output)
    logarithmic = torch.allclose(outputs.double(), torch.log_softmax(call.output.double(), dim=1), rtol=SAME, atol=SAME)
    if (observation.loss == "cross_entropy" and (plain or logarithmic)) or (observation.loss == "nll" and logarithmic):
        return call
    loss = observation.loss if isinstance(observation.loss, str) else "a function"
    return f"the loss ({loss}) is not known to be the cross-entropy of the softmax of the last layer {call.weight!r}"


def noise_inputs(observation: Observation, count: int, generator: Generator, decay: float = 0.0) -> Tensor:
    """Inputs of variance 1, (count, *input_shape), in the model's dtype; for a model that reads tokens, random tokens.

    Args:
        observation: for shape, dtype and device.
        count: how many.
        generator: of the noise.
        decay: for pictures, amplitudes fall with the spatial frequency to this power: 0 is white noise, 1 is smooth like photographs.
    """
    first = next(observation.model.parameters())
    shape = (count, *observation.input_shape)
    if observation.schema is not None and observation.schema.kind == "tokens":
        return torch.randint(observation.schema.vocabulary, shape, generator=generator, device=observation.device).to(first.device)
    noise = torch.randn(shape, generator=generator, device=observation.device, dtype=torch.float32)
    if decay and len(shape) == 4 and min(shape[2:]) > 1:
        rows = torch.fft.fftfreq(shape[2], device=noise.device)[:, None]
        columns = torch.fft.rfftfreq(shape[3], device=noise.device)
        frequency = torch.hypot(rows, columns).clamp_min(1 / max(shape[2:]))
        noise = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency**-decay, s=shape[2:])
        noise /= noise.square().mean().sqrt()
    return noise.to(first.device, first.dtype)


def labels_of_batch(observation: Observation, inputs: Num[Tensor, " b *shape"]) -> Int64[Tensor, " b"] | None:
    """The labels of a whole batch, or None where the model has no such last layer.

    With H the features of the inputs and P their softmax, the gradient of the last layer is (P − Y)ᵀ H / b, linear in the one-hot labels Y.
    That holds with batch statistics too, where no sample has a gradient of its own.

    Args:
        observation: what the server saw.
        inputs: (b, *shape) all samples of the batch.
    """
    if obstacle(observation) is not None:
        return None
    ran = run(observation.model, inputs)
    head = ran.linears[-1]
    features, scores = head.input.detach(), torch.softmax(ran.outputs.detach(), dim=1)
    if features.shape[1] < len(inputs):
        return None
    wrong = torch.linalg.lstsq(features.T, len(inputs) * observation.update[head.weight].double().T).solution
    return (scores - wrong).argmax(dim=1)
