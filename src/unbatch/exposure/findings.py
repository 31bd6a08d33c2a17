"""What ``expose`` returns: facts layer by layer, plain numbers and sentences, ready for JSON.

A finding is never "safe": where no exact route is known it says so, and why.
"""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field, ValidationError

from unbatch.advice import Advice
from unbatch.errors import BadFile
from unbatch.origin import Origin
from unbatch.records import Record

__all__ = ["FORMAT", "Exposure", "LabelLeak", "LayerExposure", "Limits", "Neurons", "Point", "Reach", "Restorer"]

FORMAT: Final = 2
"""Version of the JSON: raised whenever a reader of the former one would misread it."""

Exact = Literal["samples", "features", "tokens", "untested", "none"]
"""What the gradient of a whole batch gives: the samples, what an inner layer sees of them, unknown because our search does not take the
layer although the algebra may, which tokens there were, or nothing that is known."""

Single = Literal["sample", "features", "none"]
"""What the gradient of one sample alone gives, exactly."""

Sees = Literal["raw input", "raw input, scaled", "raw input, rearranged", "raw input, in part", "features", "nothing"]
"""What a layer is fed."""


class Neurons(Record):
    """How often the neurons of a Linear + ReLU layer are off.

    Attributes:
        inputs: how many inputs it was measured on.
        dead: neurons that fire for none of them: they send nothing.
        always_on: neurons that fire for all of them: they are no zero of anyone.
        switching: all others.
        off: probability that a neuron that is not dead is off for a sample.
        zeros: mean number of such neurons that a sample leaves off.
        spread: its standard deviation over samples.
    """

    inputs: int
    dead: int
    always_on: int
    switching: int
    off: float
    zeros: float
    spread: float


class Point(Record):
    """One batch size: the probability that all samples are determined, and the share of samples that are."""

    batch: int
    all_determined: float
    share_determined: float


class Limits(Record):
    """Up to which batch size a layer can be inverted; see ``docs/exposure.md``.

    Attributes:
        rank: the rank of the gradient shows the batch: min(neurons that fire, inputs) − 1.
        information: a typical (median) sample is given by the b − 1 neurons and more that it leaves off.
        sure: all samples are, with a probability of at least 99 %.
        searched: our own search has been measured to get there at this width, or is expected to by interpolation.
        extrapolated: whether ``searched`` lies beyond the widths that were measured.
        rank_checks: how many samples were sought by the rank of their zeros in batches of ``sure``; 0 where that was too costly.
        curve: the probabilities at a few batch sizes.
        remark: why ``sure`` is less than the zeros alone allow, or that these were only counted; else empty.
    """

    rank: int
    information: int
    sure: int
    searched: int
    extrapolated: bool
    rank_checks: int
    curve: tuple[Point, ...]
    remark: str = ""


class Reach(Record):
    """Up to which batch size ``span`` solves for the samples of a layer, whatever activation follows; see ``docs/span.md``.

    Attributes:
        counted: the update gives more equations than each sample has unknowns, and the rank shows the batch.
        searched: our own search has been measured to get there at this width, or is expected to by interpolation; no further than where
            99 of 100 batches leave a trace of every sample.
        extrapolated: whether ``searched`` lies beyond what was measured.
    """

    counted: int
    searched: int
    extrapolated: bool


class LayerExposure(Record):
    """One module with parameters of its own.

    Attributes:
        name: its path in the model, or "(model)".
        kind: its class.
        parameters: how many numbers it has.
        trained: whether the update holds a gradient of any of them.
        sees: what it is fed.
        inputs: n, of a Linear layer.
        neurons: m, of a Linear layer.
        times: how often it is applied to one sample.
        activation: what follows it, of a Linear layer.
        exact: what inverting a whole batch gives.
        single: what the gradient of one sample gives.
        why: one phrase on why ``exact`` is no more than it is; empty where it is samples.
        firing: how often its neurons are off, where that matters.
        limits: up to which batch size, where it can be inverted by its zeros.
        reach: up to which batch size, where it can be solved for without zeros.
        remedy: the cheapest change that closes it, where it is open.
    """

    name: str
    kind: str
    parameters: int
    trained: bool
    sees: Sees
    inputs: int | None = None
    neurons: int | None = None
    times: int | None = None
    activation: str | None = None
    exact: Exact = "none"
    single: Single = "none"
    why: str = ""
    firing: Neurons | None = None
    limits: Limits | None = None
    reach: Reach | None = None
    remedy: Advice | None = None

    @property
    def largest(self) -> int:
        """The largest batch that is told to be inverted from it: with a probability of 99 % by zeros, or as far as the search reaches."""
        return max(0 if self.limits is None else self.limits.sure, 0 if self.reach is None else self.reach.searched)


class Restorer(Record):
    """Whether one label restorer applies, and why not."""

    name: str
    applies: bool
    reason: str = ""


class LabelLeak(Record):
    """What the gradient of the last layer tells of the labels.

    Attributes:
        layer: name of the last layer's weight, or None where there is none.
        classes: how many classes the model scores, or None where its output is no row of scores.
        bias: whether the update holds the gradient of that layer's bias, which gives counts.
        restorers: every label restorer there is.
        remedy: the cheapest change, where any applies.
    """

    layer: str | None = None
    classes: int | None = None
    bias: bool = False
    restorers: tuple[Restorer, ...] = ()
    remedy: Advice | None = None

    @property
    def leaks(self) -> bool:
        """Whether any restorer applies."""
        return any(restorer.applies for restorer in self.restorers)


class Exposure(Record):
    """What a model gives away of its clients' data under FedSGD, before any data.

    Attributes:
        format: version of the JSON.
        model: its class.
        input_shape: of one sample.
        mode: train or eval, as the model was given.
        measured_on: what the neurons were measured on.
        verdict: the one sentence that a reader takes away.
        layers: every module with parameters, in the model's order.
        labels: the last layer's leak.
        notes: what a reader must know besides.
        environment: versions and machine, where they were recorded.
        origin: date, files, command and next steps; None where nobody told.
    """

    format: Literal[2] = FORMAT
    model: str
    input_shape: tuple[int, ...]
    mode: Literal["eval", "train"]
    measured_on: str
    verdict: str
    layers: tuple[LayerExposure, ...]
    labels: LabelLeak
    notes: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    origin: Origin | None = None

    @property
    def worst(self) -> LayerExposure | None:
        """The layer that gives most: samples before features, large batches before small ones; None where nothing exact is known."""
        order = [layer for layer in self.layers if layer.exact in ("samples", "features")]
        return max(order, key=lambda layer: (layer.exact == "samples", layer.largest), default=None)

    def to_json(self) -> str:
        """The whole finding as JSON, which ``from_json`` reads."""
        return self.model_dump_json(indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Exposure:
        """Read what ``to_json`` wrote.

        Raises:
            BadFile: it is something else, or of another version.

        Example:
            >>> Exposure.from_json("[]")
            Traceback (most recent call last):
            unbatch.errors.BadFile: expected an exposure in JSON of version 2, ...
        """
        try:
            return Exposure.model_validate(json.loads(text), strict=False)
        except (ValueError, ValidationError, RecursionError) as error:
            came = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise BadFile(f"an exposure in JSON of version {FORMAT}", came, "give the file that `unbatch exposure --out` wrote") from error
