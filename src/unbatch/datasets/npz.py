"""Pictures from one ``.npz`` file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unbatch.archives import read_npz
from unbatch.datasets._pictures import Floats, Ints, PictureDataset, Pictures, pool
from unbatch.errors import BadFile, Misuse

__all__ = ["Npz"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Npz(PictureDataset):
    """Pictures that ``numpy.savez`` wrote; read without running any code in the file.

    The file holds ``images``, uint8, (N, H, W) grey or (N, H, W, 3) color; ``labels``, int64, (N,); and, if wanted, ``classes``, the names
    of the classes, without which they are named by their number. A label of -1 says that the picture has no class: then picture i counts
    as one of class i modulo the number of classes.

    Attributes:
        path: of the file.
        size: side of the square that is cut from the middle of every picture, in pixels; None keeps the whole picture.

    Raises:
        BadFile: the file is missing, damaged or refused, or does not hold this.
        Misuse: the size is not between 1 and the shorter side of the pictures.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.npz"
        >>> np.savez(path, images=np.zeros((2, 9, 7, 3), np.uint8), labels=np.array([0, 4]))
        >>> Npz(str(path), size=5).input_shape, len(Npz(str(path)).schema.classes)
        ((3, 5, 5), 5)
    """

    path: str
    size: int | None = None

    def __post_init__(self) -> None:
        """Read the file now, so that a bad one is found before anything is computed."""
        if self.size is not None and self.size < 1:
            raise Misuse("a size above zero", str(self.size), "give the side of the square in pixels, or leave it out")
        _ = self.pictures

    @property
    def pictures(self) -> Pictures:
        """The pool."""
        path = Path(self.path).expanduser()
        try:
            state = path.stat()
        except OSError as error:
            raise BadFile("an .npz file", f"nothing that can be read at {self.path!r}", "check the path") from error
        return _pictures(path, self.size, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)
def _pictures(path: Path, size: int | None, _version: tuple[int, int]) -> Pictures:
    arrays = read_npz(path, wanted=("images", "labels", "classes"))
    images, labels = _checked_images(path, arrays), arrays.get("labels")
    if labels is None or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        came = "none" if labels is None else f"{labels.dtype} of shape {labels.shape}"
        raise BadFile(f"labels of type int64 and shape ({len(images)},) in {path}", came, "give every picture one class index")
    if labels.min() < -1:
        raise BadFile(f"labels from 0, or -1 for no class, in {path}", str(labels.min()), "count classes from 0")
    classes = _class_names(path, arrays, labels)
    labels = np.where(labels < 0, np.arange(len(labels)) % len(classes), labels)
    images = _middle(images, size)
    grey = images.ndim == 3

    def read(indices: Ints) -> Floats:
        chosen = images[indices]
        scaled: Floats = (chosen[:, None] if grey else chosen.transpose(0, 3, 1, 2)) / 255.0
        return scaled

    return pool(read, labels, (1 if grey else 3, *images.shape[1:3]), classes)


def _checked_images(path: Path, arrays: dict[str, Array]) -> Array:
    images = arrays.get("images")
    if images is None:
        raise BadFile(f"an array named 'images' in {path}", "none", "name the arrays images and labels")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or images.size == 0:
        came = f"{images.dtype} of shape {images.shape}"
        raise BadFile(f"images of type uint8 and shape (N, H, W) or (N, H, W, 3) in {path}", came, "convert them")
    return images


def _class_names(path: Path, arrays: dict[str, Array], labels: Array) -> tuple[str, ...]:
    needed = max(1, int(labels.max()) + 1)
    names = arrays.get("classes")
    if names is None:
        return tuple(map(str, range(needed)))
    if names.ndim != 1 or len(names) < needed:
        raise BadFile(f"a list of at least {needed} names in 'classes' in {path}", f"shape {names.shape}", "name every class that occurs")
    return tuple(map(str, names))


def _middle(images: Array, size: int | None) -> Array:
    if size is None:
        return images
    height, width = images.shape[1:3]
    if size > min(height, width):
        raise Misuse(f"a size of at most {min(height, width)}", str(size), f"the pictures have {height} x {width} pixels")
    top, left = (height - size) // 2, (width - size) // 2
    # A copy, so that the margins do not stay in memory.
    return images[:, top : top + size, left : left + size].copy()
