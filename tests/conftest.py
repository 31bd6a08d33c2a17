"""What all tests share: jaxtyping's shapes checked by beartype, and the real data that lies beside the repository.

The import hook has to come before the first import of unbatch, so it stands here, above everything.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("unbatch", "shapes.checked")

# The tests run one process a core: more threads than that wait for each other, a hundred times longer than they work.
torch.set_num_threads(1)

# A red run must be the change's fault: the same examples every time, however slow the machine is.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test starts from the same global randomness: a network built without a seed is the same in every run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global one, that a model's author may use)
    torch.manual_seed(0)


def _shared(*parts: str) -> Path:
    """A file of the folder that holds ``data/`` and ``weights/``: $UNBATCH_SHARED, else ``shared`` beside the repository."""
    root = Path(os.environ.get("UNBATCH_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}: set UNBATCH_SHARED to the folder that holds data/ and weights/")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("cifar10_test.npz")`` -> its path; skips the test where the file is not there."""
    return lambda name: _shared("data", name)


@pytest.fixture(scope="session")
def shared_weights() -> Callable[[str], Path]:
    """``shared_weights("lpips_alexnet_v0.1.safetensors")`` -> its path; skips the test where the file is not there."""
    return lambda name: _shared("weights", name)
