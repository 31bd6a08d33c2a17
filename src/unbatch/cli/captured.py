"""What every command must be told that reads a captured update: the model, what was sent, and how the client trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from unbatch.cli import shared
from unbatch.cli.shared import InputShape, Loss, Model, Weights
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.importers import Kind
    from unbatch.types import LocalTraining, Observation

__all__ = ["Captured", "Mean", "Std", "TrainMode"]

TRAINING = "How the client trained"
"""Heading of these options in the help."""

UpdateIs = Annotated[
    str, typer.Option(help="gradient: the batch's mean gradient; difference: weights after less before; weights: those after.")
]
LearningRate = Annotated[
    float | None, typer.Option(help="Of local SGD, for a difference or weights, if the server knows it.", rich_help_panel=TRAINING)
]
LocalEpochs = Annotated[int | None, typer.Option(help="Of local training; 1 if not given.", rich_help_panel=TRAINING)]
MiniBatch = Annotated[int | None, typer.Option(help="Samples of a local step; all of them if not given.", rich_help_panel=TRAINING)]
Momentum = Annotated[float | None, typer.Option(help="Of local SGD; 0 if not given.", rich_help_panel=TRAINING)]
Nesterov = Annotated[bool, typer.Option("--nesterov", help="The momentum is Nesterov's.", rich_help_panel=TRAINING)]
WeightDecay = Annotated[
    float | None,
    typer.Option(help="λ of the client's weight decay, which is taken out; looked for if not given.", rich_help_panel=TRAINING),
]
Optimizer = Annotated[
    str,
    typer.Option(help="sgd; or adam or adamw, of which the first step can be read where rounding lets it.", rich_help_panel=TRAINING),
]
ClipNorm = Annotated[
    float | None,
    typer.Option(
        help="Norm to which the client clips its gradient before each step; a usual one is recognized if not given.",
        rich_help_panel=TRAINING,
    ),
]
UnknownFactor = Annotated[
    bool, typer.Option("--unknown-factor", help="The update was clipped, or scaled by a positive number that is not known.")
]
RestFrozen = Annotated[
    bool, typer.Option("--rest-frozen", help="Parameters that the update lacks, or that did not move, were not trained.")
]
Mean = Annotated[str, typer.Option(help="Mean of each channel that the client subtracted: 0.49,0.48,0.45.")]
Std = Annotated[str, typer.Option(help="Standard deviation of each channel that it divided by.")]
TrainMode = Annotated[bool, typer.Option("--train-mode", help="The client ran the model in train mode.")]


@dataclass(frozen=True)
class Captured:
    """Options, see their help.

    The model is run as code; weights and update are read as data.
    """

    model: Model
    weights: Weights
    input_shape: InputShape
    update_is: UpdateIs = "gradient"
    learning_rate: LearningRate = None
    local_epochs: LocalEpochs = None
    mini_batch: MiniBatch = None
    momentum: Momentum = None
    nesterov: Nesterov = False
    weight_decay: WeightDecay = None
    optimizer: Optimizer = "sgd"
    clip_norm: ClipNorm = None
    unknown_factor: UnknownFactor = False
    rest_frozen: RestFrozen = False
    loss: Loss = "cross_entropy"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return shared.numbers(self.input_shape, int, "an input shape like 3,32,32")

    def observation(self, update: Path, *, train_mode: bool = False, **known: Any) -> Observation:
        """What the server saw.

        Args:
            update: what the client sent.
            train_mode: whether the client ran the model in train mode.
            known: what else the server knows, see ``importers.load_observation``.

        Raises:
            Misuse: options that contradict each other.
            BadFile, BadUpdate: see ``importers.load_observation``.
        """
        from unbatch import importers

        training = self._training()
        if self.optimizer not in get_args(importers.Optimizer):
            raise Misuse(f"--optimizer {', '.join(get_args(importers.Optimizer))}", repr(self.optimizer), "name one of them")
        victim = importers.load_weights(importers.load_model(self.model), self.weights, rest_given=self.rest_frozen)
        return importers.load_observation(
            victim.train(train_mode),
            update,
            self.shape,
            kind=cast("Kind", self.update_is),
            training=training,
            optimizer=cast("importers.Optimizer", self.optimizer),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            rest_frozen=self.rest_frozen,
            factor_known=not self.unknown_factor,
            loss=importers.load_loss(self.loss),
            **known,
        )

    def _training(self) -> LocalTraining | None:
        """A gradient comes from no training."""
        from unbatch.types import LocalTraining

        epochs, rate = self.local_epochs, self.learning_rate
        told = {"--learning-rate": rate, "--local-epochs": epochs, "--mini-batch": self.mini_batch, "--momentum": self.momentum}
        given = [name for name, value in told.items() if value is not None] + ["--nesterov"] * self.nesterov
        if self.update_is == "gradient":
            if given:
                do = "say what the update is, or leave it out"
                raise Misuse(f"--update-is difference or weights with {given[0]}", "a gradient", do)
            return None
        training = LocalTraining(epochs if epochs is not None else 1, self.mini_batch, rate, self.momentum or 0.0)
        return replace(training, nesterov=True) if self.nesterov else training
