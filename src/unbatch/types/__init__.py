"""What flows between the parts: the secret batch, what the server sees of it, what an attack makes of that, and the score.

    Batch ── protocol ── Observation ── attack ── Reconstruction ── audit ── Finding

Only protocols, the audit and what comes after it may know a ``Batch``.
"""

from unbatch.schema import Schema
from unbatch.training import LocalTraining
from unbatch.types.batch import Batch
from unbatch.types.counts import Counts
from unbatch.types.finding import Finding, Measure
from unbatch.types.lookup import Lookup
from unbatch.types.membership import Membership, Presence, Verdict
from unbatch.types.observation import HUGE, Knowledge, Observation, largest_number
from unbatch.types.progress import Progress, silent
from unbatch.types.reconstruction import Candidate, Inverted, Reconstruction, Status

__all__ = [
    "HUGE",
    "Batch",
    "Candidate",
    "Counts",
    "Finding",
    "Inverted",
    "Knowledge",
    "LocalTraining",
    "Lookup",
    "Measure",
    "Membership",
    "Observation",
    "Presence",
    "Progress",
    "Reconstruction",
    "Schema",
    "Status",
    "Verdict",
    "largest_number",
    "silent",
]
