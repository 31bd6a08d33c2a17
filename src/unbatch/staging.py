"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unbatch.errors import OutputFailed

__all__ = ["check_writable", "staged"]


def check_writable(folder: Path) -> None:
    """Try to write where ``folder`` is or would be, and leave nothing behind: worth doing before long work.

    Raises:
        OutputFailed: nothing can be written there.

    Example:
        >>> check_writable(Path(__file__) / "report")
        Traceback (most recent call last):
        unbatch.errors.OutputFailed: cannot write to '...report': ...
    """
    with _explained(folder), tempfile.TemporaryDirectory(prefix=".unbatch-", dir=_nearest(folder)):
        pass


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, whose files move to ``folder`` if the block ends well and vanish if it does not.

    Other files that are already in ``folder`` stay; those of the same name are replaced.

    Raises:
        OutputFailed: the files cannot be written or moved.
    """
    # Beside the target, so that moving is renaming: a reader never sees half a file.
    with _explained(folder), tempfile.TemporaryDirectory(prefix=".unbatch-", dir=_nearest(folder)) as scratch:
        # A folder inside: the scratch folder itself is private to its owner, which the target should not silently become.
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            for file in sorted(fresh.iterdir()):
                file.replace(folder / file.name)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            fresh.rename(folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputFailed(f"cannot write to '{folder}': {error.strerror or error}: choose a folder that can be written") from error


def _nearest(folder: Path) -> Path:
    """The folder itself if it exists, or else the nearest one above it that does."""
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would fail on loops of links)
    nearest = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(0, f"'{nearest}' is not a folder")
    return nearest
