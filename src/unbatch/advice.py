"""All advice, in one place: what would have prevented a disclosure, what closes an exposure, and what to do after a failure.

Each measure says why it works, what it costs and where it ends. Cheapest is meant for the one who trains: a setting before a line of the
model, a line of the model before a protocol. Facts on the limits are from "SPEAR: Exact Gradient Inversion of Batches in Federated
Learning" (NeurIPS 2024) and from the algebra of the mechanism: ∂L/∂W = (∂L/∂Z)ᵀ X has rank b, and a sample's column of ∂L/∂Z is found by
the b − 1 neurons that the sample leaves off, or solved for: see docs/span.md.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from unbatch.records import Record
from unbatch.types import Finding, Status

__all__ = ["GENERAL", "Advice", "advise", "for_batches", "for_labels", "for_single", "for_tokens", "for_untested"]

USUAL_BATCH: Final = 64
"""A batch that a client can be expected to afford."""


class Advice(Record):
    """One measure.

    Attributes:
        title: what to do.
        strength: ``next step`` (after a failure), ``guarantee`` (holds against any attack), ``hides`` (takes away what the server sees),
            ``obstacle`` (stops this route, others stay open) or ``weak``.
        works: why it works.
        costs: what it costs and where it ends.
    """

    title: str
    strength: Literal["next step", "guarantee", "hides", "obstacle", "weak"]
    works: str
    costs: str


_NEXT: dict[Status, Advice] = {
    Status.BUDGET_EXHAUSTED: Advice(
        title="Search longer before you draw a conclusion",
        strength="next step",
        works="The search stopped because its budget was spent, not because it ran out of possibilities. Raise the budget in seconds or"
        " subsets, use a GPU, or try another search.",
        costs="Blind sampling doubles its work with every further sample in the batch. A search that a laptop cannot finish may take an"
        " attacker with more hardware, or with a better search, minutes.",
    ),
    Status.INCONSISTENT: Advice(
        title="Check that the audit saw what the client used",
        strength="next step",
        works="The usual causes are weights of another round, a model in the wrong mode (train or eval), another loss or reduction, or an"
        " update of several local steps instead of one gradient. The attack succeeds or fails on these, not on the client's privacy.",
        costs="If all of these are right, the update may have been changed on purpose (noise, clipping, compression). Name that defense"
        " and test it as such: that this attack trips over it says little about its strength.",
    ),
    Status.CONVERGED: Advice(
        title="Start elsewhere before you draw a conclusion",
        strength="next step",
        works="The search ended in a place from which no step leads nearer to the update. Such places are many: more restarts, another"
        " distance or prior, or the labels told to it lead to others.",
        costs="That every start so far ended in a wrong place is no proof that all do, and exact attacks need no start at all.",
    ),
    Status.DIVERGED: Advice(
        title="Take smaller steps, or compute finer",
        strength="next step",
        works="The numbers of the search overflowed. Smaller steps, other starts, or an update in float64 keep them finite.",
        costs="Until a search has come to its end, nothing is known of this update.",
    ),
    Status.NOT_APPLICABLE: Advice(
        title="Try an attack that fits this model",
        strength="next step",
        works="The reason above says which condition of this attack is not met. Other attacks have other conditions: optimization-based"
        " ones need no ReLU and no rank, and give approximations where this one gives nothing.",
        costs="No attack applying is not a proof of safety either: only a guarantee such as differential privacy is.",
    ),
    Status.BROKE_DOWN: Advice(
        title="Report the fault, and try another attack",
        strength="next step",
        works="The attack, or the model's code when the attack ran it, failed with the error on this page. A search that did not take place"
        " says nothing.",
        costs="Until another attack has run, nothing is known of this update.",
    ),
    Status.UNPROVEN: Advice(
        title="Tell the attack more, then judge",
        strength="next step",
        works="What was found could neither be proved nor refuted: labels, the batch size, the learning rate or the scale of the update are"
        " unknown, or the numbers are too coarse. With them, the replay decides.",
        costs="Until then treat the samples as disclosed if the pictures or values below are plausible.",
    ),
    Status.FEATURES: Advice(
        title="Look at the layers before this one",
        strength="next step",
        works="The features of an inner layer are known exactly. If the layers before it can be inverted, or are few, so are the samples.",
        costs="That no layer sees the raw input is an obstacle, not a guarantee.",
    ),
    Status.APPROXIMATE: Advice(
        title="Judge by what can be recognized",
        strength="next step",
        works="The batch below explains the update up to the residual. Noise or rounding in the update bounds how exact it can be; a better"
        " prior or another attack may still improve it.",
        costs="An approximation can disclose as much as a copy: a face is recognized long before it is exact.",
    ),
}

_AGGREGATE = Advice(
    title="Aggregate before the server sees an update (secure aggregation)",
    strength="hides",
    works="The server learns only the sum over many clients. To an attack the sum is one update of the united batch, usually far larger"
    " than it can take apart, and nothing in it says which client a sample came from.",
    costs="It hides single updates, it does not make the sum private: a cohort that is small enough is inverted as a whole, and a server"
    " that picks the cohort or changes the model it broadcasts can single out one client. It costs extra rounds, key agreement and care"
    " for clients that drop out, and the server can no longer inspect updates for poisoning.",
)

_PRIVATE = Advice(
    title="Train with differential privacy (DP-SGD), with the noise added before the update leaves the client",
    strength="guarantee",
    works="Each sample's gradient is clipped and calibrated Gaussian noise is added. The bound (ε, δ) holds against every attack, known or"
    " not. Noise that is large enough for it also buries the ranks, zeros and ratios that exact attacks read; far smaller noise does not.",
    costs="It costs accuracy, memory for per-sample gradients, and a privacy budget that every round spends. Noise that the server adds"
    " afterwards protects the published model, not the client from the server. Clipping alone is no protection: it scales each sample's"
    " gradient and keeps its zeros. Noise without accounting is no guarantee.",
)

GENERAL: Final = (_PRIVATE, _AGGREGATE)
"""What holds against more than one route."""

_ARCHITECTURE = Advice(
    title="Do not feed raw input into a Linear layer",
    strength="obstacle",
    works="What comes before it, such as convolutions, leaves features instead of raw input to recover; a first layer that is frozen sends"
    " no gradient.",
    costs="Replacing the ReLU is no defense: behind a smooth activation (GELU, SiLU, tanh) there are no zeros to read, but span solves for"
    " the samples without them, and proves them. It closes this exact route only: features can be inverted in a second step, and attacks"
    " by optimization do not even need a Linear layer. The model must be retrained.",
)

_NO_BIAS = Advice(
    title="Leave out the bias of that layer",
    strength="weak",
    works="The bias gradient gives each sample its scale. Without it zeros and ratios give the samples only up to a factor.",
    costs="A picture with unknown contrast is still a picture, and span gets the scale from the model itself: use this beside other"
    " measures, never instead of them.",
)


def advise(finding: Finding) -> tuple[Advice, ...]:
    """What would have prevented it, strongest first; after a failure, what to do next and what protects anyway.

    Measures against the inversion of a layer are given where an attack says that it inverted one (``Reconstruction.inverted``).

    Example:
        >>> from unbatch.types import Knowledge, Reconstruction, Schema
        >>> failed = Reconstruction(Status.BUDGET_EXHAUSTED)
        >>> [advice.strength for advice in advise(Finding(failed, Knowledge(), Schema(), (14,), seed=0, seconds=1.0))]
        ['next step', 'guarantee', 'hides']
    """
    status = finding.reconstruction.status
    first = (_NEXT[status],) if status in _NEXT else ()
    inverted = finding.reconstruction.inverted
    if status not in _FOUND or inverted is None:
        return (*first, *GENERAL)
    return (*first, *GENERAL, _larger_batch(finding, inverted.width), _ARCHITECTURE, _NO_BIAS)


_FOUND = (Status.RECONSTRUCTED, Status.PARTIAL, Status.APPROXIMATE, Status.UNPROVEN)


def _larger_batch(finding: Finding, m: int) -> Advice:
    found, n = finding.reconstruction, math.prod(finding.input_shape)
    b = 0 if found.inputs is None else len(found.inputs)
    rank, zeros = f"min({m:,} neurons, {n:,} inputs) = {min(m, n):,}", f"{m // 2:,}, half of the {m:,} neurons,"
    return Advice(
        title="Average over more samples in every update",
        strength="obstacle",
        works=f"This update averages {b or 'a few'} samples. From b = {rank} on, the gradient's rank no longer shows the batch and the"
        f" factorization ends. Already from about {zeros} the information runs out: each sample needs b − 1 neurons that it leaves"
        " off, and leaves off about half of them.",
        costs="Known searches stop well below these limits, but searches get better: do not plan with today's. Samples with neurons of"
        " their own still leak from larger batches. It costs memory, and fewer steps for the same data.",
    )


def for_batches(name: str, rank: int, *, raw: bool) -> Advice:
    """Against the inversion of whole batches from a Linear layer.

    Args:
        name: of the layer.
        rank: the largest batch that the rank of its gradient still shows.
        raw: whether it sees the samples themselves.

    Example:
        >>> for_batches("1", 30, raw=True).title
        'Average at least 31 samples in every update'
    """
    what = "samples" if raw else "features"
    if rank + 1 <= USUAL_BATCH:
        return Advice(
            title=f"Average at least {rank + 1} samples in every update",
            strength="obstacle",
            works=f"From there on the gradient of {name} has full rank, and its factorization no longer shows the batch.",
            costs="Samples that alone turn on some neuron still leak from larger batches, and so do single samples wherever a client has"
            " only one. Another activation is no way out: span needs no zeros.",
        )
    return Advice(
        title=f"Freeze {name}, or let it see no {what}",
        strength="obstacle",
        works=f"A frozen layer sends no gradient. Behind layers that lose information, such as convolutions with pooling, {name} gives away"
        " what they leave, and not what they were fed.",
        costs=f"Another activation is no way out: behind a smooth one there are no zeros to read, and span solves for the {what} without"
        f" them. A batch of {rank + 1:,} or more ends the factorization; leaving out the bias is weak. The model must be retrained.",
    )


def for_single(name: str, *, raw: bool) -> Advice:
    """Against the exact ratio of a Linear layer's two gradients; ``raw`` as for ``for_batches``."""
    return Advice(
        title="Never send the gradient of one sample: let every client average over tens of them",
        strength="obstacle",
        works=f"The ratio of the gradients of weight and bias of {name} is then a mixture and no longer the "
        + ("sample." if raw else "features of the sample."),
        costs="Unmixing attacks (Cocktail Party, ICML 2023) approximate small batches. Leaving out the bias is weak: it hides the scale"
        " only.",
    )


