"""What a liar knows, and how it becomes an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from unbatch.contracts import Attack
from unbatch.types import Candidate, Observation, Progress


@dataclass(frozen=True, eq=False)
class Scene:
    """What a liar knows.

    Attributes:
        observation: what the server saw.
        inputs: (b, *shape) float64, the client's.
        labels: (b,) the client's.
        strangers: (n, *shape) float64, n ≥ b samples of the same kind that the client did not have.
        stranger_labels: (n,) theirs.
    """

    observation: Observation
    inputs: Tensor
    labels: Tensor
    strangers: Tensor
    stranger_labels: Tensor

    @property
    def layers(self) -> list[str]:
        """Weight names of the Linear layers."""
        named = self.observation.model.named_modules()
        return [f"{name}.weight" for name, module in named if isinstance(module, nn.Linear)]

    @property
    def classes(self) -> int:
        return self.observation.classes

    def like(self, generator: Generator, count: int | None = None) -> Tensor:
        """Junk of the inputs' size."""
        shape = (count or len(self.inputs), *self.inputs.shape[1:])
        return self.inputs.std() * torch.randn(shape, generator=generator, dtype=torch.float64)

    def with_last(self, sample: Tensor, label: Tensor | int | None = None) -> Candidate:
        """The truth but for the last member."""
        labels = self.labels.clone()
        if label is not None:
            labels[-1] = label
        return Candidate(torch.cat([self.inputs[:-1], sample.reshape(1, *self.inputs.shape[1:])]), labels)


Lie = Callable[[Scene, Generator], Candidate]


def liar(scene: Scene, lie: Lie) -> Attack:
    """An attack that tells a lie about a scene."""

    @dataclass(frozen=True)
    class Liar(Attack):
        def unsupported(self, observation: Observation) -> str | None:
            return None

        def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
            return lie(scene, generator)

    return Liar()


def breaking(error: Exception) -> Attack:
    """An attack that fails."""

    @dataclass(frozen=True)
    class Broken(Attack):
        def unsupported(self, observation: Observation) -> str | None:
            return None

        def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Any:
            raise error

    return Broken()


def outputs(scene: Scene, inputs: Tensor) -> Tensor:
    """(k, C) float64, with copies of all that the forward pass could change."""
    model = scene.observation.model
    copies = {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    copies = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in copies.items()}
    with torch.no_grad():
        answers: Tensor = torch.func.functional_call(model, copies, (inputs.double(),))
    return answers


def losses(scene: Scene, inputs: Tensor, labels: Tensor) -> Tensor:
    """(k,) what every sample's gradient is in proportion to, nearly."""
    return F.cross_entropy(outputs(scene, inputs), labels, reduction="none")
