"""Data sets in .npz files: what is read, what is cut, and every way in which a file can be bad."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unbatch.datasets.npz import Npz
from unbatch.errors import BadFile, Misuse
from unbatch.plugins import build

GREY = np.arange(5 * 6 * 8, dtype=np.uint8).reshape(5, 6, 8)
COLOR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
LABELS = np.array([3, 0, 2, 0, 1])


def write(folder: Path, **arrays: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **{"images": GREY, "labels": LABELS, **arrays})
    return str(path)


def raw(dataset: Npz) -> np.ndarray:
    return dataset.schema.to_raw(dataset.take(torch.arange(len(dataset))).inputs).numpy() * 255


@pytest.mark.parametrize(("images", "channels"), [(GREY, GREY[:, None]), (COLOR, COLOR.transpose(0, 3, 1, 2))])
def test_pictures_and_labels_are_those_of_the_file(tmp_path: Path, images: np.ndarray, channels: np.ndarray) -> None:
    dataset = Npz(write(tmp_path, images=images))
    assert dataset.input_shape == channels.shape[1:]
    np.testing.assert_allclose(raw(dataset), channels, atol=1e-10)
    assert dataset.take(torch.arange(5)).labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("images", [GREY, COLOR])
def test_the_square_comes_from_the_middle(tmp_path: Path, images: np.ndarray) -> None:
    cut, whole = Npz(write(tmp_path, images=images), size=4), Npz(write(tmp_path, images=images))
    np.testing.assert_allclose(raw(cut), raw(whole)[:, :, 1:5, 2:6], atol=1e-10)


def test_the_square_of_a_256_picture_is_the_one_of_the_data_notes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256), dtype=np.uint8)
    np.testing.assert_allclose(
        raw(Npz(write(tmp_path, images=images, labels=LABELS[:2]), 224))[:, 0], images[:, 16:240, 16:240], atol=1e-10
    )


def test_the_specification_sets_path_and_size(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert build("datasets", f"npz:{path},size=4") == Npz(path, 4)
    assert build("datasets", Npz(path, 4).spec) == Npz(path, 4)


def test_classes_are_named_by_the_file_or_by_number(tmp_path: Path) -> None:
    assert Npz(write(tmp_path, classes=np.array(["a", "b", "c", "d", "e"]))).schema.classes == ("a", "b", "c", "d", "e")
    assert Npz(write(tmp_path)).schema.classes == ("0", "1", "2", "3")


def test_pictures_without_a_class_get_one(tmp_path: Path) -> None:
    dataset = Npz(write(tmp_path, labels=np.array([1, -1, -1, 0, -1])))
    assert dataset.take(torch.arange(5)).labels.tolist() == [1, 1, 0, 0, 0]
    assert len(Npz(write(tmp_path, labels=np.full(5, -1))).schema.classes) == 1


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert Npz(path).batch(1).labels.item() in LABELS
    os.utime(write(tmp_path, images=255 - GREY, labels=LABELS + 10), ns=(1, 1))
    assert Npz(path).take(torch.tensor([0])).labels.item() == 13


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "images of floats": ({"images": GREY / 255}, "expected images of type uint8 .* got float64"),
    "images of one pixel row": ({"images": GREY[:, 0]}, r"expected images .* got uint8 of shape \(5, 8\)"),
    "images with alpha": ({"images": np.zeros((5, 6, 8, 4), np.uint8)}, r"expected images .* got uint8 of shape \(5, 6, 8, 4\)"),
    "no image": ({"images": GREY[:0], "labels": LABELS[:0]}, r"expected images .* got uint8 of shape \(0, 6, 8\)"),
    "labels of floats": ({"labels": LABELS * 1.0}, r"expected labels of type int64 .* got float64 of shape \(5,\)"),
    "too few labels": ({"labels": LABELS[:4]}, r"expected labels of type int64 and shape \(5,\) .* got int64 of shape \(4,\)"),
    "labels in a row": ({"labels": LABELS[:, None]}, r"got int64 of shape \(5, 1\)"),
    "negative labels": ({"labels": LABELS - 2}, "expected labels from 0, or -1 for no class, .* got -2"),
    "too few classes": ({"classes": np.array(["a", "b", "c"])}, "expected a list of at least 4 names"),
    "classes in a table": ({"classes": np.array([["a", "b", "c", "d"]])}, "expected a list of at least 4 names"),
    "pickled images": ({"images": np.array([object(), "x"], dtype=object)}, "expected arrays of numbers, got .* could run code"),
    "pickled classes": ({"classes": np.array(["a", 1, 2, None], dtype=object)}, "expected arrays of numbers, got .* could run code"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_with_other_arrays_is_refused(tmp_path: Path, case: str) -> None:
    arrays, sentence = BAD[case]
    with pytest.raises(BadFile, match=sentence):
        Npz(write(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("missing", "sentence"), [("images", "an array named 'images' .* got none"), ("labels", "expected labels .* got none")]
)
def test_both_arrays_are_needed(tmp_path: Path, missing: str, sentence: str) -> None:
    np.savez(tmp_path / "half.npz", **{name: array for name, array in (("images", GREY), ("labels", LABELS)) if name != missing})
    with pytest.raises(BadFile, match=sentence):
        Npz(str(tmp_path / "half.npz"))


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def truncated(path: Path) -> bytes:
    np.savez(path, images=GREY, labels=LABELS)
    return path.read_bytes()[:300]


def flipped(path: Path) -> bytes:
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 256, (5, 60, 80), dtype=np.uint8), labels=LABELS)
    data = bytearray(path.read_bytes())
    data[4000] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    "content",
    [
        lambda _: b"",
        lambda _: b"not a zip",
        lambda _: b"PK\x03\x04" + b"\0" * 50,
        lambda _: npy(GREY),
        lambda path: pickle.dumps(Bomb(path.with_name("exploded"))),
        truncated,
        flipped,
    ],
    ids=["empty", "text", "zip magic", "npy", "pickle", "truncated", "flipped bit"],
)
def test_another_file_is_refused_and_not_run(tmp_path: Path, content: Callable[[Path], bytes]) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content(path))
    with pytest.raises(BadFile, match=r"expected a whole npz file, got .*bad\.npz"):
        Npz(str(path))
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"expected an \.npz file, got nothing that can be read at"):
        Npz(str(tmp_path / "none.npz"))
    with pytest.raises(BadFile):
        Npz(str(tmp_path))


@pytest.mark.parametrize(("size", "sentence"), [(0, "expected a size above zero, got 0"), (7, "expected a size of at most 6, got 7")])
def test_a_size_that_cannot_be_cut_is_refused(tmp_path: Path, size: int, sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        Npz(write(tmp_path), size)


@pytest.mark.parametrize(
    ("name", "size", "shape", "count", "classes"),
    [
        ("mnist_test.npz", None, (1, 28, 28), 9000, 10),
        ("cifar10_test.npz", None, (3, 32, 32), 4000, 10),
        ("cifar100_test.npz", None, (3, 32, 32), 4000, 100),
        ("tinyimagenet_val.npz", 48, (3, 48, 48), 1600, 200),
    ],
)
def test_real_files(
    shared_data: Callable[[str], Path], name: str, size: int | None, shape: tuple[int, ...], count: int, classes: int
) -> None:
    path = shared_data(name)
    dataset = Npz(str(path), size)
    assert (dataset.input_shape, len(dataset), len(dataset.schema.classes)) == (shape, count, classes)
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images"][[5, 700]].astype(float), file["labels"][[5, 700]]
    margin = (images.shape[1] - shape[1]) // 2
    images = images.reshape(2, *images.shape[1:3], -1).transpose(0, 3, 1, 2)[:, :, margin:, margin:][:, :, : shape[1], : shape[2]]
    batch = dataset.take(torch.tensor([5, 700]))
    np.testing.assert_allclose(dataset.schema.to_raw(batch.inputs).numpy() * 255, images, atol=1e-10)
    assert batch.labels.tolist() == labels.tolist()


def test_photographs_without_a_class_can_be_used(shared_data: Callable[[str], Path]) -> None:
    dataset = Npz(str(shared_data("highres_720.npz")), size=64)
    batch = dataset.take(torch.arange(24))
    assert batch.inputs.shape == (24, 3, 64, 64)
    assert batch.labels.min() >= 0
