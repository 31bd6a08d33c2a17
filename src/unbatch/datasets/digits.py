"""The handwritten digits that come with scikit-learn: small enough for any test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sklearn.datasets import load_digits

from unbatch.datasets._pictures import PictureDataset, Pictures, pool

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits(PictureDataset):
    """1797 digits, 8 x 8, grey, 17 levels, 10 classes.

    Example:
        >>> digits = Digits()
        >>> len(digits), digits.input_shape, digits.schema.classes[-1]
        (1797, (1, 8, 8), '9')
    """

    @property
    def pictures(self) -> Pictures:
        """The pool."""
        return _pictures()


@lru_cache(maxsize=1)
def _pictures() -> Pictures:
    levels, labels = load_digits(return_X_y=True)
    images = levels.reshape(-1, 1, 8, 8) / 16
    return pool(lambda indices: images[indices], labels, (1, 8, 8), tuple("0123456789"))
