"""FedSGD: every client sends the mean gradient over one batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from unbatch.contracts import Protocol
from unbatch.gradients import capture
from unbatch.types import Batch, Observation

__all__ = ["FedSgd"]


@dataclass(frozen=True)
class FedSgd(Protocol):
    """One batch, one gradient, no local steps. The server is told the model and the loss, not the batch size, not the labels."""

    def observe(self, model: nn.Module, batch: Batch, loss: str = "cross_entropy") -> Observation:
        """See ``Protocol.observe``; the batch is cast to the model's dtype."""
        dtype = next(model.parameters()).dtype
        update = capture(model, batch.inputs.to(dtype), batch.labels, loss)
        return Observation(model, update, tuple(batch.inputs.shape[1:]), loss, protocol="fedsgd", schema=batch.schema)
