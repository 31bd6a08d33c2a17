"""Pictures in folders, one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unbatch.datasets._pictures import Floats, Ints, PictureDataset, Pictures, pool
from unbatch.errors import BadFile, Misuse

__all__ = ["Folder"]

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Files that are taken for pictures; others, such as notes and thumbnail indices, are passed over."""


@dataclass(frozen=True)
class Folder(PictureDataset):
    """Pictures of any size in ``path/CLASS/PICTURE``, cut to a square in the middle, resized, in color.

    Classes and pictures are in the order of their names. Pictures are read when they are asked for, so the folder may be large.

    Attributes:
        path: of the folder that holds the class folders.
        size: side of the square that pictures are resized to, in pixels.

    Raises:
        BadFile: there is no such folder, no picture in it, or a picture cannot be read.
        Misuse: the size is not above zero.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (40, 30), "red").save(root / name / "1.png")
        >>> folder = Folder(str(root), size=8)
        >>> len(folder), folder.input_shape, folder.schema.classes
        (2, (3, 8, 8), ('cat', 'dog'))
    """

    path: str
    size: int = 32

    def __post_init__(self) -> None:
        """List the folder now, so that a bad one is found before anything is computed."""
        if self.size < 1:
            raise Misuse("a size above zero", str(self.size), "give the side of the square in pixels")
        _ = self.pictures

    @property
    def pictures(self) -> Pictures:
        """The pool."""
        root = Path(self.path).expanduser()
        try:
            folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
            state = tuple((folder, folder.stat().st_mtime_ns) for folder in folders)
        except OSError as error:
            raise BadFile("a folder of class folders", f"nothing that can be listed at {self.path!r}", "check the path") from error
        return _pictures(root, self.size, state)


@lru_cache(maxsize=4)
def _pictures(root: Path, size: int, folders: tuple[tuple[Path, int], ...]) -> Pictures:
    files: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    for folder, _ in folders:
        if found := sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")):
            files += found
            labels += [len(names)] * len(found)
            names.append(folder.name)
    if not files:
        raise BadFile(f"pictures in class folders in {root}", "none", "put the pictures of each class in a folder of its own")

    def read(indices: Ints) -> Floats:
        return np.stack([_picture(files[index], size) for index in indices]) if len(indices) else np.empty((0, 3, size, size))

    return pool(read, np.array(labels), (3, size, size), tuple(names))


def _picture(file: Path, size: int) -> Floats:
    """One picture, (3, size, size)."""
    try:
        with Image.open(file) as picture:
            square = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise BadFile("a picture", f"a file that cannot be read as one, {str(file)!r}", "repair it or take it out of the folder") from error
    return np.asarray(square).transpose(2, 0, 1) / 255.0
