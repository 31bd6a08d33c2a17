"""The cheapest change that closes an exposure: which route it ends, what it costs, and what it leaves open.

Cheapest is meant for the one who trains: a setting before a line of the model, a line of the model before a protocol. Every one of these
ends one route only; what holds against all is differential privacy, which ``GENERAL`` says.
"""

from __future__ import annotations

from unbatch.exposure.findings import Remedy

__all__ = ["GENERAL", "USUAL_BATCH", "for_batches", "for_labels", "for_single", "for_untested"]

USUAL_BATCH = 64
"""A batch that a client can be expected to afford."""

GENERAL: tuple[Remedy, ...] = (
    Remedy(
        title="Train with differential privacy (DP-SGD), with the noise added before the update leaves the client",
        closes="Every route, known or not, up to the bound (ε, δ): noise that is large enough for it also buries ranks, zeros and ratios.",
        leaves="It costs accuracy, memory for per-sample gradients, and budget every round. Clipping alone closes nothing, and noise"
        " without accounting is no guarantee.",
    ),
    Remedy(
        title="Aggregate before the server sees an update (secure aggregation)",
        closes="The server sees one update of the united batch of many clients, usually larger than the limits here.",
        leaves="A cohort that is small enough is inverted as a whole, and a server that picks the cohort or changes the model can single"
        " out one client.",
    ),
)


def for_batches(name: str, rank: int, *, raw: bool) -> Remedy:
    """Against the inversion of whole batches from a Linear + ReLU layer."""
    what = "samples" if raw else "features"
    if rank + 1 <= USUAL_BATCH:
        return Remedy(
            title=f"Average at least {rank + 1} samples in every update",
            closes=f"From there on the gradient of {name} has full rank, and its factorization no longer shows the batch.",
            leaves="Samples that alone turn on some neuron still leak from larger batches, and so do single samples wherever a client has"
            " only one. A smooth activation instead of the ReLU ends the zeros at any batch size.",
        )
    return Remedy(
        title=f"Put a smooth activation (GELU, SiLU, tanh) after {name} instead of the ReLU",
        closes=f"No neuron is exactly off any more, and without exact zeros the {what} of a batch cannot be told apart exactly.",
        leaves=f"The model must be retrained. The rank still shows the batch size, unmixing and optimization still approximate, and one"
        f" sample alone stays exact. Freezing {name} sends no gradient of it at all; a batch of {rank + 1:,} or more ends the factorization"
        " too; leaving out the bias is weak.",
    )


def for_single(name: str, *, raw: bool) -> Remedy:
    """Against the exact ratio of a Linear layer's two gradients."""
    return Remedy(
        title="Never send the gradient of one sample: let every client average over tens of them",
        closes=f"The ratio of the gradients of weight and bias of {name} is then a mixture and no longer the "
        + ("sample." if raw else "features of the sample."),
        leaves="Unmixing attacks (Cocktail Party, ICML 2023) approximate small batches. Leaving out the bias is weak: it hides the scale"
        " only.",
    )


def for_untested(name: str) -> Remedy:
    """Where our search does not apply but the algebra may."""
    return Remedy(
        title=f"Treat {name} as open, or put a smooth activation (GELU, SiLU, tanh) behind it",
        closes="Without exact zeros the directions of single samples cannot be told from their mixtures.",
        leaves="That our search does not take this layer protects nobody. One sample alone, unmixing and optimization stay open.",
    )


def for_labels(restorers: int, bias: bool) -> Remedy:
    """Against the label leak of the last layer."""
    weak = "Leaving out its bias stops the counts of some restorers only. " if bias else ""
    return Remedy(
        title="Freeze the last layer, where the task allows it; else add noise (DP-SGD) or aggregate",
        closes=f"All {restorers} restorers that apply read the gradient of that layer and nothing else.",
        leaves=weak
        + "Larger, evener batches and trained networks blur the counts but do not hide them. While the layer is trained, no change of"
        " architecture closes this.",
    )
