"""Which layer is asked first."""

from __future__ import annotations

from torch import Tensor

from unbatch.presence.fed import Passes, Witness
from unbatch.presence.rows import Rows, rows_of

__all__ = ["first_layer"]


def first_layer(
    passes: Passes, found: list[Witness], records: Tensor, deviation: float | None
) -> tuple[tuple[Witness, Rows, int] | None, str]:
    """The first layer whose row space is not full, with the number of rows that a record feeds it with; or why there is none."""
    observation = passes.observation
    full = []
    for witness in found:
        fed = passes(records[:64], [witness.weight]).get(witness.weight)
        if fed is None:
            continue
        told = None if observation.batch_size is None else observation.batch_size * fed.shape[1]
        rows = rows_of(observation, witness, float(fed.square().mean().sqrt()) or 1.0, deviation, told)
        if rows is not None:
            return (witness, rows, fed.shape[1]), ""
        full.append(f"{witness.weight!r} {tuple(observation.update[witness.weight].shape)}")
    if full:
        return None, (
            f"the gradient has full rank at every layer that sees records one by one ({', '.join(full[:3])}): as many samples as neurons or"
            " more, or noise on all of it; then everything lies in its row space"
        )
    return None, (
        "no Linear layer in the update is fed by each record alone"
        + ("" if observation.one_gradient else " through weights that stayed while the client trained")
        + ": convolutions, statistics of the batch and dropout before it stand in the way"
    )