def for_tokens(name: str) -> Advice:
    """Against an embedding whose gradient names the tokens."""
    return Advice(
        title=f"Freeze {name}, or send only the sum over many clients",
        strength="obstacle",
        works="A frozen embedding sends no gradient, and adapters elsewhere train without it. In a sum over clients the rows of"
        f" {name} are the tokens of all of them together. Tying it to the output layer gives every row a gradient, which hides the tokens"
        " behind the sizes of numbers only.",
        costs="Larger batches, more local steps, clipping, Adam and half precision leave the zeros where they are. Noise hides them only"
        " if it is put on every row, zeros included, which DP-SGD does and its sparse variants do not.",
    )


def for_untested(name: str) -> Advice:
    """Where our search does not apply but the algebra may."""
    return Advice(
        title=f"Treat {name} as open, or freeze it",
        strength="obstacle",
        works="A frozen layer sends no gradient, and nothing can be read from it.",
        costs="That our search does not take this layer protects nobody, nor does another activation behind it. One sample alone, unmixing"
        " and optimization stay open.",
    )


def for_labels(restorers: int, bias: bool) -> Advice:
    """Against the label leak of the last layer, which so many restorers read, and which has a bias or not."""
    weak = "Leaving out its bias stops the counts of some restorers only. " if bias else ""
    return Advice(
        title="Freeze the last layer, where the task allows it; else add noise (DP-SGD) or aggregate",
        strength="obstacle",
        works=f"All {restorers} restorers that apply read the gradient of that layer and nothing else.",
        costs=weak
        + "Larger, evener batches and trained networks blur the counts but do not hide them. While the layer is trained, no change of"
        " architecture closes this.",
    )
