"""FedAvg: a client trains on its data and sends the difference of its weights.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from unbatch import seeds
from unbatch.contracts import Defense, Protocol, Stage
from unbatch.errors import Misuse
from unbatch.protocols._client import check, defend, fed, following, remarks, rescaled
from unbatch.training import LocalTraining, shuffled, train
from unbatch.types import Batch, Observation

__all__ = ["FedAvg"]


@dataclass(frozen=True)
class FedAvg(Protocol):
    """Local SGD from the broadcast weights, shuffled anew in every epoch. The server sees the difference and the number of samples.

    What it sees is the average of the gradients at the weights that the client went through. A neuron leaves a zero in a sample's
    column only where it was off in every step that the sample took part in.

    Attributes:
        epochs: E, passes over the client's data.
        batch_size: samples of a step; 0 for all of them.
        learning_rate: of SGD.
        momentum: of SGD.
        weight_decay: of SGD.
        nesterov: whether the momentum is Nesterov's.
        rate_known: whether the server is told the learning rate.
    """

    epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    rate_known: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.batch_size < 0:
            raise Misuse("a batch size of local steps from 0 (all samples)", str(self.batch_size), "raise it")
        _ = self.local

    @property
    def hidden(self) -> frozenset[str]:
        """The learning rate, where the server is not told it."""
        return frozenset() if self.rate_known else frozenset({"learning_rate"})

    @property
    def local(self) -> LocalTraining:
        """The same as the client's training."""
        return LocalTraining(self.epochs, self.batch_size or None, self.learning_rate, self.momentum, self.weight_decay, self.nesterov)

    def observe(
        self, model: nn.Module, batch: Batch, loss: str = "cross_entropy", defenses: Sequence[Defense] = (), seed: int = 0
    ) -> Observation:
        """See ``Protocol.observe``."""
        generator = seeds.generator(seed, "defense", batch.inputs.device)
        inputs, count = fed(model, batch), len(batch)
        check(model, inputs, defenses)
        order = shuffled(self.epochs, count, seeds.generator(seed, "protocol", batch.inputs.device))

        def gradient(moving: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return following(moving, x, y, loss, defenses, generator)

        moved = train(model, inputs, batch.labels, self.local, order, loss, gradient)
        moved = defend(Stage.SERVER, defenses, defend(Stage.CLIENT, defenses, moved, generator), generator)
        told = self.local if self.rate_known else replace(self.local, learning_rate=None)
        # The server knows the weights that it sent: what they lost by decay, told or estimated, is taken out.
        lost = self.local.decayed(count) or 0.0
        before = dict(model.named_parameters())
        moved = {name: tensor - lost * before[name].detach() if lost else tensor for name, tensor in moved.items()}
        factor = told.factor(count)
        return Observation(
            model,
            {name: tensor / (factor or 1.0) for name, tensor in moved.items()},
            tuple(batch.inputs.shape[1:]),
            loss,
            batch_size=count,
            protocol=self.told,
            schema=batch.schema,
            remarks=remarks(defenses),
            training=told,
            factor_known=self.rate_known and not rescaled(defenses),
        )
