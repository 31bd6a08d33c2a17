"""FedSGD: every client sends the mean gradient over one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from unbatch import seeds
from unbatch.contracts import Defense, Protocol, Stage
from unbatch.protocols._client import check, defend, fed, following, remarks, rescaled
from unbatch.types import Batch, Observation

__all__ = ["FedSgd"]


@dataclass(frozen=True)
class FedSgd(Protocol):
    """One batch, one gradient, no local steps. The server is told the model and the loss, not the batch size, not the labels."""

    def observe(
        self, model: nn.Module, batch: Batch, loss: str = "cross_entropy", defenses: Sequence[Defense] = (), seed: int = 0
    ) -> Observation:
        """See ``Protocol.observe``."""
        generator = seeds.generator(seed, "defense", batch.inputs.device)
        inputs = fed(model, batch)
        check(model, inputs, defenses)
        update = following(model, inputs, batch.labels, loss, defenses, generator)
        update = defend(Stage.SERVER, defenses, defend(Stage.CLIENT, defenses, update, generator), generator)
        return Observation(
            model,
            update,
            tuple(batch.inputs.shape[1:]),
            loss,
            protocol=self.told,
            schema=batch.schema,
            remarks=remarks(defenses),
            factor_known=not rescaled(defenses),
        )
