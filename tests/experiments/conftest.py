"""A plan of small, quick trials: pictures of 4 × 4 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PLAN = """
name = "small"
datasets = "npz:$SMALL_DATA/small.npz"
models = ["mlp:width=30,depth=2"]
attacks = ["one_sample"]
restorers = ["ilrg"]
batch_sizes = [1, 2]
told = "batch_size"
seeds = 3
pictures = 2

[reduced]
seeds = 1
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``small(old=new, ...)`` -> path of the plan, with lines of it replaced."""
    random = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    np.savez(data / "small.npz", images=random.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8), labels=np.arange(40) % 4)
    monkeypatch.setenv("SMALL_DATA", str(data))

    def write(replaced: dict[str, str] | None = None, *, more: str = "") -> Path:
        text = PLAN
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "plan.toml"
        path.write_text(text + more)
        return path

    return write
