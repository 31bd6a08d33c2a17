"""What a model can leak, before any data: layer by layer, up to which batch size, with which probability, and the cheapest change.

survey (which layer sees what) ── judging ── firing (zeros, measured) ── limits ── Exposure
"""

from unbatch.exposure.exposing import expose
from unbatch.exposure.findings import Exposure, LabelLeak, LayerExposure, Limits, Neurons, Point, Restorer

__all__ = ["Exposure", "LabelLeak", "LayerExposure", "Limits", "Neurons", "Point", "Restorer", "expose"]
