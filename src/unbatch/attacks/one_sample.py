"""One sample, exactly: the gradient of any Linear layer with a bias that sees the raw input is that input.

Phong, Aono, Hayashi, Wang, Moriai, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 2018. Of one
sample ∂L/∂W = (∂L/∂z) xᵀ and ∂L/∂b = ∂L/∂z, so every row of the first over its entry of the second is x, whatever follows the layer. The
same holds after any number of local steps on that sample, under an unknown factor, and, entry by entry, where the update was pruned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator, Tensor

from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Inapplicable
from unbatch.last_layer import labels_of_batch, last_layer, obstacle
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Inverted, Observation, Progress

__all__ = ["OneSample"]

NOISY = 0.1
"""A layer that is this far from one sample's outer product, in the share of its length, shows no single sample even through noise.
Chosen."""


@dataclass(frozen=True)
class OneSample(Attack):
    """The input of a batch of one, in closed form.

    Attributes:
        layer: name of the layer's weight; the first one that sees the raw input if None. Of a deeper layer the features that it is fed
            are recovered.

    Example:
        >>> import torch, unbatch
        >>> net = torch.nn.Sequential(torch.nn.Linear(30, 8), torch.nn.GELU(), torch.nn.Linear(8, 5)).double()
        >>> secret, label = torch.rand(1, 30, dtype=torch.float64), torch.tensor([3])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, label), (30,))
        >>> found = OneSample()(seen).or_raise()
        >>> bool((found.inputs - secret).abs().max() < 1e-9), found.labels.tolist()
        (True, [3])
    """

    needs: ClassVar[Needs] = Needs(entrance="Linear", samples=1)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PROOF, Yield.FEATURES, Yield.COUNTS})
    cost: ClassVar[str] = "one division: milliseconds"
    rank: ClassVar[int] = 10

    layer: str | None = None

    @property
    def needed(self) -> Needs:
        """A layer that is named need not be fed the raw input."""
        return self.needs if self.layer is None else replace(self.needs, entrance="")

    def unsupported(self, observation: Observation) -> str | None:
        """No such Linear layer with a bias, or a gradient of it that is not one sample's."""
        found = self._find_layer(observation)
        if isinstance(found, str):
            return found
        if (error := _divide(*_gradients(observation, found))[1]) <= NOISY:
            return None
        return f"the gradient of {found.weight} is not that of one sample: its best explanation by one leaves {error:.0%}"

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:  # noqa: ARG002
        """Divide, and read the label off the last layer."""
        found = self._find_layer(observation)
        if isinstance(found, str):
            raise Inapplicable(found)
        weight, bias = _gradients(observation, found)
        sample, error = _divide(weight, bias)
        stats = {"layer": found.weight, "distance_to_one_sample": error}
        inverted = Inverted(found.weight, len(weight))
        if not found.raw:
            return Candidate(labels=_label(observation), features=sample[None], layer=found.weight, inverted=inverted, stats=stats)
        inputs = sample.view(1, *observation.input_shape)
        return Candidate(inputs, _label(observation, inputs), inverted=inverted, stats=stats)

    def _find_layer(self, observation: Observation) -> LinearCall | str:
        """The layer to read, or why there is none."""
        calls = observation.layers
        named = self.layer and self.layer.removesuffix(".weight")
        asked = [call for call in calls if (call.raw if named is None else call.weight.removesuffix(".weight") == named)]
        if not asked:
            return "no Linear layer of the model sees its raw input" if named is None else f"the model runs no Linear layer named {named!r}"
        update = observation.update
        for call in asked:
            used_once = call.input.ndim == 2 and sum(other.weight == call.weight for other in calls) == 1
            bias = call.bias or ""
            if used_once and bias in update and call.weight in update and bool(update[bias].any()):
                return call
        return f"{asked[0].weight} has no bias with a gradient, or is used several times a sample"


def _gradients(observation: Observation, layer: LinearCall) -> tuple[Tensor, Tensor]:
    return observation.update[layer.weight].double(), observation.update[str(layer.bias)].double()


def _divide(weight: Tensor, bias: Tensor) -> tuple[Tensor, float]:
    """The x with weight ≈ bias xᵀ, by least squares over all rows, and the share of the weight's length that it leaves.

    Entries that are zero in the update were pruned, or zero by x itself; both are rightly left out, column by column.

    Example:
        >>> import torch
        >>> _divide(torch.tensor([[2.0, 0.0], [6.0, 3.0]]), torch.tensor([1.0, 3.0]))[0].tolist()
        [2.0, 1.0]
    """
    sent = (weight != 0) & (bias != 0)[:, None]
    square = bias.square() @ sent.to(bias)
    sample = (bias @ (weight * sent)) / square.where(square > 0, 1.0)
    left = (weight - bias[:, None] * sample)[sent]
    size = weight[sent].square().sum().sqrt()
    return sample, float(left.square().sum().sqrt() / size) if float(size) > 0 else 0.0


def _label(observation: Observation, inputs: Tensor | None = None) -> Tensor | None:
    """Of one sample only the class's own score is pushed up: its bias gradient is the one below zero, through local steps too."""
    if obstacle(observation, bias=True) is None:
        return last_layer(observation).bias_gradient.argmin()[None]
    return None if inputs is None else labels_of_batch(observation, inputs)
