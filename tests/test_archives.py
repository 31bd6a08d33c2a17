"""The one reader of archives, at the two doors that use it: a data set and a truth refuse the same files, in the same words."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unbatch.archives import read_npz
from unbatch.cli.configuration import defaults
from unbatch.datasets.npz import Npz
from unbatch.errors import BadFile
from unbatch.experiments import load_plan
from unbatch.importers import read_schema, read_tensors, read_truth
from unbatch.origin import source
from unbatch.reading import read_text

IMAGES, LABELS = np.zeros((3, 4, 4), np.uint8), np.arange(3)


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def claimed(shape: str) -> bytes:
    """An array whose header says what it likes, and which holds nothing."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def archive(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (("labels.npy", npy(LABELS)), *members):
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda p: np.savez(p, images=np.array([Payload(p.with_name("it-ran"))], object), labels=LABELS), "could run code"),
    "a giant that is not there": (lambda p: archive(p, ("images.npy", claimed("(1099511627776, 4, 4)"))), "bytes of 'images.npy'"),
    "a name twice": (lambda p: archive(p, ("images.npy", npy(IMAGES)), ("images", b"")), "two arrays 'images'"),
    "text in the place of an array": (lambda p: archive(p, ("images.npy", b"hello")), "another file, 'images'"),
    "another version": (lambda p: archive(p, ("images.npy", b"\x93NUMPY\x09\x00" + npy(IMAGES)[8:])), "version (9, 0)"),
    "a pipe": (os.mkfifo, "a pipe or a device"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "a pipe or a device"),
}


@pytest.mark.parametrize("reader", [lambda path: Npz(str(path)), read_truth, read_npz], ids=["data set", "truth", "both"])
@pytest.mark.parametrize("case", CASES)
def test_a_data_set_and_a_truth_refuse_the_same(tmp_path: Path, reader: Callable[[Path], object], case: str) -> None:
    make, complaint = CASES[case]
    make(tmp_path / "a.npz")
    with pytest.raises(BadFile) as caught:
        reader(tmp_path / "a.npz")
    assert complaint in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "a.npz", ("images.npy", npy(np.zeros((100, 1 << 10, 1 << 10), np.uint8))))
    monkeypatch.setattr("unbatch.archives._half_of_memory", lambda: 50 << 20)
    tracemalloc.start()
    try:
        for reader in (lambda: Npz(str(tmp_path / "a.npz")), lambda: read_truth(tmp_path / "a.npz")):
            with pytest.raises(BadFile, match=r"would take 0\.1"):
                reader()
        with pytest.raises(BadFile, match=r"would take 0\.1"):
            read_tensors(tmp_path / "a.npz", most=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_is_not_wanted_is_not_unfolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set may lie in one file with other arrays, whatever their size and kind."""
    archive(tmp_path / "a.npz", ("images.npy", npy(IMAGES)), ("more.npy", npy(np.zeros(100 << 20, np.uint8))), ("readme.txt", b"hello"))
    monkeypatch.setattr("unbatch.archives._half_of_memory", lambda: 50 << 20)
    assert len(Npz(str(tmp_path / "a.npz"))) == 3
    with pytest.raises(BadFile):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array", [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(2.5, ">f4"), np.array(["ä", "b"]), np.ones((0, 3))]
)
def test_what_is_read_is_what_was_written(tmp_path: Path, save: Callable[..., None], array: np.ndarray) -> None:
    save(tmp_path / "a.npz", one=array)
    (read,) = read_npz(tmp_path / "a.npz").values()
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


TEXTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "No such file"),
    "a folder": (lambda p: p.mkdir(), "Is a directory"),
    "a pipe": (os.mkfifo, "a pipe or a device"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "a pipe or a device"),
    "no text": (lambda p: p.write_bytes(b"\xff\xfe"), "codec can't decode"),
    "too much of it": (lambda p: p.write_text("x" * 101), "more than 100 bytes"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_cannot_be_read_is_one_sentence(tmp_path: Path, case: str) -> None:
    make, complaint = TEXTS[case]
    make(tmp_path / "a.toml")
    with pytest.raises(BadFile) as caught:
        read_text(tmp_path / "a.toml", "settings", "mend it", largest=100)
    assert complaint in str(caught.value)


READERS = {"columns": read_schema, "settings": lambda p: defaults(p, {}), "a hash": lambda p: source("update", p), "a plan": load_plan}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(BadFile, match="a pipe or a device"):
        read(tmp_path / "a.toml")
