"""Files that belong together, in one folder: all of them or none, whoever else writes there and whenever the process is killed.

They are written into a scratch folder inside the place where they belong, which is renamed when they are whole. From then on they are the
report, and whoever comes next moves into place what a killed run could not. A scratch folder that never became whole is removed by the
next run: what was recovered of somebody's data does not stay behind. A lock keeps writers apart; the system takes it back from the dead.

    .unbatch-lock          held while somebody writes or reads
    .unbatch-new-…         being written: removed by the next run
    .unbatch-whole         whole: moved into place by the next run

What is written is for its owner alone: files 0600, new folders 0700.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from unbatch.errors import OutputFailed

__all__ = ["WHOLE", "Writer", "check_free", "held", "publish"]

Writer = str | Callable[[Path], object]
"""What becomes of a file: its text, or a function that writes it to a path."""

LOCK: Final = ".unbatch-lock"
SCRATCH: Final = ".unbatch-new-"
WHOLE: Final = ".unbatch-whole"
GONE: Final = ".unbatch-gone"
"""Ending of an empty file in place of one that is to be removed."""

PATIENCE: Final = 60.0
"""Seconds to wait for another writer, who needs as long as the disk does."""

ATTEMPTS: Final = 10
"""How often a folder is made again that another writer removes, as it does with one that it made and could not fill."""


def publish(folder: Path, writers: Mapping[str, Writer], stale: Sequence[str] = ()) -> None:
    """Write files so that they appear all complete or not at all, after what an earlier run left there is put in order.

    Args:
        folder: where to; made if it is missing, and removed again on failure, or if there is nothing to write.
        writers: file name -> its text, or a function that writes it to the path that it is given. They run while other writers wait.
        stale: names to remove when the new files appear, so that old and new are never mixed.

    Raises:
        OutputFailed: something could not be written, or another writer does not end; earlier files are left alone.
    """
    try:
        _refuse_file(folder)
        with held(folder, make=True):
            check_free(folder, [*writers, *stale])
            if writers:
                _write_whole(folder, writers, [name for name in stale if name not in writers])
                _into_place(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputFailed(f"expected an output folder that can be written, got {str(folder)!r} ({reason}): name another one") from error


def check_free(folder: Path, names: Sequence[str]) -> None:
    """Refuse a place where these files cannot be.

    Raises:
        OutputFailed: the folder is a file, or a folder has one of the names.
    """
    _refuse_file(folder)
    for name in names:
        if (folder / name).is_dir():
            raise OutputFailed(
                f"expected a free place for {name!r}, got a folder of that name in {str(folder)!r}: name another output folder"
            )


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputFailed(f"expected an output folder, got the file {str(folder)!r}: name another one")


@contextmanager
def held(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Keep others out of a folder while the block runs, with what killed runs left in it put in order.

    Args:
        folder: which.
        make: whether to make it if it is missing. What was made and is empty at the end is removed again.

    Raises:
        OSError: the folder is missing or cannot be written, or another writer does not end.
    """
    made: list[Path] = []
    lock = -1
    try:
        lock = _lock(folder, made if make else None)
        _recover(folder)
        yield
    finally:
        if lock >= 0:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(lock)
        for path in reversed(made):
            with suppress(OSError):  # it is not empty: the files are in it, as they should be
                path.rmdir()


def _lock(folder: Path, made: list[Path] | None) -> int:
    """The descriptor of the lock, once it is ours; folders that had to be made for it are added to the list, if there is one."""
    end, attempts = time.monotonic() + PATIENCE, 0
    while True:
        try:
            if made is not None:
                _make(folder, made)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except FileNotFoundError:
            attempts += 1
            if made is None or attempts == ATTEMPTS:
                raise
            continue
        # Its last owner removes the file: then ours is of that name no more, and somebody else may have made the next.
        if _taken(lock) and _same(lock, folder / LOCK):
            return lock
        os.close(lock)
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, "another process is writing there")
        time.sleep(0.01)


def _make(folder: Path, made: list[Path]) -> None:
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            made.append(path)


def _taken(lock: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some file systems know no locks: there writers are kept apart by their scratch folders' names alone.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _write_whole(folder: Path, writers: Mapping[str, Writer], stale: Sequence[str]) -> None:
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=SCRATCH))  # 0700
    try:
        for name, write in writers.items():
            if isinstance(write, str):
                (scratch / name).write_text(write, encoding="utf-8")
            else:
                write(scratch / name)
            (scratch / name).chmod(0o600)
            _sync(scratch / name)
        for name in stale:
            (scratch / f"{name}{GONE}").touch(mode=0o600)
        _sync(scratch)
        scratch.rename(folder / WHOLE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    """Onto the disk, so that what is renamed later is whole even when the power fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that cannot
            raise
    finally:
        os.close(descriptor)


def _recover(folder: Path) -> None:
    """Remove what killed runs were writing, and move into place what they had written whole."""
    for path in folder.glob(".unbatch-*"):  # former versions had no "new" in the name
        if path.name != WHOLE and _ours(path):
            shutil.rmtree(path)
    if _ours(folder / WHOLE):
        _into_place(folder)


def _ours(path: Path) -> bool:
    """Whether this is a folder, and of ours or of the one whose place it is in: in a place like /tmp anyone could make one."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return False
    owners = {os.geteuid(), path.parent.stat().st_uid} if hasattr(os, "geteuid") else {state.st_uid}
    return path.is_dir() and not path.is_symlink() and state.st_uid in owners


def _into_place(folder: Path) -> None:
    """Move what is whole to where it belongs. Done again from wherever it was broken off, it ends the same."""
    try:
        _move(folder)
    except KeyboardInterrupt:  # too late to stop: half of the new report is worse than none
        _move(folder)
        raise


def _move(folder: Path) -> None:
    whole = folder / WHOLE
    names = sorted((path.name for path in whole.iterdir()), key=lambda name: (name.endswith(".json"), name))
    # JSON is what programs look for: the old goes first and the new comes last, so that it never lies beside files of another run.
    for name in reversed(names):
        if name.endswith((".json", GONE)):
            (folder / name.removesuffix(GONE)).unlink(missing_ok=True)
    for name in names:
        if name.endswith(GONE):
            (whole / name).unlink()
        else:
            (whole / name).replace(folder / name)
    whole.rmdir()
