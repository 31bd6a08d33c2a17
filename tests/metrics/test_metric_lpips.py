"""LPIPS against torchmetrics, whose AlexNet is put together here from torch.nn because torchvision is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as torchmetrics_lpips
from safetensors.torch import load_file, save_file
from torch import nn

from unbatch.errors import BadFile
from unbatch.metrics import lpips
from unbatch.metrics.lpips import VARIABLE, Lpips
from unbatch.plugins import build


@pytest.fixture
def weights(shared_weights: Callable[[str], Path]) -> Path:
    return shared_weights("lpips_alexnet_v0.1.safetensors")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def fake_weights(folder: Path, **changes: torch.Tensor | None) -> str:
    """A file with the right names and shapes, and little in it."""
    tensors = {name: torch.zeros(shape) for name, shape in lpips._shapes().items()}
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None}
    gone = {name.replace("__", ".") for name, tensor in changes.items() if tensor is None}
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, folder / "fake.safetensors")
    return str(folder / "fake.safetensors")


def alexnet(weights: Path) -> nn.Sequential:
    """torchvision's ``alexnet().features``, layer by layer."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    tensors = load_file(weights)
    for index, layer in enumerate(layer for layer in features if isinstance(layer, nn.Conv2d)):
        layer.load_state_dict({part: tensors[f"features.{index}.{part}"] for part in ("weight", "bias")})
    return features


def pictures(size: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand((3, channels, size, size), generator=generator, dtype=torch.float64)
    noise = torch.tensor([0.0, 0.05, 0.4], dtype=torch.float64).view(-1, 1, 1, 1)
    return truth, (truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


@pytest.mark.parametrize("size", [32, 50, 64])
def test_it_is_torchmetrics_with_the_heads_that_torchmetrics_ships(weights: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: alexnet(weights))
    oracle = torchmetrics_lpips._LPIPS(net="alex").double()
    truth, guess = pictures(size)
    expected = oracle(truth, guess, normalize=True).flatten()
    assert expected[2] > expected[1] > 0
    # torchmetrics guards its division with 1e-8 under the root, the original and we with 1e-10 beside it.
    torch.testing.assert_close(Lpips(str(weights))(truth, guess, 1.0), expected, rtol=1e-5, atol=1e-8)


def test_the_file_holds_the_heads_of_torchmetrics(weights: Path) -> None:
    folder = Path(torchmetrics_lpips.__file__).parent / "lpips_models"
    heads = torch.load(folder / "alex.pth", map_location="cpu", weights_only=True)
    tensors = load_file(weights)
    for index in range(5):
        assert torch.equal(tensors[f"lin.{index}.weight"], heads[f"lin{index}.model.1.weight"])


def test_grey_is_color_with_equal_channels(weights: Path) -> None:
    truth, guess = pictures(32, channels=1)
    metric = Lpips(str(weights))
    torch.testing.assert_close(metric(truth, guess, 1.0), metric(truth.expand(-1, 3, -1, -1), guess.expand(-1, 3, -1, -1), 1.0))


def test_chunks_do_not_change_values(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, guess = pictures(40)
    whole = Lpips(str(weights))(truth, guess, 1.0)
    monkeypatch.setattr(lpips, "CHUNK", 1)
    torch.testing.assert_close(Lpips(str(weights))(truth, guess, 1.0), whole)


def test_the_file_comes_from_the_field_or_else_from_the_environment(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, guess = pictures(32)
    named = build("metrics", f"lpips:{weights}")
    assert named == Lpips(str(weights))
    expected = named(truth, guess, 1.0)
    monkeypatch.setenv(VARIABLE, str(weights))
    assert Lpips().undefined((3, 32, 32)) is None
    torch.testing.assert_close(Lpips()(truth, guess, 1.0), expected, rtol=0, atol=0)
    monkeypatch.setenv(VARIABLE, "nothing here")
    torch.testing.assert_close(named(truth, guess, 1.0), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("no_weights")
def test_without_weights_it_has_no_value_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in ("unset", "empty"):
        if unset == "empty":
            monkeypatch.setenv(VARIABLE, "")
        assert Lpips().undefined((3, 32, 32)) == "no weights were given: name their file in UNBATCH_LPIPS_WEIGHTS or as lpips:FILE"
        assert Lpips()(*pictures(32), 1.0).isnan().all()


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 28, 28), "pictures of 28 x 28 pixels are below 32 x 32"),
        ((3, 64, 31), "pictures of 64 x 31 pixels are below 32 x 32"),
        ((14,), "samples of shape (14,) are not pictures (C, H, W)"),
        ((4, 32, 32), "pictures of 4 channels are neither grey nor color"),
    ],
)
def test_it_says_which_samples_it_has_no_value_for(tmp_path: Path, shape: tuple[int, ...], reason: str) -> None:
    metric = Lpips(fake_weights(tmp_path))
    assert metric.undefined(shape) == reason
    assert metric(torch.zeros(2, *shape), torch.ones(2, *shape), 1.0).isnan().all()


@pytest.mark.usefixtures("no_weights")
def test_a_bad_file_is_refused_when_the_metric_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("nothing")
    (tmp_path / "cut").write_bytes(Path(fake_weights(tmp_path)).read_bytes()[:1000])
    for name, sentence in (("none", "nothing that can be read"), ("text", "damaged or other data"), ("cut", "damaged or other data")):
        with pytest.raises(BadFile, match=f"expected a safetensors file with LPIPS weights, got {sentence}"):
            Lpips(str(tmp_path / name))
        monkeypatch.setenv(VARIABLE, str(tmp_path / name))
        with pytest.raises(BadFile, match=sentence):
            Lpips()
        monkeypatch.delenv(VARIABLE)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"'lin\.2\.weight' of shape \(1, 384, 1, 1\), got none in"):
        Lpips(fake_weights(tmp_path, lin__2__weight=None))
    with pytest.raises(BadFile, match=r"'features\.0\.weight' of shape \(64, 3, 11, 11\), got \(64, 3, 3, 3\) in"):
        Lpips(fake_weights(tmp_path, features__0__weight=torch.zeros(64, 3, 3, 3)))
