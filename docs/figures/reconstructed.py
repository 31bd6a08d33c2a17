"""Draw the README's picture: the demo's batch above what was reconstructed from its update. Run: python docs/figures/reconstructed.py."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unbatch import audit, plugins, seeds

COUNT, ZOOM, GAP = 8, 4, 6


def row(samples: torch.Tensor, low: float, high: float) -> np.ndarray:
    """Pictures side by side, as grey values, with a gap around each."""
    grey = ((samples[:, 0] - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    framed = [np.pad(np.kron(picture, np.ones((ZOOM, ZOOM), np.uint8)), GAP, constant_values=255) for picture in grey]
    return np.concatenate(framed, axis=1)


def drawn() -> Image.Image:
    """The first samples of the demo's batch, and below each the reconstruction that the audit matched to it."""
    data = plugins.build("datasets", "faces")
    batch = data.batch(16, seeds.derive(0, "data"))
    model = plugins.build("models", "mlp").build(data.input_shape, 100, seeds.derive(0, "weights")).double()
    finding = audit(plugins.build("protocols", "fedsgd").observe(model, batch), batch)
    found = finding.reconstruction.inputs
    if found is None:
        raise SystemExit(f"nothing was reconstructed: {finding.reconstruction.reason}")
    low, high = float(batch.inputs.min()), float(batch.inputs.max())
    chosen = torch.tensor(finding.order[:COUNT])
    return Image.fromarray(np.concatenate([row(batch.inputs[:COUNT], low, high), row(found[chosen], low, high)]))


if __name__ == "__main__":
    drawn().save(Path(__file__).with_suffix(".png"), optimize=True)
