"""What the project promises, on real pictures: every image exact, every label right, through the API and through files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from unbatch.auditing import audit, invert
from unbatch.cli import execute
from unbatch.contracts import Dataset
from unbatch.models.mlp import Mlp
from unbatch.plugins import build
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch, Observation, Status

Shared = Callable[[str], Path]


def cifar10(shared_data: Shared) -> Dataset:
    return build("datasets", f"npz:{shared_data('cifar10_test.npz')}")


def imagenet(shared_data: Shared) -> Dataset:
    return build("datasets", f"npz:{shared_data('imagenet_256.npz')},size=224")


def client(data: Dataset, size: int, seed: int, width: int = 200) -> tuple[Observation, Batch]:
    batch = data.batch(size, seed)
    model = Mlp(width).build(data.input_shape, len(data.schema.classes), seed).double()
    return FedSgd().observe(model, batch), batch


@pytest.mark.parametrize("seed", range(10))
def test_cifar10_batches_of_16(shared_data: Shared, seed: int) -> None:
    observation, batch = client(cifar10(shared_data), 16, seed)
    finding = audit(observation, batch, seed=seed)
    assert finding.reconstruction.status is Status.RECONSTRUCTED
    assert min(finding.scores["psnr"]) > 100
    assert all(finding.labels_right)
    assert all(finding.exact)


@pytest.mark.parametrize("seed", range(2))
def test_imagenet_batches_of_8(shared_data: Shared, seed: int) -> None:
    observation, batch = client(imagenet(shared_data), 8, seed)
    finding = audit(observation, batch, seed=seed)
    assert finding.reconstruction.status is Status.RECONSTRUCTED
    assert min(finding.scores["psnr"]) > 100
    assert all(finding.labels_right)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_imagenet_batches_of_8_ten_times(shared_data: Shared, seed: int) -> None:
    test_imagenet_batches_of_8(shared_data, seed)


@pytest.mark.parametrize(("width", "size"), [(200, 40), (400, 80)])
def test_far_beyond_sampling(shared_data: Shared, width: int, size: int) -> None:
    observation, _ = client(cifar10(shared_data), size, 1, width)
    assert invert(observation).status is Status.RECONSTRUCTED


def test_one_hundred_samples_at_width_one_thousand(shared_data: Shared) -> None:
    observation, _ = client(cifar10(shared_data), 100, 0, 1000)
    assert invert(observation).status is Status.RECONSTRUCTED


FACTORY = """
from torch import nn

def build():
    sizes = [3072, 200, 200, 200, 200, 200, 10]
    layers = [nn.Flatten()]
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
"""


def test_the_same_through_files_and_the_command_line(shared_data: Shared, tmp_path: Path) -> None:
    data = cifar10(shared_data)
    observation, batch = client(data, 16, 3)
    (tmp_path / "model.py").write_text(FACTORY)
    save_file({name: tensor.contiguous() for name, tensor in observation.model.state_dict().items()}, tmp_path / "w.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in observation.update.items()}, tmp_path / "u.safetensors")
    np.savez(tmp_path / "truth.npz", inputs=batch.inputs.numpy(), labels=batch.labels.numpy())
    arguments = ["audit", "--model", f"{tmp_path / 'model.py'}:build", "--weights", str(tmp_path / "w.safetensors")]
    arguments += ["--update", str(tmp_path / "u.safetensors"), "--input-shape", "3,32,32", "--truth", str(tmp_path / "truth.npz")]
    assert execute([*arguments, "--out", str(tmp_path / "report"), "--quiet"]) == 0
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert stored["status"] == "RECONSTRUCTED"
    assert stored["labels_right"] == [True] * 16
    assert stored["exact"] == [True] * 16
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
