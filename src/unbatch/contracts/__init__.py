"""What a plug-in must be: an abstract class a kind, each with as little to implement as possible.

A plug-in is a frozen dataclass: its fields are its settings, and their defaults stand there and nowhere else. Final methods of the
base classes trust nothing that a plug-in returns.
"""

from unbatch.contracts.attack import Attack, Polisher
from unbatch.contracts.dataset import Dataset
from unbatch.contracts.defense import Defense, Stage
from unbatch.contracts.labels import NEEDS_BATCH_SIZE, Estimate, LabelRestorer
from unbatch.contracts.metric import Metric
from unbatch.contracts.model import Model
from unbatch.contracts.needs import Needs, Yield
from unbatch.contracts.plugin import Plugin
from unbatch.contracts.protocol import Protocol

__all__ = [
    "NEEDS_BATCH_SIZE",
    "Attack",
    "Dataset",
    "Defense",
    "Estimate",
    "LabelRestorer",
    "Metric",
    "Model",
    "Needs",
    "Plugin",
    "Polisher",
    "Protocol",
    "Stage",
    "Yield",
]
