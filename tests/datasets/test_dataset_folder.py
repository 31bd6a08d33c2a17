"""Pictures in class folders: order, cutting, colors, and every way in which a folder can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbatch.datasets.folder import Folder
from unbatch.errors import BadFile, Misuse
from unbatch.plugins import build

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(path: Path, color: object, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def raw(dataset: Folder) -> torch.Tensor:
    return dataset.schema.to_raw(dataset.take(torch.arange(len(dataset))).inputs)


def test_classes_and_pictures_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    paint(tmp_path / "b" / "1.png", BLUE)
    paint(tmp_path / "a" / "2.png", GREEN)
    paint(tmp_path / "a" / "1.bmp", RED)
    dataset = Folder(str(tmp_path), size=4)
    assert dataset.schema.classes == ("a", "b")
    assert dataset.take(torch.arange(3)).labels.tolist() == [0, 0, 1]
    torch.testing.assert_close(raw(dataset)[:, :, 2, 2], torch.eye(3, dtype=torch.float64))


def test_other_files_hidden_ones_and_empty_classes_are_passed_over(tmp_path: Path) -> None:
    paint(tmp_path / "b" / "1.PNG", RED)
    paint(tmp_path / "stray.png", RED)
    paint(tmp_path / ".cache" / "1.png", RED)
    paint(tmp_path / "b" / ".1.png", RED)
    (tmp_path / "b" / "notes.txt").write_text("nothing")
    (tmp_path / "a").mkdir()
    dataset = Folder(str(tmp_path))
    assert (len(dataset), dataset.schema.classes) == (1, ("b",))


def test_pictures_are_cut_to_the_square_in_the_middle_before_they_are_resized(tmp_path: Path) -> None:
    columns = np.zeros((10, 30, 3), np.uint8)
    columns[:, 10:20] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(columns).save(tmp_path / "a" / "1.png")
    # Pillow's filter looks a little beyond the square; without the cut the outer columns would be black.
    assert raw(Folder(str(tmp_path), size=5)).min() > 0.9


def test_a_picture_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    np.testing.assert_allclose(raw(Folder(str(tmp_path), size=12))[0].numpy() * 255, pixels.transpose(2, 0, 1), atol=1e-10)


@pytest.mark.parametrize(("mode", "color"), [("L", 51), ("RGBA", (51, 51, 51, 255)), ("P", 51), ("1", 0)])
def test_every_kind_of_picture_becomes_color(tmp_path: Path, mode: str, color: object) -> None:
    paint(tmp_path / "a" / "1.png", color, mode=mode)
    dataset = Folder(str(tmp_path), size=8)
    assert dataset.input_shape == (3, 8, 8)
    assert raw(dataset).isfinite().all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.fromarray(np.concatenate([np.zeros((4, 8, 3), np.uint8), np.full((4, 8, 3), 255, np.uint8)]))
    exif = picture.getexif()
    exif[0x0112] = 3
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / "1.png", exif=exif)
    seen = raw(Folder(str(tmp_path), size=8))[0]
    assert seen[:, :4].min() > 0.99
    assert seen[:, 4:].max() < 0.01


def test_the_specification_sets_path_and_size(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", RED)
    assert build("datasets", f"folder:{tmp_path},size=8") == Folder(str(tmp_path), 8)


def test_a_folder_that_grew_is_listed_again(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", RED)
    assert len(Folder(str(tmp_path))) == 1
    paint(tmp_path / "b" / "1.png", BLUE)
    assert len(Folder(str(tmp_path))) == 2


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="expected a folder of class folders, got nothing that can be listed at"):
        Folder(str(tmp_path / "none"))


def test_a_file_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", RED)
    with pytest.raises(BadFile, match="expected a folder of class folders"):
        Folder(str(tmp_path / "a.png"))


@pytest.mark.parametrize("stray", [False, True])
def test_a_folder_without_class_folders_is_refused(tmp_path: Path, stray: bool) -> None:
    if stray:
        paint(tmp_path / "1.png", RED)
    with pytest.raises(BadFile, match=r"expected pictures in class folders in .*, got none"):
        Folder(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    paint(tmp_path / "a" / "1.png", RED)
    (tmp_path / "a" / "2.png").write_bytes(content)
    with pytest.raises(BadFile, match=r"got a file that cannot be read as one, '.*2\.png'"):
        Folder(str(tmp_path))


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "1.jpg")
    (tmp_path / "a" / "1.jpg").write_bytes((tmp_path / "a" / "1.jpg").read_bytes()[:900])
    with pytest.raises(BadFile, match=r"cannot be read as one, '.*1\.jpg'"):
        Folder(str(tmp_path))


def test_a_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="expected a size above zero, got 0"):
        Folder(str(tmp_path), size=0)
