"""What a model can leak, before any data: layer by layer, up to which batch size, with which probability, and the cheapest change.

tracing (which layer sees what) ── layers (what can be inverted) ── firing (zeros, counted) ── columns (zeros, tried in batches) ── odds
(how likely) ── limits (batch sizes) ── analysis
"""

from unbatch.exposure.analysis import expose
from unbatch.exposure.findings import Exposure, LabelLeak, LayerExposure, Limits, Neurons, Point, Reach, Restorer

__all__ = ["Exposure", "LabelLeak", "LayerExposure", "Limits", "Neurons", "Point", "Reach", "Restorer", "expose"]
