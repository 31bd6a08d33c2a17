"""What a model can leak, before any data: layer by layer, up to which batch size, with which probability, and the cheapest change.

survey (which layer sees what) ── judging ── firing (zeros, measured) ── limits ── remedies ── Exposure
"""

from unbatch.exposure.exposing import expose
from unbatch.exposure.findings import Exposure, LabelLeak, LayerExposure, Limits, Neurons, Point, Remedy, Restorer
from unbatch.exposure.remedies import GENERAL

__all__ = ["GENERAL", "Exposure", "LabelLeak", "LayerExposure", "Limits", "Neurons", "Point", "Remedy", "Restorer", "expose"]
