"""Findings built by hand: no attack is needed to test what is shown."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unbatch import store
from unbatch.types import Batch, Counts, Finding, Knowledge, Measure, Reconstruction, Schema, Status


def make(
    status: Status = Status.RECONSTRUCTED,
    shape: tuple[int, ...] = (3, 8, 8),
    *,
    size: int = 4,
    found: int | None = None,
    beside: int = 0,
    truth: bool = True,
    text: str = "",
    normalized: bool = True,
) -> Finding:
    """``found`` of ``size`` samples were recovered (all of them if None, 0 for none), the last ``beside`` of them without a proof; ``text``
    goes wherever strangers can write.
    """
    found = size if found is None else found
    proved = found - beside
    image = len(shape) == 3
    schema = Schema("image", (0.5,), (0.25,), (f"cat{text}", "dog")) if image and normalized else Schema.guess(shape)
    raw = torch.rand((size, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = Batch(schema.to_network(raw), torch.arange(size) % 2, schema)
    reconstruction = Reconstruction(
        status,
        batch.inputs[:proved] + 1e-9 if found else None,
        batch.labels[:proved] if found else None,
        1e-14 if found else None,
        f"a reason{text}" if text or status is not Status.RECONSTRUCTED else "",
        {"layer": f"1.weight{text}", "rank": size, "subsets": 131072, "gap": 3.1e9, f"other_thing{text}": [1, 2.5], "seconds": 2.0},
        f"spear:seconds=60.0{text}",
        approximate=batch.inputs[proved:found] + 1e-9 if beside else None,
    )
    there = [i < found for i in range(size)]
    scored = {
        "order": tuple(i if here else -1 for i, here in enumerate(there)),
        "scores": {
            "lpips": (math.nan,) * size,
            "psnr": tuple((math.inf if i == 0 else 150.25) if here else math.nan for i, here in enumerate(there)),
            "mse": tuple(2.5e-19 if here else math.nan for here in there),
        },
        "measures": {"psnr": Measure("PSNR", "dB"), "mse": Measure("MSE"), "lpips": Measure("LPIPS")},
        "notes": {"lpips": f"images under 32 × 32{text}"},
        "exact": tuple(there),
        "labels_right": tuple(i < proved for i in range(size)),
    }
    counts = torch.bincount(batch.labels, minlength=2)
    restored = Counts(
        counts, counts > 0, f"a remark on counts{text}", None, {}, f"anchored{text}", size, determined=True, expected_error=0.04
    )
    return Finding(
        reconstruction,
        Knowledge(remarks=(f"a remark{text}",) if text else ()),
        schema,
        shape,
        seed=3,
        seconds=75.0,
        truth=batch if truth else None,
        counts=restored if found else None,
        environment={f"torch{text}": f"2.13{text}"},
        **(scored if truth and found else {}),
    )


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., store.StoredFinding]:
    """``stored(status, shape, ...)`` -> what a report reads; its folder is ``tmp_path``."""

    def build(*args: object, **kwargs: object) -> store.StoredFinding:
        store.save(make(*args, **kwargs), tmp_path)  # type: ignore[arg-type]
        return store.load(tmp_path)[0]

    return build
