"""iDLG: the sign of the last layer's gradient. Zhao, Mopuri, Bilen, "iDLG: Improved Deep Leakage from Gradients", 2020."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator
from torch.nn import functional as F

from unbatch.contracts import Estimate, LabelRestorer
from unbatch.labels._batch_size import check_told, shown
from unbatch.labels._local_training import told
from unbatch.labels._whole import MISTAKEN
from unbatch.last_layer import last_layer, obstacle
from unbatch.types import Observation

__all__ = ["IDLG"]


@dataclass(frozen=True)
class IDLG(LabelRestorer):
    """One sample: the class with the smallest row sum of the gradient. Several: the classes with a negative one, without counts.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 5)).double()
        >>> seen = unbatch.Observation(net, unbatch.capture(net, torch.rand(1, 20).double(), torch.tensor([3])), (20,), batch_size=1)
        >>> IDLG()(seen).counts.tolist()
        [0, 0, 0, 1, 0]
    """

    def unsupported(self, observation: Observation) -> str | None:
        """Not the cross-entropy of a softmax, or features below zero."""
        if (reason := obstacle(observation)) is not None:
            return reason
        return None if last_layer(observation).non_negative else "iDLG reads signs, and the features of the last layer can be negative"

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        layer = last_layer(observation)
        check_told(observation, layer)
        sums, ranges = layer.row_sums, layer.bounds
        if observation.batch_size == 1:
            # One hard label leaves one negative row, whatever the network makes of the sample.
            # So may a batch that was told as one sample: then a layer has to show that it is one.
            single = layer.noise == 0 and int((sums < 0).sum()) == 1 and shown(observation).samples == 1
            sure = MISTAKEN if single else None
            return Estimate(F.one_hot(sums.argmin(), len(sums)).double(), **told(observation), expected_error=sure, ranges=ranges)
        likely = "likely " if layer.noise > 0 else ""
        reason = f"iDLG counts one sample only; of a batch it tells which classes are {likely}there"
        return Estimate(presence=sums < 0, reason=reason, ranges=ranges)
