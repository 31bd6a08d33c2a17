"""From files of a real round to an observation: the model's code, its weights, and the update that a client sent.

Weights and updates are data and are read as data: nothing in them can run. The model is code: ``load_model`` runs the file that it is
given, so give it only a file that you would run yourself.
"""

from unbatch.importers.files import read_tensors
from unbatch.importers.models import load_loss, load_model, load_weights
from unbatch.importers.optimizers import EVEN_SIZES
from unbatch.importers.schemas import read_schema
from unbatch.importers.truth import read_labels, read_records, read_truth
from unbatch.importers.updates import Kind, Optimizer, load_observation

__all__ = [
    "EVEN_SIZES",
    "Kind",
    "Optimizer",
    "load_loss",
    "load_model",
    "load_observation",
    "load_weights",
    "read_labels",
    "read_records",
    "read_schema",
    "read_tensors",
    "read_truth",
]
