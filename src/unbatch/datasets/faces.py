"""The faces that come with scikit-image: data to show an attack on without downloading anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from skimage.data import lfw_subset

from unbatch.datasets._pictures import PictureDataset, Pictures, pool

__all__ = ["Faces"]

COUNT = 100
"""scikit-image's subset holds this many faces, followed by as many pictures without one."""


@dataclass(frozen=True)
class Faces(PictureDataset):
    """100 faces of "Labeled Faces in the Wild", 25 x 25, grey.

    The subset has no names and nearly every picture shows somebody else, so each picture is a class of its own: person 0 to person 99.

    Example:
        >>> faces = Faces()
        >>> len(faces), faces.input_shape, len(faces.schema.classes)
        (100, (1, 25, 25), 100)
    """

    @property
    def pictures(self) -> Pictures:
        """The pool."""
        return _pictures()


@lru_cache(maxsize=1)
def _pictures() -> Pictures:
    subset = lfw_subset()  # type: ignore[no-untyped-call]
    images = np.asarray(subset[:COUNT], dtype=np.float64)[:, None]
    return pool(lambda indices: images[indices], np.arange(COUNT), images.shape[1:], tuple(f"person {i}" for i in range(COUNT)))
