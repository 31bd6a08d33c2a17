"""Secure aggregation: the server sees the sum over clients and nothing else.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017. The masks cancel in the sum, so the
sum is all that is simulated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Defense, Protocol, Stage
from unbatch.errors import Misuse
from unbatch.protocols._client import check, defend, fed, following, remarks, rescaled
from unbatch.types import Batch, Observation

__all__ = ["SecureAggregation"]


@dataclass(frozen=True)
class SecureAggregation(Protocol):
    """FedSGD of several clients, of whom the server sees only the average, weighted by their samples, and their number.

    To an attack the average is the gradient of the united batch; nothing in it tells whose a sample was.

    Attributes:
        clients: N; the batch is dealt out among them as evenly as it can be.
    """

    clients: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.clients < 1:
            raise Misuse("at least one client", str(self.clients), "raise it")

    def observe(
        self, model: nn.Module, batch: Batch, loss: str = "cross_entropy", defenses: Sequence[Defense] = (), seed: int = 0
    ) -> Observation:
        """See ``Protocol.observe``.

        Raises:
            Misuse: there are more clients than samples.
        """
        if self.clients > len(batch):
            raise Misuse(f"at least {self.clients} samples, one a client", str(len(batch)), "take fewer clients")
        generator = seeds.generator(seed, "defense", batch.inputs.device)
        inputs = fed(model, batch)
        check(model, inputs, defenses)
        total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
        for part in torch.arange(len(batch), device=inputs.device).tensor_split(self.clients):
            update = following(model, inputs[part], batch.labels[part], loss, defenses, generator)
            for name, tensor in defend(Stage.CLIENT, defenses, update, generator).items():
                total[name] += tensor * (len(part) / len(batch))
        return Observation(
            model,
            defend(Stage.SERVER, defenses, total, generator),
            tuple(batch.inputs.shape[1:]),
            loss,
            batch_size=len(batch),
            protocol=self.told,
            schema=batch.schema,
            remarks=(f"that the update is the average over {self.clients} clients, none of them alone", *remarks(defenses)),
            factor_known=not rescaled(defenses),
        )
